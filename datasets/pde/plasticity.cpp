/// Plasticity (Z. Li et al., Geo-FNO, arXiv 2207.05209): a die presses a block; its profile -> the mesh over 20 time steps.
#include "core/file.h"
#include "datasets/import/mat.h"
#include "datasets/pde/published.h"
#include "datasets/registry.h"

namespace flare {

void import_plasticity(const std::string& source_dir, const std::string& out_dir, const PlasticitySizes& sizes) {
  const std::string path = source_dir + "/plas_N987_T20.mat";
  check<DataError>(file_exists(path), path,
                   ": not found; plasticity needs plas_N987_T20.mat with input [987,101] and output "
                   "[987,101,31,20,4], as published with Geo-FNO");
  const Tensor input = cast_to(read_mat(path, "input"), DType::f64), output = read_mat(path, "output");
  const int64_t h = sizes.h, w = sizes.w, n = h * w, t = sizes.steps, samples = output.size(0);
  const Shape expected{samples, h, w, t, 4};
  check<DataError>(output.shape() == expected, path, ": output has shape ", output.shape(), ", expected ", expected);
  check<DataError>(input.shape() == Shape{samples, h}, path, ": input has shape ", input.shape(), ", expected ", Shape{samples, h});
  check_ranges(path, sizes.splits, samples);

  DatasetInfo info;
  info.name = "plasticity";
  info.grid = {h, w};
  info.coordinates = 2;
  info.times = t;
  info.source =
      "imported from plas_N987_T20.mat; x = (x, y, die profile), y = 20 steps of 4 channels; train = first 900, test = last 80, "
      "val = the 7 between";
  info.licence = "as published with Geo-FNO";
  info.citation =
      "Z. Li et al., Fourier Neural Operator with Learned Deformations for PDEs on General Geometries, arXiv 2207.05209";
  std::vector<FieldSplit> splits;
  for (const SampleRange& r : sizes.splits) {
    FieldSplit split{r.name, Tensor::empty({r.count, n, 3}, DType::f32), Tensor::empty({r.count, n, 4 * t}, DType::f32)};
    fill_points(grid_points(h, w), split.x);
    for (int64_t i = 0; i < r.count; ++i)
      for (int64_t p = 0; p < n; ++p)
        split.x.data<float>()[(i * n + p) * 3 + 2] = static_cast<float>(input.data<double>()[(r.first + i) * h + p / w]);
    fill_channels(output.view({r.count, n, 4 * t}, {n * 4 * t, 4 * t, 1}, r.first * n * 4 * t), split.y, 0);
    splits.push_back(std::move(split));
  }
  info.normalisation["x"] = channel_normalisation(splits.front().x);
  leave_channels(info.normalisation["x"], 0, 2);
  write_field_set(out_dir, info, splits);
}

static DatasetEntry plasticity_entry() {
  DatasetEntry e;
  e.name = "plasticity";
  e.kind = "field_regression";
  e.description = "Deformation of a pressed block, 101 x 31 points, 20 time steps (Geo-FNO)";
  e.licence = "as published with Geo-FNO";
  e.citation = "Z. Li et al., arXiv 2207.05209";
  e.prepare = [](const std::string& source, const std::string& out) { import_plasticity(source, out, {}); };
  return e;
}
FLARE_REGISTER_DATASET(plasticity_entry());

}  // namespace flare
