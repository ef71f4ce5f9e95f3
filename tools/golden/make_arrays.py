#!/usr/bin/env python3
"""Writes tests/golden/published/: tiny files in the formats in which the PDE benchmarks are published, by the libraries that write
such files (numpy, scipy, h5py), for the tests of the importers. Element [i,j,k,...] of every array is its row-major index plus an
offset, so that the tests know what to expect.   python3 tools/golden/make_arrays.py [folder]
"""
import pathlib
import sys

import h5py
import numpy as np
import scipy.io

root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parents[2] / "tests/golden/published")


def count(shape, start=0.0, dtype=np.float64):
    return (np.arange(np.prod(shape)).reshape(shape) + start).astype(dtype)


def save_v73(path, arrays):
    """As MATLAB does it: a text header in front of an HDF5 file whose axes are reversed."""
    with h5py.File(path, "w", userblock_size=512) as f:
        for name, a in arrays.items():
            d = f.create_dataset(name, data=np.ascontiguousarray(a.T))
            # MATLAB's attribute claims to end with a zero and has no room for it; h5py's own would be read one letter short.
            text = h5py.h5t.C_S1.copy()
            text.set_size(6)
            attribute = h5py.h5a.create(d.id, b"MATLAB_class", text, h5py.h5s.create(h5py.h5s.SCALAR))
            attribute.write(np.array(b"single" if a.dtype == np.float32 else b"double", dtype="S6"), mtype=text)
    with open(path, "r+b") as f:
        f.write(b"MATLAB 7.3 MAT-file, made by make_arrays.py".ljust(116) + b"\0" * 8 + b"\x00\x02IM")


def darcy(folder, save):
    folder.mkdir(parents=True, exist_ok=True)
    for k, name in enumerate(["smooth1", "smooth2"]):
        save(folder / f"piececonst_r421_N1024_{name}.mat", {"coeff": count((3, 6, 6), 1000 * k), "sol": count((3, 6, 6), 1000 * k + 500, np.float32)})


darcy(root / "darcy_v5", lambda path, arrays: scipy.io.savemat(path, arrays, do_compression=True))
darcy(root / "darcy_v73", save_v73)
scipy.io.savemat(root / "plas_N987_T20.mat", {"input": count((4, 3)), "output": count((4, 3, 2, 2, 4), 100)})
scipy.io.savemat(root / "kinds.mat", {"whole": count((2, 3), dtype=np.int16), "phase": count((2, 3)) > 2, "text": "no", "cell": np.array([1, "a"], dtype=object),
                                      "complex": np.array([1 + 2j])})

(root / "Meshes").mkdir(parents=True, exist_ok=True)
np.save(root / "Meshes/Random_UnitCell_XY_10.npy", np.asfortranarray(count((5, 2, 8))))
with open(root / "Meshes/Random_UnitCell_sigma_10.npy", "wb") as f:
    np.lib.format.write_array(f, count((5, 8), 1000, ">f8"), version=(2, 0))
np.savez_compressed(root / "arrays.npz", x=count((40, 50), dtype=np.float32), y=count((3,), dtype=">i8"), notes=np.array([{"a": 1}], dtype=object))
np.savez(root / "stored.npz", only=np.asfortranarray(count((4, 3), dtype=np.float16)))


def mesh(path, points, fields, name, start, n, columns, **others):
    """A sample of n points with so many columns of values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{points: count((n, 3), start, np.float32), name: count((n, columns), start + 100, fields)}, **others)


for k, split in [(2, "train"), (10, "train"), (4, "test")]:
    mesh(root / f"drivaerml/{split}/run_{k}.npz", "surface_mesh_centers", np.float32, "surface_fields", 1000 * k, 4, 4)
for k, n, split in [(1, 3, "train"), (2, 5, "train"), (3, 2, "test")]:
    mesh(root / f"lpbf/{split}/part_{k}.npz", "pos", np.float64, "disp", 1000 * k, n, 3, elems=count((1, 8), dtype=np.int64),
         vmstr=count((n,)), _metadata=np.array(['{"metadata": {}}'], dtype=object))
