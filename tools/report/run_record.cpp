#include "tools/report/run_record.h"

#include <algorithm>
#include <filesystem>

#include "core/check.h"
#include "core/file.h"
#include "tools/train/run_folder.h"

namespace flare {
namespace {

Json parsed(const std::string& text) { return Json::parse(text, nullptr, false); }

/// The object in a file; null, with a warning when the file is there, without one.
Json object_in(const std::string& path, std::vector<std::string>& warnings) {
  if (!file_exists(path)) return {};
  try {
    Json json = parsed(read_file(path));
    if (json.is_object()) return json;
    warnings.push_back(path + " is not a JSON object; it was left out");
  } catch (const DataError& error) { warnings.push_back(error.what()); }
  return {};
}

void flatten(const Json& tree, const std::string& prefix, std::vector<std::pair<std::string, Json>>& out) {
  for (const auto& [key, value] : tree.items()) {
    if (value.is_object())
      flatten(value, prefix + key + ".", out);
    else
      out.emplace_back(prefix + key, value);
  }
}

void read_curves(RunRecord& run) {
  const std::string path = run.path + "/metrics.jsonl";
  if (!file_exists(path)) return;
  const std::string text = read_file(path);
  int64_t n_damaged = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // being written
    const Json line = parsed(text.substr(begin, end - begin));
    begin = end + 1;
    const double step = number_at(line, "step");
    if (std::isnan(step)) {
      ++n_damaged;
      continue;
    }
    auto& curves = run.curves[text_at(line, "split")];
    for (const auto& [key, value] : line.items())
      if (key != "step" && value.is_number()) curves[key].emplace_back(step, value.get<double>());
  }
  if (n_damaged > 0) run.warnings.push_back(cat(n_damaged, " damaged lines of metrics.jsonl were left out"));
}

double median_of(RunRecord::Points points) {
  if (points.empty()) return NAN;
  const auto middle = points.begin() + static_cast<std::ptrdiff_t>(points.size() / 2);
  std::nth_element(points.begin(), middle, points.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  return middle->second;
}

}  // namespace

double number_at(const Json& object, const char* key) {
  const Json& found = member(object, key);
  return found.is_number() ? found.get<double>() : NAN;
}

std::string text_at(const Json& object, const char* key, const std::string& otherwise) {
  const Json& found = member(object, key);
  return found.is_string() ? found.get<std::string>() : otherwise;
}

int64_t whole(double value) { return std::isnan(value) ? 0 : static_cast<int64_t>(std::clamp(value, -1e18, 1e18)); }

const Json& member(const Json& object, const char* key) {
  static const Json kNull;
  if (!object.is_object()) return kNull;
  const auto found = object.find(key);
  return found == object.end() ? kNull : *found;
}

const Json& RunRecord::value(const std::string& key) const {
  static const Json kNull;
  const auto found = std::find_if(config.begin(), config.end(), [&](const auto& entry) { return entry.first == key; });
  return found == config.end() ? kNull : found->second;
}

const RunRecord::Points& RunRecord::curve(const std::string& split, const std::string& key) const {
  static const Points kNone;
  const auto of_split = curves.find(split);
  if (of_split == curves.end()) return kNone;
  const auto found = of_split->second.find(key);
  return found == of_split->second.end() ? kNone : found->second;
}

RunRecord load_run(const std::string& path) {
  check<ConfigError>(is_run_folder(path), path, ": is not a run folder (no config.json)");
  RunRecord run;
  run.path = path;
  while (run.path.size() > 1 && run.path.back() == '/') run.path.pop_back();
  run.name = std::filesystem::path(run.path).filename().string();
  if (run.name.empty() || run.name == "." || run.name == "..")
    run.name = std::filesystem::weakly_canonical(run.path).filename().string();
  const Json config = parsed(read_file(path + "/config.json"));
  check<DataError>(config.is_object(), path, "/config.json: is damaged, so this folder cannot be read as a run");
  flatten(config, "", run.config);
  read_curves(run);
  for (const char* split : {"test", "val", "train"}) {
    Json evaluation = object_in(cat(path, "/eval-", split, ".json"), run.warnings);
    if (!evaluation.is_object()) continue;
    evaluation["split"] = split;
    run.evaluations.push_back(std::move(evaluation));
  }
  run.summary = object_in(path + "/summary.json", run.warnings);
  run.spectrum = object_in(path + "/spectrum.json", run.warnings);
  // The summary remembers the data; the folder may have moved since.
  run.data = member(run.summary, "data");
  if (const Json& folder = run.value("task.data"); !run.data.is_object() && folder.is_string())
    run.data = object_in(folder.get<std::string>() + "/dataset.json", run.warnings);

  std::string score = text_at(run.summary, "score_name");
  for (const Json& e : run.evaluations)
    if (score.empty()) score = text_at(e, "score_name");
  if (score.empty() && !run.curve("train", "relative_l2").empty()) score = "relative_l2";
  if (!score.empty()) run.score_name = score;
  const Json& higher = member(run.summary, "higher_is_better");
  run.higher_is_better = higher.is_boolean() ? higher.get<bool>() : run.score_name == "accuracy";
  return run;
}

RunFigures figures_of(const RunRecord& run) {
  RunFigures f;
  const char* score = run.score_name.c_str();
  const RunRecord::Points& val = run.curve("val", run.score_name);
  if (!run.evaluations.empty() && text_at(run.evaluations[0], "split") == "test") {
    const Json& e = run.evaluations[0];
    f.split = "test";
    f.score = number_at(e, score);
    f.loss = number_at(e, "loss");
    f.best_step = number_at(e, "step");
    f.majority_class = number_at(e, "majority_class");
    f.majority_score = number_at(e, "majority_accuracy");
  } else if (!val.empty()) {
    const auto less = [&](const auto& a, const auto& b) {
      return run.higher_is_better ? a.second > b.second : a.second < b.second;
    };
    const auto best = std::min_element(val.begin(), val.end(), less);
    f.split = "val";
    f.score = best->second;
    f.best_step = best->first;
    for (const auto& [step, loss] : run.curve("val", "loss"))
      if (step == f.best_step) f.loss = loss;
  }
  f.steps = number_at(run.summary, "step");
  for (const char* split : {"train", "val"})
    for (const auto& [step, loss] : run.curve(split, "loss"))
      if (!(step <= f.steps)) f.steps = step;
  const auto configured = [&](const char* key) {
    const Json& value = run.value(key);
    return value.is_number() ? value.get<double>() : NAN;
  };
  f.steps_planned = configured("train.steps");
  f.seconds = number_at(run.summary, "seconds");
  f.parameters = number_at(run.summary, "parameters");
  f.ms_per_step = median_of(run.curve("train", "ms_per_step"));
  f.tokens_per_s = median_of(run.curve("train", "tokens_per_s"));
  f.samples_per_s = 1e3 * configured("train.batch_size") * configured("train.accumulate") / f.ms_per_step;
  for (const auto& [step, bytes] : run.curve("train", "peak_bytes"))
    if (!(bytes <= f.peak_bytes)) f.peak_bytes = bytes;
  return f;
}

}  // namespace flare
