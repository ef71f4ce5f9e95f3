#include "datasets/registry.h"

#include <algorithm>
#include <charconv>
#include <numeric>

#include "core/check.h"
#include "core/device.h"

namespace flare {
namespace {

std::vector<DatasetEntry>& entries() {
  static std::vector<DatasetEntry> all;  // filled while other files initialise, so it must not be a plain global
  return all;
}

int64_t edit_distance(const std::string& a, const std::string& b) {
  std::vector<int64_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 1; i <= a.size(); ++i) {
    int64_t diagonal = row[0]++;
    for (size_t j = 1; j <= b.size(); ++j) {
      const int64_t above = row[j];
      row[j] = std::min({above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1])});
      diagonal = above;
    }
  }
  return row.back();
}

/// "; did you mean X? (known: X, Y)" or "; there are none".
std::string suggestion(const std::string& word, const std::vector<std::string>& known) {
  if (known.empty()) return "; there are none";
  const std::string& nearest = *std::min_element(known.begin(), known.end(), [&](const std::string& a, const std::string& b) {
    return edit_distance(word, a) < edit_distance(word, b);
  });
  std::string list;
  for (const std::string& name : known) list += (list.empty() ? "" : ", ") + name;
  return cat("; did you mean ", nearest, "? (known: ", list, ")");
}

}  // namespace

bool register_dataset(DatasetEntry entry) {
  std::vector<DatasetEntry>& all = entries();
  const auto place = std::lower_bound(all.begin(), all.end(), entry.name,
                                      [](const DatasetEntry& e, const std::string& name) { return e.name < name; });
  check<ConfigError>(place == all.end() || place->name != entry.name, "data set ", entry.name, " is registered twice");
  all.insert(place, std::move(entry));
  return true;
}

const std::vector<DatasetEntry>& registered_datasets() { return entries(); }

const DatasetEntry& find_dataset(const std::string& name) {
  std::vector<std::string> known;
  for (const DatasetEntry& e : entries()) {
    if (e.name == name) return e;
    known.push_back(e.name);
  }
  throw ConfigError(cat("unknown data set ", name, suggestion(name, known)));
}

void generate_dataset(const std::string& name, const GenerateOptions& options, const std::string& out_dir) {
  const DatasetEntry& entry = find_dataset(name);
  check<ConfigError>(entry.generate != nullptr, name, ": cannot be generated; import it with flare data prepare ", name,
                     " --source DIR --out DIR");
  const std::pair<const char*, int64_t> counts[] = {{"train", options.train}, {"val", options.val}, {"test", options.test}};
  for (const auto& [split, count] : counts)
    check<ConfigError>(count >= -1, name, ": the count of split ", split, " is ", count, "; it must be 0 or more");
  std::vector<std::string> known;
  for (const DatasetOption& o : entry.options) known.push_back(o.name);
  for (const auto& [key, value] : options.extra)
    check<ConfigError>(std::find(known.begin(), known.end(), key) != known.end(), name, ": unknown option ", key,
                       suggestion(key, known));
  if (!entry.has_gpu_version) {
    check<ConfigError>(options.device != "cuda" && !options.device.starts_with("cuda:"), name, ": --device ", options.device,
                       ": there is no version for GPUs (only of: ", datasets_for_gpu(), "); use --device cpu or auto");
    if (options.device != "auto") parse_device(options.device);  // refuses other words
  }
  entry.generate(options, out_dir);
}

std::string datasets_for_gpu() {
  std::string list;
  for (const DatasetEntry& e : entries())
    if (e.has_gpu_version) list += (list.empty() ? "" : ", ") + e.name;
  return list;
}

void prepare_dataset(const std::string& name, const std::string& source_dir, const std::string& out_dir) {
  const DatasetEntry& entry = find_dataset(name);
  check<ConfigError>(entry.prepare != nullptr, name, ": has no importer; make it with flare data generate ", name, " --out DIR");
  entry.prepare(source_dir, out_dir);
}

int64_t extra_int(const GenerateOptions& options, const std::string& key, int64_t fallback) {
  const auto found = options.extra.find(key);
  if (found == options.extra.end()) return fallback;
  const std::string& text = found->second;
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  check<ConfigError>(error == std::errc{} && end == text.data() + text.size(), "option ", key, ": '", text, "' is not an integer");
  return value;
}

}  // namespace flare
