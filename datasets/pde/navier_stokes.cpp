/// Navier-Stokes (Z. Li et al., arXiv 2010.08895): vorticity on the torus at viscosity 1e-5; ten steps -> the next ten.
#include "core/file.h"
#include "datasets/import/mat.h"
#include "datasets/import/npz.h"
#include "datasets/pde/published.h"
#include "datasets/registry.h"

namespace flare {

void import_navier_stokes(const std::string& source_dir, const std::string& out_dir, const NavierStokesSizes& sizes) {
  const std::string base = source_dir + "/NavierStokes_V1e-5_N1200_T20";
  const bool is_mat = file_exists(base + ".mat");
  check<DataError>(is_mat || file_exists(base + ".npy"), base,
                   ".mat: not found; navier-stokes needs it (u [1200,64,64,20]), or the array u as a .npy "
                   "file of that name");
  const std::string path = base + (is_mat ? ".mat" : ".npy");
  const Tensor u = is_mat ? read_mat(path, "u") : read_array(path);
  const int64_t side = sizes.side, n = side * side, t = sizes.steps, half = t / 2, samples = u.size(0);
  const Shape expected{samples, side, side, t};
  check<DataError>(u.shape() == expected && is_float(u.dtype()), path, ": u is ", u.dtype(), " ", u.shape(), ", expected ",
                   expected);
  check_ranges(path, sizes.splits, samples);

  DatasetInfo info;
  info.name = "navier-stokes";
  info.grid = {side, side};
  info.coordinates = 2;
  info.times = t - half;
  info.source =
      "imported from NavierStokes_V1e-5_N1200_T20; x = (x, y, steps 1 to 10), y = steps 11 to 20; train = first 1000, "
      "test = last 200";
  info.licence = "MIT (zongyi-li/fourier_neural_operator)";
  info.citation = "Z. Li et al., Fourier Neural Operator for Parametric Partial Differential Equations, arXiv 2010.08895";
  std::vector<FieldSplit> splits;
  for (const SampleRange& r : sizes.splits) {
    FieldSplit split{r.name, Tensor::empty({r.count, n, 2 + half}, DType::f32), Tensor::empty({r.count, n, t - half}, DType::f32)};
    fill_points(grid_points(side, side), split.x);
    fill_channels(u.view({r.count, n, half}, {n * t, t, 1}, r.first * n * t), split.x, 2);
    fill_channels(u.view({r.count, n, t - half}, {n * t, t, 1}, r.first * n * t + half), split.y, 0);
    splits.push_back(std::move(split));
  }
  write_field_set(out_dir, info, splits);
}

static DatasetEntry navier_stokes_entry() {
  DatasetEntry e;
  e.name = "navier-stokes";
  e.kind = "field_regression";
  e.description = "Vorticity at viscosity 1e-5 on 64 x 64 points, ten steps to the next ten";
  e.licence = "MIT (zongyi-li/fourier_neural_operator)";
  e.citation = "Z. Li et al., arXiv 2010.08895";
  e.prepare = [](const std::string& source, const std::string& out) { import_navier_stokes(source, out, {}); };
  return e;
}
FLARE_REGISTER_DATASET(navier_stokes_entry());

}  // namespace flare
