/// Importers of published files: formats written by other libraries (tests/golden/published, made by tools/golden/make_arrays.py),
/// the published splits and scales, and what is said of files that cannot be used.
#include "datasets/import/mat.h"
#include "datasets/import/npz.h"
#include "datasets/import/vtk.h"
#include "datasets/pde/darcy.h"
#include "datasets/pde/published.h"
#include "tests/dataset_fixtures.h"
#include "tests/pde_fixtures.h"

namespace {

const std::string kPublished = std::string(kSourceDir) + "/tests/golden/published";

bool skips_mat() {
  if (!can_read_mat()) std::printf("skipped: .mat files (this build has no libmatio)\n");
  return !can_read_mat();
}

Tensor counting(const Shape& shape, double start = 0, DType dtype = DType::f64) {
  const Tensor t = Tensor::empty(shape, DType::f64);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<double>()[i] = start + static_cast<double>(i);
  return cast_to(t, dtype);
}

/// A copy of a file, cut to `share` of its size.
void cut_copy(const std::string& from, const std::string& to, double share) {
  fs::create_directories(fs::path(to).parent_path());
  const std::string bytes = read_file(from);
  put(to, std::string_view(bytes).substr(0, static_cast<size_t>(static_cast<double>(bytes.size()) * share)));
}

/// Nothing but these entries is in the folder: no half-written data set.
void check_untouched(const TemporaryFolder& tmp, int64_t entries) { CHECK(tmp.entries() == entries); }

}  // namespace

TEST_CASE("npz: deflated and stored members, written by numpy") {
  const NpzFile archive(kPublished + "/arrays.npz");
  CHECK(archive.names() == std::vector<std::string>{"notes", "x", "y"});
  const Tensor x = archive.read("x"), y = archive.read("y");
  CHECK(x.dtype() == DType::f32);
  CHECK(x.shape() == Shape{40, 50});
  for (int64_t i = 0; i < x.numel(); ++i) REQUIRE(x.item(i) == static_cast<double>(i));
  CHECK(y.to_vector() == std::vector<double>{0, 1, 2});
  CHECK(archive.is_pickled("notes"));
  CHECK_FALSE(archive.is_pickled("x"));
  data_error([&] { archive.read("notes"); }, "member \"notes\": holds Python objects");
  data_error([&] { archive.read("z"); }, "arrays.npz: has no member \"z\"; it has \"notes\", \"x\", \"y\"");
  data_error([&] { read_array(kPublished + "/arrays.npz"); }, "holds several arrays");
  const Tensor only = read_array(kPublished + "/stored.npz");  // f2, Fortran order
  CHECK(only.shape() == Shape{4, 3});
  for (int64_t i = 0; i < 12; ++i) CHECK(only.item(i) == static_cast<double>(i));
}

TEST_CASE("npz: damaged archives are refused") {
  const TemporaryFolder tmp;
  const std::string good = read_file(kPublished + "/arrays.npz"), path = tmp / "a.npz";
  for (size_t n = 0; n < good.size(); n += 97) {
    put(path, std::string_view(good).substr(0, n));
    data_error([&] { NpzFile(path).read("x"); }, "a.npz");
  }
  // A changed byte is found by the CRC, by inflate, or by the directory's own checks; names may change as well.
  int64_t refused = 0, changed = 0;
  for (size_t at = 0; at < good.size(); at += 13) {
    std::string bad = good;
    bad[at] = static_cast<char>(bad[at] ^ 0x5a);
    put(path, bad);
    ++changed;
    try {
      const Tensor x = NpzFile(path).read("x");
      REQUIRE(x.item(1999) == 1999);  // the byte was one that does not matter
    } catch (const DataError&) { ++refused; }
  }
  CHECK(refused > changed / 2);
  put(path, "PK\x03\x04 but then something else entirely, long enough");
  data_error([&] { NpzFile{path}; }, "has no zip directory at its end");
  put(path, "\x93NUMPY");
  data_error([&] { NpzFile{path}; }, "is not a .npz archive");
}

