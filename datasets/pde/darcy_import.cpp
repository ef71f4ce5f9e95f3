#include <array>

#include "core/file.h"
#include "datasets/import/mat.h"
#include "datasets/import/npz.h"
#include "datasets/pde/darcy.h"
#include "datasets/pde/published.h"

namespace flare {
namespace {

constexpr const char* kSmall = "darcy_16_32.npz";
constexpr const char* kCitation =
    "Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, arXiv 2010.08895";

/// Samples [first, first+count) of a, u [n,side,side] -> x = (x, y, a), y = u.
FieldSplit grid_split(const std::string& name, const Tensor& a, const Tensor& u, int64_t first, int64_t count) {
  const int64_t h = a.size(1), w = a.size(2), n = h * w;
  FieldSplit split{name, Tensor::empty({count, n, 3}, DType::f32), Tensor::empty({count, n, 1}, DType::f32)};
  fill_points(grid_points(h, w), split.x);
  fill_channels(a.view({count, n, 1}, {n, 1, 1}, first * n), split.x, 2);
  fill_channels(u.view({count, n, 1}, {n, 1, 1}, first * n), split.y, 0);
  return split;
}

void write_darcy(const std::string& out_dir, DatasetInfo info, const std::vector<FieldSplit>& splits) {
  info.citation = kCitation;
  info.normalisation["x"] = channel_normalisation(splits.front().x);
  leave_channels(info.normalisation["x"], 0, 2);
  info.normalisation["y"] = channel_normalisation(splits.front().y);
  write_field_set(out_dir, info, splits);
}

void import_small(const std::string& path, const std::string& out_dir) {
  const NpzFile archive(path);
  constexpr int64_t kTrain = 900, kVal = 100;
  const auto read = [&](const std::string& name) {
    const Tensor array = archive.read(name);
    check<DataError>(array.ndim() == 3 && array.size(1) == 16 && array.size(2) == 16, path, ": ", name, " has shape ",
                     array.shape(), ", expected [n,16,16]");
    return array;
  };
  const Tensor a = read("train16_x"), u = read("train16_y"), test_a = read("test16_x"), test_u = read("test16_y");
  check<DataError>(a.size(0) == kTrain + kVal && u.shape() == a.shape() && test_u.shape() == test_a.shape(), path,
                   ": coefficients and solutions disagree: ", a.shape(), ", ", u.shape(), ", ", test_a.shape(), ", ",
                   test_u.shape());
  DatasetInfo info;
  info.name = "darcy-16";
  info.grid = {16, 16};
  info.coordinates = 2;
  info.source = cat("imported from ", kSmall,
                    " (NeuralOperator's small Darcy files): train = 900 of its 1000, val = the last 100, test = its 50");
  info.licence = "MIT (neuraloperator)";
  write_darcy(out_dir, info,
              {grid_split("train", a, u, 0, kTrain), grid_split("val", a, u, kTrain, kVal),
               grid_split("test", test_a, test_u, 0, test_a.size(0))});
}

}  // namespace

void import_darcy_mat(const std::string& source_dir, const std::string& out_dir, const DarcySizes& sizes) {
  const std::array<std::string, 2> paths = {source_dir + "/piececonst_r421_N1024_smooth1.mat",
                                            source_dir + "/piececonst_r421_N1024_smooth2.mat"};
  std::array<Tensor, 2> a, u;
  for (size_t f = 0; f < 2; ++f) {
    check<DataError>(file_exists(paths[f]), paths[f],
                     ": not found; darcy needs piececonst_r421_N1024_smooth1.mat and _smooth2.mat "
                     "(coeff, sol [1024,421,421]) of the FNO data, or ",
                     kSmall);
    const std::vector<int64_t> stride = {1, sizes.stride, sizes.stride};
    const int64_t side = (sizes.side + sizes.stride - 1) / sizes.stride;
    a[f] = read_mat(paths[f], "coeff", stride);
    u[f] = read_mat(paths[f], "sol", stride);
    for (const Tensor& t : {a[f], u[f]})
      check<DataError>(t.ndim() == 3 && t.size(1) == side && t.size(2) == side && t.size(0) == a[f].size(0), paths[f], ": every ",
                       sizes.stride, ". node of coeff and sol makes ", a[f].shape(), " and ", u[f].shape(), ", expected [n,", side,
                       ",", side, "]");
  }
  check_ranges(paths[0], {{"train", 0, sizes.train}}, a[0].size(0));
  check_ranges(paths[1], {{"test", 0, sizes.test}, {"val", sizes.test, sizes.val}}, a[1].size(0));
  DatasetInfo info;
  info.name = "darcy";
  info.grid = {a[0].size(1), a[0].size(2)};
  info.coordinates = 2;
  info.source =
      cat("imported from piececonst_r421_N1024_smooth1.mat (train = first ", sizes.train, ") and _smooth2.mat (test = first ",
          sizes.test, ", val = next ", sizes.val, "), every ", sizes.stride, ". node");
  info.licence = "MIT (zongyi-li/fourier_neural_operator)";
  write_darcy(out_dir, info,
              {grid_split("train", a[0], u[0], 0, sizes.train), grid_split("val", a[1], u[1], sizes.test, sizes.val),
               grid_split("test", a[1], u[1], 0, sizes.test)});
}

void import_darcy(const std::string& source_dir, const std::string& out_dir) {
  check<DataError>(directory_exists(source_dir), source_dir, ": no such folder");
  const std::string small = source_dir + "/" + kSmall;
  file_exists(small) ? import_small(small, out_dir) : import_darcy_mat(source_dir, out_dir, {});
}

static DatasetEntry darcy_entry() {
  DatasetEntry e;
  e.name = "darcy";
  e.kind = "field_regression";
  e.description = "Darcy flow, 421 x 421 kept at 85 x 85 (FNO's .mat files), or 16 x 16 (darcy_16_32.npz)";
  e.licence = "MIT";
  e.citation = kCitation;
  e.prepare = import_darcy;
  return e;
}
FLARE_REGISTER_DATASET(darcy_entry());

}  // namespace flare
