"""What the two exchange scripts share: the safetensors format with numpy alone, files of PyTorch, and the names of FLARE.py.

Parameter names and layouts of flare.cpp are those of FLARE.py's FLAREModel (fields) and ModelWrapper (Long Range Arena). Only
FLARE.py's Transformer for fields names four modules otherwise; TRANSFORMER_NAMES lists them.
"""
import json
import os
import pathlib
import re
import struct
import sys

import numpy as np

TRANSFORMER_NAMES = {"norm1": "ln1", "norm2": "ln2", "out_proj.0": "out_proj.ln", "out_proj.1": "out_proj.mlp"}  # here: there
NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1", "BOOL": "?"}


class ExchangeError(Exception):
    """One line: what, where, what to do."""


def main_of(run):
    """Calls run(); an ExchangeError or a file that cannot be opened ends the program with one line on stderr and exit code 3."""
    try:
        run()
    except (ExchangeError, OSError) as error:
        script = os.path.basename(sys.argv[0])
        print(f"{script}: {error}", file=sys.stderr)
        sys.exit(3)


def read_safetensors(path):
    """-> ({name: array}, {key: text}). BF16, which numpy lacks, is widened to float32."""
    raw = pathlib.Path(path).read_bytes()
    try:
        (length,) = struct.unpack_from("<Q", raw)
        if length > len(raw) - 8:
            raise ValueError("it is shorter than its header says")
        header = json.loads(raw[8 : 8 + length])
        metadata, data, arrays = header.pop("__metadata__", {}), memoryview(raw)[8 + length :], {}
        for name, entry in header.items():
            begin, end = entry["data_offsets"]
            kind = "<u2" if entry["dtype"] == "BF16" else NUMPY_TYPES.get(entry["dtype"])
            if kind is None:
                raise ValueError(f"{name} has dtype {entry['dtype']}, which is not understood")
            array = np.frombuffer(data[begin:end], dtype=kind).reshape(entry["shape"])
            arrays[name] = (array.astype("<u4") << 16).view("<f4") if entry["dtype"] == "BF16" else array
        return arrays, metadata
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ExchangeError(f"{path}: not a safetensors file that can be read: {error}") from None


def write_safetensors(path, arrays, metadata):
    """Writes aside, then renames. Widest dtypes first, then by name, as flare.cpp does."""
    kinds = {np.dtype(numpy_type): name for name, numpy_type in NUMPY_TYPES.items()}
    header, chunks, at = {"__metadata__": {k: metadata[k] for k in sorted(metadata)}}, [], 0
    for name in sorted(arrays, key=lambda n: (-arrays[n].dtype.itemsize, n)):
        chunk = np.ascontiguousarray(arrays[name]).tobytes()
        header[name] = {"dtype": kinds[arrays[name].dtype], "shape": list(arrays[name].shape), "data_offsets": [at, at + len(chunk)]}
        chunks.append(chunk)
        at += len(chunk)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    write_aside(path, lambda file: file.write(b"".join([struct.pack("<Q", len(text)), text, *chunks])))


def write_aside(path, write):
    """Nothing half-written at `path`: write(file) fills a file beside it, which then takes its name."""
    aside = f"{path}.writing"
    try:
        with open(aside, "wb") as file:
            write(file)
        os.replace(aside, path)
    finally:
        if os.path.exists(aside):
            os.remove(aside)


def import_torch(path):
    try:
        import torch
    except ImportError as error:
        raise ExchangeError(f"{path}: .pt files need PyTorch, which this Python lacks ({error}); use .safetensors") from None
    return torch


def is_torch_file(path):
    return pathlib.Path(path).suffix in (".pt", ".pth", ".bin")


def to_flare_py(names):
    """{our name: FLARE.py's name}; they differ in FLARE.py's Transformer for fields alone, which `names` show by their modules."""
    is_transformer = any(n.startswith("in_proj.") for n in names) and any(".att.qkv_proj." in n for n in names)
    return {name: _renamed(name, TRANSFORMER_NAMES) if is_transformer else name for name in names}


def from_flare_py(name):
    """Our name of a tensor of FLARE.py's, wrappers of its module (torch.compile, data parallel, averages) taken off."""
    name = name.replace("_orig_mod.", "")
    while name.startswith("module."):
        name = name[len("module.") :]
    return _renamed(name, {there: here for here, there in TRANSFORMER_NAMES.items()})


def _renamed(name, modules):
    for old, new in modules.items():
        name = re.sub(rf"(^|\.){re.escape(old)}\.", rf"\g<1>{new}.", name)
    return name


def weights_of_run(run, checkpoint=None, averaged=True):
    """The file a run is judged by: the best checkpoint, else the last; the moving average where there is one."""
    for name in [checkpoint] if checkpoint else ["best", "last"]:
        for file in ["ema.safetensors"] * averaged + ["model.safetensors"]:
            path = pathlib.Path(run) / "checkpoints" / name / file
            if path.exists():
                return path
    raise ExchangeError(f"{run}: has no checkpoint{' ' + checkpoint if checkpoint else ''}; train first, or name a .safetensors file")
