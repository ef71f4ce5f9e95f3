/// Airfoil and Pipe (Z. Li et al., Geo-FNO, arXiv 2207.05209): body-fitted h x w grids; coordinates -> one quantity of the flow.
#include "datasets/pde/published.h"
#include "datasets/registry.h"

namespace flare {
namespace {

struct Structured {
  std::string name, folder, x, y, q;
  int64_t quantities, quantity;  // axis 1 of the file of quantities, and which one is learned
  bool scales_points;
  std::string description;
};

const Structured kAirfoil{"airfoil",
                          "naca",
                          "NACA_Cylinder_X.npy",
                          "NACA_Cylinder_Y.npy",
                          "NACA_Cylinder_Q.npy",
                          -1,
                          4,
                          false,
                          "Mach number around airfoils on 221 x 51 body-fitted points (Geo-FNO)"};
const Structured kPipe{"pipe",
                       "pipe",
                       "Pipe_X.npy",
                       "Pipe_Y.npy",
                       "Pipe_Q.npy",
                       -1,
                       0,
                       true,
                       "Horizontal velocity in curved pipes on 129 x 129 body-fitted points (Geo-FNO)"};

void import_structured(const Structured& set, const std::string& source_dir, const std::string& out_dir, StructuredSizes sizes) {
  const int64_t h = sizes.h, w = sizes.w, n = h * w;
  const std::string needs = cat(set.name, " needs ", set.x, ", ", set.y, " [n,", h, ",", w, "] and ", set.q, " [n,quantities,", h,
                                ",", w, "], here or in ", set.folder, "/, as published with Geo-FNO");
  const Tensor x = read_published(source_dir, set.folder, set.x, {-1, h, w}, needs);
  const int64_t samples = x.size(0);
  const Tensor y = read_published(source_dir, set.folder, set.y, {samples, h, w}, needs);
  const Tensor q = read_published(source_dir, set.folder, set.q, {samples, set.quantities, h, w}, needs);
  check<DataError>(q.size(1) > set.quantity, set.q, ": has ", q.size(1), " quantities, number ", set.quantity, " is needed");
  // Files that end with the published test split have nothing left to validate on.
  if (sizes.splits.back().name == "val") {
    SampleRange& val = sizes.splits.back();
    val.count = std::min(val.count, samples - val.first);
    if (val.count <= 0) sizes.splits.pop_back();
  }
  check_ranges(set.x, sizes.splits, samples);

  DatasetInfo info;
  info.name = set.name;
  info.grid = {h, w};
  info.coordinates = 2;
  info.source = cat("imported from ", set.x, ", ", set.y, ", ", set.q, "[:,", set.quantity,
                    "]; train = first 1000, test = next 200, val = next 100");
  info.licence = "as published with Geo-FNO";
  info.citation =
      "Z. Li et al., Fourier Neural Operator with Learned Deformations for PDEs on General Geometries, arXiv 2207.05209";
  std::vector<FieldSplit> splits;
  for (const SampleRange& r : sizes.splits) {
    FieldSplit split{r.name, Tensor::empty({r.count, n, 2}, DType::f32), Tensor::empty({r.count, n, 1}, DType::f32)};
    fill_channels(x.view({r.count, n, 1}, {n, 1, 1}, r.first * n), split.x, 0);
    fill_channels(y.view({r.count, n, 1}, {n, 1, 1}, r.first * n), split.x, 1);
    const int64_t per_sample = q.size(1) * n;
    fill_channels(q.view({r.count, n, 1}, {per_sample, 1, 1}, r.first * per_sample + set.quantity * n), split.y, 0);
    splits.push_back(std::move(split));
  }
  if (set.scales_points) info.normalisation["x"] = channel_normalisation(splits.front().x);
  info.normalisation["y"] = channel_normalisation(splits.front().y);
  write_field_set(out_dir, info, splits);
}

DatasetEntry structured_entry(const Structured& set, void (*import)(const std::string&, const std::string&, const StructuredSizes&),
                              int64_t h, int64_t w) {
  DatasetEntry e;
  e.name = set.name;
  e.kind = "field_regression";
  e.description = set.description;
  e.licence = "as published with Geo-FNO";
  e.citation = "Z. Li et al., arXiv 2207.05209";
  e.prepare = [=](const std::string& source, const std::string& out) {
    StructuredSizes sizes;
    sizes.h = h;
    sizes.w = w;
    import(source, out, sizes);
  };
  return e;
}

}  // namespace

void import_airfoil(const std::string& source_dir, const std::string& out_dir, const StructuredSizes& sizes) {
  import_structured(kAirfoil, source_dir, out_dir, sizes);
}
void import_pipe(const std::string& source_dir, const std::string& out_dir, const StructuredSizes& sizes) {
  import_structured(kPipe, source_dir, out_dir, sizes);
}
[[maybe_unused]] static const bool flare_airfoil_registered = register_dataset(structured_entry(kAirfoil, import_airfoil, 221, 51));
[[maybe_unused]] static const bool flare_pipe_registered = register_dataset(structured_entry(kPipe, import_pipe, 129, 129));

}  // namespace flare