TEST_CASE("mat: version 5 and 7.3 files of scipy and h5py") {
  if (skips_mat()) return;
  for (const std::string folder : {"/darcy_v5", "/darcy_v73"}) {
    const std::string path = kPublished + folder + "/piececonst_r421_N1024_smooth2.mat";
    const Tensor coeff = read_mat(path, "coeff"), sol = read_mat(path, "sol");
    CHECK(coeff.shape() == Shape{3, 6, 6});
    CHECK(coeff.dtype() == DType::f64);
    CHECK(sol.dtype() == DType::f32);
    for (int64_t i = 0; i < 108; ++i) {
      CHECK(coeff.item(i) == 1000 + static_cast<double>(i));
      CHECK(sol.item(i) == 1500 + static_cast<double>(i));
    }
    const Tensor strided = read_mat(path, "coeff", {2, 5, 3});
    CHECK(strided.shape() == Shape{2, 2, 2});
    CHECK(strided.to_vector() == std::vector<double>{1000, 1003, 1030, 1033, 1072, 1075, 1102, 1105});
    data_error([&] { read_mat(path, "coef"); }, "has no variable \"coef\"; it has \"coeff\", \"sol\"");
  }
  const std::string kinds = kPublished + "/kinds.mat";
  CHECK(read_mat(kinds, "whole").to_vector() == std::vector<double>{0, 1, 2, 3, 4, 5});
  CHECK(read_mat(kinds, "phase").to_vector() == std::vector<double>{0, 0, 0, 1, 1, 1});
  for (const char* name : {"text", "cell", "complex"})
    data_error([&] { read_mat(kinds, name); }, "is not an array of real numbers");
}

TEST_CASE("mat: truncated and foreign files are refused") {
  if (skips_mat()) return;
  const TemporaryFolder tmp;
  for (const std::string folder : {"/darcy_v5", "/darcy_v73"})
    for (const double share : {0.0, 0.1, 0.3, 0.6, 0.9, 0.99}) {
      cut_copy(kPublished + folder + "/piececonst_r421_N1024_smooth2.mat", tmp / "cut.mat", share);
      data_error([&] { read_mat(tmp / "cut.mat", "sol"); }, "cut.mat: ");
    }
  put(tmp / "text.mat", std::string(300, 'x'));
  data_error([&] { read_mat(tmp / "text.mat", "x"); }, "is not a MATLAB file of version 5 or 7.3");
  data_error([&] { read_mat(tmp / "none.mat", "x"); }, "none.mat: not found");
}

TEST_CASE("arrays that python writes while the tests run") {
  const TemporaryFolder tmp;
  put(tmp / "write.py", R"(
import sys, numpy as np, scipy.io, h5py
out = sys.argv[1]
a = np.random.default_rng(3).normal(size=(4, 5, 6))
np.save(out + '/a.npy', a)
np.savez_compressed(out + '/a.npz', a=np.asfortranarray(a).astype('>f8'), o=np.array([None], dtype=object))
scipy.io.savemat(out + '/v5.mat', {'a': a}, do_compression=False)
scipy.io.savemat(out + '/v5z.mat', {'a': a}, do_compression=True)
with h5py.File(out + '/v73.mat', 'w', userblock_size=512) as f:
    d = f.create_dataset('a', data=a.T, chunks=True, compression='gzip')
    text = h5py.h5t.C_S1.copy()
    text.set_size(6)
    h5py.h5a.create(d.id, b'MATLAB_class', text, h5py.h5s.create(h5py.h5s.SCALAR)).write(np.array(b'double', dtype='S6'), mtype=text)
with open(out + '/v73.mat', 'r+b') as f:
    f.write(b'MATLAB 7.3 MAT-file'.ljust(116) + bytes(8) + b'\x00\x02IM')
)");
  if (std::system(("python3 " + (tmp / "write.py") + " " + tmp.path + " >/dev/null 2>&1").c_str()) != 0) {
    std::printf("skipped: arrays written by python3 (it lacks numpy, scipy or h5py)\n");
    return;
  }
  const std::vector<double> expected = read_npy(tmp / "a.npy").to_vector();
  CHECK(read_array(tmp / "a.npz").to_vector() == expected);
  if (skips_mat()) return;
  for (const char* file : {"v5.mat", "v5z.mat", "v73.mat"}) CHECK_MESSAGE(read_mat(tmp / file, "a").to_vector() == expected, file);
}

