/// Laser powder bed fusion (V. Puri et al., arXiv 2508.12594): nodes of a printed part -> vertical displacement there.
#include <array>
#include <cmath>
#include <optional>

#include "core/job.h"
#include "datasets/pde/mesh_set.h"
#include "datasets/pde/published.h"
#include "datasets/registry.h"

namespace flare {
namespace {

constexpr int64_t kHeight = 2;  // the column of disp that is learned

/// The published code as shipped decodes displacement, which it never encoded, by the mean and deviation of torch.rand(3, 1); these
/// are its first three numbers from seed 0, as a later version of that code writes them down.
constexpr std::array<float, 3> kPublishedDraws = {0.49625658988952637f, 0.7682217955589294f, 0.08847743272781372f};

/// Mean over the samples of their means, and of their deviations, as the published code computes them.
Normalisation mean_normalisation(const std::vector<Tensor>& samples) {
  double mean = 0, deviation = 0;
  for (const Tensor& y : samples) {
    double sum = 0, square = 0;
    const auto n = static_cast<double>(y.numel());
    for (int64_t i = 0; i < y.numel(); ++i) sum += y.data<float>()[i];
    for (int64_t i = 0; i < y.numel(); ++i) square += std::pow(y.data<float>()[i] - sum / n, 2);
    mean += sum / n;
    deviation += std::sqrt(square / std::max(n - 1, 1.0));
  }
  const auto n = static_cast<double>(samples.size());
  return {{mean / n}, {std::max(deviation / n, 1e-8)}};
}

}  // namespace

void import_lpbf(const std::string& source_dir, const std::string& out_dir, const LpbfSizes& sizes) {
  const std::vector<std::string> train = mesh_files(source_dir, "train"), test = mesh_files(source_dir, "test");
  check<DataError>(!train.empty() && !test.empty(), source_dir, ": has no ", train.empty() ? "train" : "test",
                   " samples; lpbf needs train.txt and test.txt, which list its .npz files (pos, disp), or folders train and test "
                   "of them");
  check_disjoint(train, test);
  const bool is_whole = static_cast<int64_t>(train.size()) == sizes.train && static_cast<int64_t>(test.size()) == sizes.test;

  DatasetInfo info;
  info.name = is_whole ? "lpbf" : "lpbf-part";
  info.coordinates = 3;
  info.licence = "MIT";
  info.citation = "V. Puri et al., FLARE: Fast Low-rank Attention Routing Engine, arXiv 2508.12594";
  info.source = cat("imported from the .npz files of vedantpuri/LPBF_FLARE: ", train.size(), " train, ", test.size(), " test",
                    is_whole ? "" : cat(" (the published set has ", sizes.train, " and ", sizes.test, ")"));
  info.normalisation["x"] = {{0, 0, 0}, {30, 30, 60}};

  std::vector<MeshSplit> splits;
  std::optional<Job> job(std::in_place, info.name, static_cast<int64_t>(train.size() + test.size()), "parts");
  for (const auto& [name, files] : {std::pair("train", &train), std::pair("test", &test)}) {
    MeshSplit split{name, {}, {}};
    for (const std::string& path : *files) {
      const JobItem item(*job);
      const NpzFile archive(path);  // its member _metadata is a pickled object, and left alone
      split.x.push_back(read_columns(archive, path, "pos", 3, 0, 3));
      split.y.push_back(read_columns(archive, path, "disp", 3, kHeight, 1));
      check<DataError>(split.x.back().size(0) == split.y.back().size(0), path, ": disp has ", split.y.back().size(0), " rows for ",
                       split.x.back().size(0), " nodes");
    }
    splits.push_back(std::move(split));
  }
  job.reset();
  info.normalisation["y"] = mean_normalisation(splits[0].y);
  info.warp = channel_normalisation(Tensor::from<float>({kPublishedDraws.begin(), kPublishedDraws.end()}, {1, 3, 1}));
  write_mesh_set(out_dir, info, std::move(splits));
}

static DatasetEntry lpbf_entry() {
  DatasetEntry e;
  e.name = "lpbf";
  e.kind = "field_regression";
  e.description = "Vertical displacement of printed metal parts, meshes of up to 50,000 nodes";
  e.licence = "MIT";
  e.citation = "V. Puri et al., arXiv 2508.12594";
  e.prepare = [](const std::string& source, const std::string& out) { import_lpbf(source, out, {}); };
  return e;
}
FLARE_REGISTER_DATASET(lpbf_entry());

}  // namespace flare
