/// Elasticity (Z. Li et al., Geo-FNO, arXiv 2207.05209): a unit cell with a void; 972 points in no order -> stress.
#include "datasets/pde/published.h"
#include "datasets/registry.h"

namespace flare {

void import_elasticity(const std::string& source_dir, const std::string& out_dir, const ElasticitySizes& sizes) {
  const std::string needs =
      "elasticity needs Random_UnitCell_XY_10.npy [972,2,2000] and Random_UnitCell_sigma_10.npy [972,2000], here or in Meshes/, as "
      "published with Geo-FNO";
  const int64_t n = sizes.points;
  const Tensor xy = read_published(source_dir, "Meshes", "Random_UnitCell_XY_10.npy", {n, 2, -1}, needs);
  const int64_t samples = xy.size(2);  // the last axis
  const Tensor sigma = read_published(source_dir, "Meshes", "Random_UnitCell_sigma_10.npy", {n, samples}, needs);
  check_ranges("Random_UnitCell_XY_10.npy", sizes.splits, samples);

  DatasetInfo info;
  info.name = "elasticity";
  info.coordinates = 2;
  info.source =
      "imported from Random_UnitCell_XY_10.npy and Random_UnitCell_sigma_10.npy; train = first 1000, test = last 200, val = 100 "
      "others";
  info.licence = "as published with Geo-FNO";
  info.citation =
      "Z. Li et al., Fourier Neural Operator with Learned Deformations for PDEs on General Geometries, arXiv 2207.05209";
  std::vector<FieldSplit> splits;
  for (const SampleRange& r : sizes.splits) {
    FieldSplit split{r.name, Tensor::empty({r.count, n, 2}, DType::f32), Tensor::empty({r.count, n, 1}, DType::f32)};
    fill_channels(xy.view({r.count, n, 2}, {1, 2 * samples, samples}, r.first), split.x, 0);
    fill_channels(sigma.view({r.count, n, 1}, {1, samples, 1}, r.first), split.y, 0);
    splits.push_back(std::move(split));
  }
  info.normalisation["y"] = channel_normalisation(splits.front().y);
  write_field_set(out_dir, info, splits);
}

static DatasetEntry elasticity_entry() {
  DatasetEntry e;
  e.name = "elasticity";
  e.kind = "field_regression";
  e.description = "Stress in a unit cell with a void, 972 points (Geo-FNO)";
  e.licence = "as published with Geo-FNO";
  e.citation = "Z. Li et al., arXiv 2207.05209";
  e.prepare = [](const std::string& source, const std::string& out) { import_elasticity(source, out, {}); };
  return e;
}
FLARE_REGISTER_DATASET(elasticity_entry());

}  // namespace flare
