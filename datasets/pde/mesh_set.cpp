#include "datasets/pde/mesh_set.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <optional>
#include <set>

#include "core/file.h"
#include "core/job.h"

namespace flare {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> listed_files(const std::string& source_dir, const std::string& list) {
  const std::string text = read_file(list);
  std::vector<std::string> files;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string line = text.substr(at, end - at);
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    at = end + 1;
    if (line.empty()) continue;
    files.push_back(source_dir + "/" + line);
    check<DataError>(file_exists(files.back()), list, ": lists ", quoted(line), ", which is not found in ", source_dir);
  }
  return files;
}

/// The samples of a split behind each other: [n,N,c] where all have N rows, else [total,c]. Empties the list.
Tensor joined(std::vector<Tensor>& samples, bool is_ragged) {
  int64_t total = 0;
  for (const Tensor& t : samples) total += t.size(0);
  const int64_t channels = samples[0].size(1), n = static_cast<int64_t>(samples.size());
  const Tensor all = Tensor::empty(is_ragged ? Shape{total, channels} : Shape{n, total / n, channels}, DType::f32);
  float* to = all.data<float>();
  for (Tensor& t : samples) {
    to = std::copy_n(t.data<float>(), t.numel(), to);
    t = {};
  }
  samples.clear();
  return all;
}

}  // namespace

std::vector<std::string> mesh_files(const std::string& source_dir, const std::string& split) {
  check<DataError>(directory_exists(source_dir), source_dir, ": no such folder");
  const std::string list = source_dir + "/" + split + ".txt", folder = source_dir + "/" + split;
  if (file_exists(list)) return listed_files(source_dir, list);
  std::vector<std::string> files;
  if (!directory_exists(folder)) return files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder))
    if (entry.path().extension() == ".npz") files.push_back(entry.path().string());
  std::sort(files.begin(), files.end(), [](const std::string& a, const std::string& b) {
    return a.size() != b.size() ? a.size() < b.size() : a < b;  // names differ in their numbers alone
  });
  return files;
}

void check_disjoint(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  std::set<std::string> names;
  for (const std::string& path : a) names.insert(fs::path(path).filename().string());
  for (const std::string& path : b)
    check<DataError>(!names.contains(fs::path(path).filename().string()), path, ": a sample of this name is in another split too");
}

Tensor read_columns(const NpzFile& archive, const std::string& path, const std::string& member, int64_t columns, int64_t first,
                    int64_t count) {
  const Tensor stored = archive.read(member);
  const bool fits = stored.ndim() == 2 && stored.size(0) > 0 &&
                    (columns < 0 ? stored.size(1) >= first + count : stored.size(1) == columns) && is_float(stored.dtype());
  check<DataError>(fits, path, ": ", member, " is ", stored.dtype(), " ", stored.shape(), ", expected floating-point numbers [N,",
                   columns < 0 ? cat(first + count, " or more") : cat(columns), "]");
  const Tensor out = Tensor::empty({stored.size(0), count}, DType::f32);
  copy(stored.view(out.shape(), {stored.size(1), 1}, first), out);
  for (int64_t i = 0; i < out.numel(); ++i)
    check<DataError>(std::isfinite(out.data<float>()[i]), path, ": ", member, " is not finite at point ", i / count, ", column ",
                     first + i % count, "; the file is damaged");
  return out;
}

void write_mesh_set(const std::string& out_dir, DatasetInfo info, std::vector<MeshSplit> splits) {
  info.kind = "field_regression";
  bool is_ragged = false;
  const int64_t points = splits.at(0).x.at(0).size(0);
  for (const MeshSplit& split : splits) {
    check(split.x.size() == split.y.size() && !split.x.empty(), "mesh set: split ", split.name, " has ", split.x.size(), " x and ",
          split.y.size(), " y");
    for (size_t i = 0; i < split.x.size(); ++i) {
      const Tensor &x = split.x[i], &y = split.y[i];
      check(x.ndim() == 2 && y.ndim() == 2 && x.dtype() == DType::f32 && y.dtype() == DType::f32 && x.size(0) == y.size(0),
            "mesh set: split ", split.name, " has x ", x.shape(), " and y ", y.shape());
      is_ragged = is_ragged || x.size(0) != points;
    }
  }
  PreparedWriter writer(out_dir, info);
  std::optional<Job> job(std::in_place, cat(info.name, ": writing"), 2 * static_cast<int64_t>(splits.size()), "fields");
  for (MeshSplit& split : splits) {
    std::vector<int64_t> offsets = {0};
    for (const Tensor& x : split.x) offsets.push_back(offsets.back() + x.size(0));
    const auto n = static_cast<int64_t>(offsets.size());
    for (const auto& [field, samples] : {std::pair("x", &split.x), std::pair("y", &split.y)}) {
      const JobItem item(*job);
      const Tensor values = joined(*samples, is_ragged);
      if (is_ragged) {
        writer.add_ragged(split.name, field, values, Tensor::from(offsets, {n}));
      } else {
        writer.add(split.name, field, values);
      }
    }
  }
  job.reset();
  writer.commit();
}

}  // namespace flare
