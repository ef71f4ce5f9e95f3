#pragma once
/// What a run folder says, read leniently: a report of a run that was cut off, is of another version or has a damaged line shows
/// what there is and says what is missing.
#include <cmath>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "tools/train/fields.h"

namespace flare {

/// object[key] when it is a number, else NaN; when it is a text, else `otherwise`.
double number_at(const Json& object, const char* key);
std::string text_at(const Json& object, const char* key, const std::string& otherwise = "");
/// The value as an integer, however large the file says it is.
int64_t whole(double value);
/// object[key] when it is there, else a null.
const Json& member(const Json& object, const char* key);

struct RunRecord {
  using Points = std::vector<std::pair<double, double>>;
  std::string path, name;                                       // name: the last part of the path
  std::vector<std::pair<std::string, Json>> config;             // dotted keys, in the file's order
  std::map<std::string, std::map<std::string, Points>> curves;  // metrics.jsonl: split, key -> (step, value)
  std::vector<Json> evaluations;                                // eval-{test,val,train}.json, those there are
  Json summary, spectrum, data;       // summary.json, spectrum.json, dataset.json of the data folder; null without
  std::vector<std::string> warnings;  // what could not be read
  std::string score_name = "accuracy";
  bool higher_is_better = true;

  const Json& value(const std::string& key) const;  // of config; null when it is not there
  const Points& curve(const std::string& split, const std::string& key) const;
};

/// ConfigError when `path` is no run folder, DataError when its config.json is not a JSON object.
RunRecord load_run(const std::string& path);

/// The figures a run is compared by; NaN and "" stand for what is not known.
struct RunFigures {
  std::string split;                                                  // of score and loss: test, else val; "" without either
  double score = NAN, loss = NAN, best_step = NAN;                    // best_step: of the weights that were scored
  double majority_class = NAN, majority_score = NAN;                  // on the same split
  double steps = NAN, steps_planned = NAN, seconds = NAN;             // seconds: wall time since step 1, all processes of the run
  double ms_per_step = NAN, samples_per_s = NAN, tokens_per_s = NAN;  // medians over the logged windows
  double peak_bytes = NAN, parameters = NAN;
};
RunFigures figures_of(const RunRecord& run);

}  // namespace flare