TEST_CASE("vtk: ASCII and binary, cells of both forms, unused points") {
  const TemporaryFolder tmp;
  const std::string head = "# vtk DataFile Version 2.0\na car\n";
  put(tmp / "ascii.vtk",
      head +
          "ASCII\nDATASET UNSTRUCTURED_GRID\nPOINTS 5 float\n0 0 0 1 0 0\n9 9 9 1 1 0\n0 1 -0.5\nCELLS 2 8\n3 0 1 3\n3 0 3 4\n"
          "CELL_TYPES 2\n5 5\nPOINT_DATA 5\nSCALARS p float\n");
  const VtkMesh mesh = read_vtk(tmp / "ascii.vtk");
  CHECK(mesh.points.shape() == Shape{5, 3});
  CHECK(mesh.points.item(14) == -0.5);
  CHECK(mesh.used == std::vector<int64_t>{0, 1, 3, 4});

  const std::string binary = head + "BINARY\nDATASET POLYDATA\nPOINTS 4 double\n" +
                             raw<double>({0, 0, 0, 1, 0, 0, 1, 1, 0, 7, 8, -9.25}, true) + "\nPOLYGONS 1 4\n" +
                             raw<int32_t>({3, 0, 1, 3}, true) + "\n";
  put(tmp / "binary.vtk", binary);
  CHECK(read_vtk(tmp / "binary.vtk").points.item(11) == -9.25);
  CHECK(read_vtk(tmp / "binary.vtk").used == std::vector<int64_t>{0, 1, 3});
  put(tmp / "new.vtk",
      "# vtk DataFile Version 5.1\nt\nASCII\nDATASET POLYDATA\nPOINTS 3 float\n0 0 0 1 1 1 2 2 2\nPOLYGONS 2 2\nOFFSETS "
      "vtktypeint64\n0 2\nCONNECTIVITY vtktypeint64\n2 1\n");
  CHECK(read_vtk(tmp / "new.vtk").used == std::vector<int64_t>{1, 2});

  const size_t points_end = binary.find("\nPOLYGONS"), cells_end = binary.size() - 1;
  for (size_t n = 0; n < cells_end; ++n) {
    if (n >= points_end && n <= points_end + 1) continue;  // points alone are a mesh
    put(tmp / "cut.vtk", std::string_view(binary).substr(0, n));
    data_error([&] { read_vtk(tmp / "cut.vtk"); }, "cut.vtk: ");
  }
  put(tmp / "bad.vtk", head + "ASCII\nDATASET POLYDATA\nPOINTS 2 float\n0 0 0 1 1 1\nPOLYGONS 1 4\n3 0 1 7\n");
  data_error([&] { read_vtk(tmp / "bad.vtk"); }, "a cell uses point 7 of 2");
  put(tmp / "bad.vtk", head + "ASCII\nDATASET POLYDATA\nPOINTS 999999999 float\n0 0 0");
  data_error([&] { read_vtk(tmp / "bad.vtk"); }, "is no count");
  put(tmp / "bad.vtk", "solid car\n");
  data_error([&] { read_vtk(tmp / "bad.vtk"); }, "is not a legacy VTK file");
}

TEST_CASE("elasticity: samples lie along the last axis of the published files") {
  const TemporaryFolder tmp;
  ElasticitySizes sizes;
  sizes.points = 5;
  sizes.splits = {{"train", 0, 4}, {"val", 4, 1}, {"test", 6, 2}};
  import_elasticity(kPublished, tmp / "out", sizes);
  const PreparedFolder folder(tmp / "out");
  CHECK(folder.info().splits == std::map<std::string, int64_t>{{"train", 4}, {"val", 1}, {"test", 2}});
  CHECK_FALSE(folder.info().normalisation.contains("x"));
  const Tensor x = read_npy(tmp / "out/test.x.npy"), y = read_npy(tmp / "out/test.y.npy");
  CHECK(x.shape() == Shape{2, 5, 2});
  for (int64_t s = 0; s < 2; ++s)
    for (int64_t p = 0; p < 5; ++p) {
      for (int64_t c = 0; c < 2; ++c) CHECK(x.item((s * 5 + p) * 2 + c) == static_cast<double>((p * 2 + c) * 8 + 6 + s));
      CHECK(y.item(s * 5 + p) == 1000 + static_cast<double>(p * 8 + 6 + s));
    }
  // Stress of samples 0 … 3: 1000 + 8p + s, so mean 1017.5, and the deviation with n-1.
  CHECK(folder.info().normalisation.at("y").mean[0] == doctest::Approx(1017.5));
  CHECK(folder.info().normalisation.at("y").std[0] == doctest::Approx(std::sqrt((64 * 2.0 + 1.25) * 20 / 19)));

  const std::string source = tmp / "source";
  fs::create_directories(source);
  const std::string xy = source + "/Random_UnitCell_XY_10.npy", sigma = source + "/Random_UnitCell_sigma_10.npy";
  const auto import = [&] { import_elasticity(source, tmp / "bad", sizes); };
  data_error(import, "Random_UnitCell_XY_10.npy: not found; elasticity needs");
  write_npy(xy, counting({5, 2, 8}));
  data_error(import, "Random_UnitCell_sigma_10.npy: not found");
  write_npy(sigma, counting({5, 7}));
  data_error(import, "sigma_10.npy: has shape [5,7], expected [5,8]");
  write_npy(sigma, cast_to(counting({5, 8}), DType::i32));
  data_error(import, "holds i32, expected floating-point");
  const Tensor bad = counting({5, 8});
  bad.data<double>()[2 * 8 + 6] = NAN;
  write_npy(sigma, bad);
  data_error(import, "elasticity: split test, sample 0: y is not finite at point 2, channel 0");
  write_npy(xy, counting({5, 2, 6}));
  write_npy(sigma, counting({5, 6}));
  data_error(import, "has 6 samples; split test needs those from 6 to 7");
  write_npy(xy, counting({5, 2, 8}));
  cut_copy(kPublished + "/Meshes/Random_UnitCell_sigma_10.npy", sigma, 0.9);
  data_error(import, "is truncated");
  put(sigma,
      std::string("\x93NUMPY\x01\x00\x46\x00", 10) + "{'descr': '|O', 'fortran_order': False, 'shape': (5, 8), }            \n");
  data_error(import, "Python objects");
  data_error([&] { import_elasticity(tmp / "nowhere", tmp / "bad", sizes); }, "no such folder");
  check_untouched(tmp, 2);  // out, source
}

