/// DrivAerML (N. Ashton et al., arXiv 2408.11969): points on the surface of a car -> time-averaged pressure there.
#include <optional>

#include "core/job.h"
#include "datasets/pde/mesh_set.h"
#include "datasets/pde/published.h"
#include "datasets/registry.h"

namespace flare {

void import_drivaerml(const std::string& source_dir, const std::string& out_dir) {
  std::string root = source_dir;
  if (const std::string inner = source_dir + "/drivaerml_surface_presampled_40k"; directory_exists(inner)) root = inner;
  const std::vector<std::string> train = mesh_files(root, "train"), test = mesh_files(root, "test"), val = mesh_files(root, "val");
  check<DataError>(!train.empty() && !test.empty(), root, ": has no ", train.empty() ? "train" : "test",
                   " samples; drivaerml needs train/run_<k>.npz and test/run_<k>.npz (surface_mesh_centers, surface_fields), as "
                   "FLARE.py's drivaerml_presample.py writes them");
  check_disjoint(train, test);
  check_disjoint(train, val);
  check_disjoint(test, val);

  DatasetInfo info;
  info.name = "drivaerml";
  info.coordinates = 3;
  info.licence = "CC BY-SA 4.0";
  info.citation = "N. Ashton et al., DrivAerML: High-Fidelity CFD Dataset for Road-Car External Aerodynamics, arXiv 2408.11969";
  info.source = cat("imported from presampled run_<k>.npz: ", train.size(), " train, ", test.size(), " test, ", val.size(),
                    " val, split as the folders are");
  // The published figures: the box that all cars lie in goes to [0,1]³.
  info.normalisation["x"] = {{-0.9425, -1.1314, -0.3176}, {4.1325 + 0.9425, 1.1317 + 1.1314, 1.2445 + 0.3176}};
  info.normalisation["y"] = {{-229.845718}, {269.598572}};

  std::vector<MeshSplit> splits;
  std::optional<Job> job(std::in_place, info.name, static_cast<int64_t>(train.size() + test.size() + val.size()), "cars");
  for (const auto& [name, files] : {std::pair("train", &train), std::pair("test", &test), std::pair("val", &val)}) {
    if (files->empty()) continue;
    MeshSplit split{name, {}, {}};
    for (const std::string& path : *files) {
      const JobItem item(*job);
      const NpzFile archive(path);
      split.x.push_back(read_columns(archive, path, "surface_mesh_centers", 3, 0, 3));
      split.y.push_back(read_columns(archive, path, "surface_fields", -1, 0, 1));  // pressure; behind it the wall's shear stress
      check<DataError>(split.x.back().size(0) == split.y.back().size(0), path, ": surface_fields has ", split.y.back().size(0),
                       " rows for ", split.x.back().size(0), " points");
    }
    splits.push_back(std::move(split));
  }
  job.reset();
  write_mesh_set(out_dir, info, std::move(splits));
}

static DatasetEntry drivaerml_entry() {
  DatasetEntry e;
  e.name = "drivaerml";
  e.kind = "field_regression";
  e.description = "Pressure on the surfaces of cars, 40,000 points of each (presampled .npz files)";
  e.licence = "CC BY-SA 4.0";
  e.citation = "N. Ashton et al., arXiv 2408.11969";
  e.prepare = [](const std::string& source, const std::string& out) { import_drivaerml(source, out); };
  return e;
}
FLARE_REGISTER_DATASET(drivaerml_entry());

}  // namespace flare