TEST_CASE("airfoil and pipe: one quantity of a body-fitted grid") {
  const TemporaryFolder tmp;
  const std::string source = tmp / "source";
  fs::create_directories(source + "/naca");
  StructuredSizes sizes;
  sizes.h = 3;
  sizes.w = 2;
  sizes.splits = {{"train", 0, 4}, {"test", 4, 2}, {"val", 6, 2}};
  write_npy(source + "/naca/NACA_Cylinder_X.npy", counting({7, 3, 2}));
  write_npy(source + "/naca/NACA_Cylinder_Y.npy", counting({7, 3, 2}, 500));
  write_npy(source + "/naca/NACA_Cylinder_Q.npy", counting({7, 5, 3, 2}, 1000));
  import_airfoil(source, tmp / "airfoil", sizes);
  const PreparedFolder airfoil(tmp / "airfoil");
  CHECK(airfoil.info().splits == std::map<std::string, int64_t>{{"train", 4}, {"test", 2}, {"val", 1}});  // one of two is left
  CHECK(airfoil.info().grid == std::vector<int64_t>{3, 2});
  const Tensor x = read_npy(tmp / "airfoil/test.x.npy"), y = read_npy(tmp / "airfoil/test.y.npy");
  for (int64_t p = 0; p < 6; ++p) {
    CHECK(x.item(2 * (6 + p)) == static_cast<double>(5 * 6 + p));
    CHECK(x.item(2 * (6 + p) + 1) == 500 + static_cast<double>(5 * 6 + p));
    CHECK(y.item(6 + p) == 1000 + static_cast<double>(5 * 30 + 4 * 6 + p));  // quantity 4 of sample 5
  }
  CHECK_FALSE(airfoil.info().normalisation.contains("x"));

  for (const char* name : {"X", "Y"}) write_npy(source + "/Pipe_" + name + ".npy", counting({6, 3, 2}));
  write_npy(source + "/Pipe_Q.npy", counting({6, 3, 3, 2}, 1000));
  import_pipe(source, tmp / "pipe", sizes);
  const PreparedFolder pipe(tmp / "pipe");
  CHECK_FALSE(pipe.has_split("val"));  // the files end with the test split
  CHECK(read_npy(tmp / "pipe/train.y.npy").item(7) == 1000 + 18 + 1);
  CHECK(pipe.info().normalisation.at("x").mean.size() == 2);
  CHECK(pipe.info().normalisation.at("x").mean[0] == doctest::Approx(11.5));
  write_npy(source + "/Pipe_Q.npy", counting({6, 3, 2, 3}, 1000));
  data_error([&] { import_pipe(source, tmp / "bad", sizes); }, "Pipe_Q.npy: has shape [6,3,2,3], expected [6,-1,3,2]");
  check_untouched(tmp, 3);
}

TEST_CASE("navier-stokes and plasticity: time steps become channels") {
  const TemporaryFolder tmp;
  fs::create_directories(tmp / "ns");
  write_npy(tmp / "ns/NavierStokes_V1e-5_N1200_T20.npy", counting({5, 4, 4, 6}, 0, DType::f32));
  NavierStokesSizes sizes;
  sizes.side = 4;
  sizes.steps = 6;
  sizes.splits = {{"train", 0, 3}, {"test", 3, 2}};
  import_navier_stokes(tmp / "ns", tmp / "out", sizes);
  const Tensor x = read_npy(tmp / "out/test.x.npy"), y = read_npy(tmp / "out/test.y.npy");
  CHECK(x.shape() == Shape{2, 16, 5});
  CHECK(y.shape() == Shape{2, 16, 3});
  CHECK(PreparedFolder(tmp / "out").info().times == 3);
  for (int64_t k = 0; k < 3; ++k) {
    CHECK(x.item((16 + 7) * 5 + 2 + k) == static_cast<double>((4 * 16 + 7) * 6 + k));
    CHECK(y.item((16 + 7) * 3 + k) == static_cast<double>((4 * 16 + 7) * 6 + 3 + k));
  }
  CHECK(x.item(7 * 5) == static_cast<float>(1.0 / 3));  // point 7 is row 1, column 3
  CHECK(x.item(7 * 5 + 1) == 1);
  sizes.steps = 8;
  data_error([&] { import_navier_stokes(tmp / "ns", tmp / "bad", sizes); }, "u is f32 [5,4,4,6], expected [5,4,4,8]");
  data_error([&] { import_navier_stokes(tmp.path, tmp / "bad", sizes); }, "NavierStokes_V1e-5_N1200_T20.mat: not found");

  if (skips_mat()) return;
  PlasticitySizes block;
  block.h = 3;
  block.w = 2;
  block.steps = 2;
  block.splits = {{"train", 0, 2}, {"val", 2, 1}, {"test", 3, 1}};
  import_plasticity(kPublished, tmp / "plasticity", block);
  const Tensor die = read_npy(tmp / "plasticity/test.x.npy"), mesh = read_npy(tmp / "plasticity/test.y.npy");
  CHECK(die.shape() == Shape{1, 6, 3});
  CHECK(mesh.shape() == Shape{1, 6, 8});
  CHECK(PreparedFolder(tmp / "plasticity").info().times == 2);
  for (int64_t p = 0; p < 6; ++p) CHECK(die.item(3 * p + 2) == static_cast<double>(3 * 3 + p / 2));  // input[3, row]
  for (int64_t i = 0; i < 48; ++i) CHECK(mesh.item(i) == 100 + static_cast<double>(3 * 48 + i));
  block.w = 4;
  data_error([&] { import_plasticity(kPublished, tmp / "bad", block); }, "output has shape [4,3,2,2,4], expected [4,3,4,2,4]");
  check_untouched(tmp, 3);
}

TEST_CASE("darcy: every fifth node of the published .mat files") {
  if (skips_mat()) return;
  const TemporaryFolder tmp;
  const DarcySizes sizes{6, 5, 3, 2, 1};
  for (const std::string folder : {"darcy_v5", "darcy_v73"}) {
    import_darcy_mat(kPublished + "/" + folder, tmp / folder, sizes);
    const PreparedFolder set(tmp / folder);
    CHECK(set.info().splits == std::map<std::string, int64_t>{{"train", 3}, {"test", 2}, {"val", 1}});
    CHECK(set.info().grid == std::vector<int64_t>{2, 2});
    const Tensor x = read_npy(tmp / folder + "/test.x.npy"), y = read_npy(tmp / folder + "/test.y.npy");
    const double nodes[4] = {0, 5, 30, 35};
    for (int64_t p = 0; p < 4; ++p) {
      CHECK(x.item((4 + p) * 3) == static_cast<double>(p / 2));
      CHECK(x.item((4 + p) * 3 + 1) == static_cast<double>(p % 2));
      CHECK(x.item((4 + p) * 3 + 2) == 1000 + 36 + nodes[p]);  // sample 1 of the second file
      CHECK(y.item(4 + p) == 1500 + 36 + nodes[p]);
    }
    CHECK(read_npy(tmp / folder + "/val.y.npy").item(0) == 1500 + 72);
    CHECK(set.info().normalisation.at("x").mean == std::vector<double>{0, 0, 36 + 17.5});
  }
  data_error([&] { import_darcy_mat(kPublished + "/darcy_v5", tmp / "bad", {6, 5, 4, 2, 1}); }, "has 3 samples; split train needs");
  data_error([&] { import_darcy_mat(kPublished + "/darcy_v5", tmp / "bad", {11, 5, 3, 2, 1}); }, "expected [n,3,3]");
  data_error([&] { import_darcy(kPublished, tmp / "bad"); }, "smooth1.mat: not found; darcy needs");
  check_untouched(tmp, 2);
}

TEST_CASE("shapenet-car: the published folders and their split") {
  // torch.randperm(889, generator=torch.Generator().manual_seed(0)) begins so; the published test split is its first 189.
  const std::vector<int64_t> order = torch_randperm(889, 0, 889);
  CHECK(std::vector<int64_t>(order.begin(), order.begin() + 5) == std::vector<int64_t>{550, 592, 229, 547, 62});
  std::vector<int64_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  for (int64_t i = 0; i < 889; ++i) REQUIRE(sorted[static_cast<size_t>(i)] == i);

  const TemporaryFolder tmp;
  const std::string root = tmp / "mlcfd_data/training_data";
  for (int c = 0; c < 4; ++c) {
    const std::string folder = cat(root, "/param", c / 2, "/car", c);
    fs::create_directories(folder);
    put(folder + "/quadpress_smpl.vtk", cat("# vtk DataFile Version 2.0\nt\nASCII\nDATASET UNSTRUCTURED_GRID\nPOINTS 4 float\n", c,
                                            " 0 0 9 9 9 ", c, " 1 0 ", c, " 2 0\nCELLS 1 4\n3 0 2 3\nCELL_TYPES 1\n5\n"));
    write_npy(folder + "/press.npy", Tensor::from<float>({10.0f * static_cast<float>(c), -1, 10.0f * static_cast<float>(c) + 2,
                                                          10.0f * static_cast<float>(c) + 3},
                                                         {4, 1}));
  }
  fs::create_directories(root + "/param1/broken");  // lacks the mesh, like four of the published folders
  import_shapenet_car(tmp.path, tmp / "out", 4, 1);
  const PreparedFolder folder(tmp / "out");
  const auto test = static_cast<double>(torch_randperm(4, 0, 1)[0]);
  CHECK(read_npy(tmp / "out/test.x.npy").to_vector() == std::vector<double>{test, 0, 0, test, 1, 0, test, 2, 0});
  CHECK(read_npy(tmp / "out/test.y.npy").to_vector() == std::vector<double>{10 * test, 10 * test + 2, 10 * test + 3});
  CHECK(folder.count("train") == 3);
  CHECK(folder.info().normalisation.at("y").mean[0] == -36.3099);
  data_error([&] { import_shapenet_car(tmp.path, tmp / "bad", 889, 189); }, "has 4 cars with quadpress_smpl.vtk and press.npy");
  write_npy(root + "/param0/car0/press.npy", counting({7, 1}, 0, DType::f32));
  data_error([&] { import_shapenet_car(tmp.path, tmp / "bad", 4, 1); }, "holds 7 pressures for a mesh of 4 points (3 in cells)");
  check_untouched(tmp, 2);
}

TEST_CASE("the real small files: Darcy at 16 x 16 and four cars") {
  const TemporaryFolder tmp;
  if (const std::string source = data_folder("darcy"); !source.empty()) {
    prepare_dataset("darcy", source, tmp / "darcy");
    const PreparedFolder folder(tmp / "darcy");
    CHECK(folder.info().name == "darcy-16");
    CHECK(folder.info().splits == std::map<std::string, int64_t>{{"train", 900}, {"val", 100}, {"test", 50}});
    CHECK(folder.info().normalisation.at("y").mean[0] == doctest::Approx(0.386).epsilon(0.02));
    folder.validate("train");
  }
  if (const std::string source = data_folder("shapenet_car"); !source.empty()) {
    prepare_dataset("shapenet-car", source, tmp / "cars");
    const PreparedFolder folder(tmp / "cars");
    CHECK(folder.info().name == "shapenet-car-sample");
    CHECK(read_npy(tmp / "cars/train.x.npy").shape() == Shape{3, 3586, 3});
    const Tensor pressure = read_npy(tmp / "cars/test.y.npy");
    double highest = 0;
    for (int64_t i = 0; i < pressure.numel(); ++i) highest = std::max(highest, pressure.item(i));
    CHECK(highest > 200);
    CHECK(highest < 220);
  }
}
