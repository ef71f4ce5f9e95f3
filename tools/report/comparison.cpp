#include "tools/report/comparison.h"

#include <algorithm>
#include <map>
#include <set>

#include <fmt/format.h>

#include "tools/train/progress.h"

namespace flare {
namespace {

constexpr size_t kLongestValue = 80;

std::string cell(const Json& value) {
  if (value.is_null()) return "–";
  std::string text = value.is_string() ? value.get<std::string>() : value.dump();
  if (text.size() <= kLongestValue) return text;
  size_t end = kLongestValue;
  while (end > 0 && (text[end] & 0xc0) == 0x80) --end;  // not inside a character
  return text.substr(0, end) + "…";
}

std::vector<std::pair<std::string, std::vector<Json>>> differences_of(const std::vector<RunRecord>& runs) {
  std::vector<std::pair<std::string, std::vector<Json>>> out;
  std::set<std::string> seen;
  for (const RunRecord& run : runs) {
    for (const auto& [key, ignored] : run.config) {
      if (!seen.insert(key).second) continue;
      std::vector<Json> values;
      for (const RunRecord& other : runs) values.push_back(other.value(key));
      // 1 and 1.0 are one value; nlohmann compares numbers by value.
      if (std::any_of(values.begin(), values.end(), [&](const Json& v) { return v != values[0]; }))
        out.emplace_back(key, std::move(values));
    }
  }
  return out;
}

Json number_or_null(double value) { return std::isnan(value) ? Json() : Json(value); }
Json integer_or_null(double value) { return std::isnan(value) ? Json() : Json(whole(value)); }

}  // namespace

std::vector<std::string> labels_of(const std::vector<RunRecord>& runs) {
  std::map<std::string, int> count;
  for (const RunRecord& run : runs) ++count[run.name];
  std::vector<std::string> labels;
  for (const RunRecord& run : runs) labels.push_back(count[run.name] > 1 ? run.path : run.name);
  return labels;
}

Table results_table(const std::vector<RunRecord>& runs, bool with_majority) {
  Table table;
  table.caption = "Results";
  std::set<std::string> scores;
  for (const RunRecord& run : runs) scores.insert(run.score_name);
  const bool one_score = scores.size() == 1;
  table.head = {"run",         "split",      one_score ? *scores.begin() : "score",
                "loss",        "best step",  "steps",
                "time",        "ms/step",    "tokens/s",
                "peak memory", "parameters", "seed"};
  table.text_columns = 2;
  const std::vector<std::string> labels = labels_of(runs);
  std::vector<std::vector<std::string>> majority;
  for (size_t i = 0; i < runs.size(); ++i) {
    const RunFigures f = figures_of(runs[i]);
    const std::string steps =
        number_or_dash(f.steps, "{:.0f}") + (f.steps == f.steps_planned ? "" : "/" + number_or_dash(f.steps_planned, "{:.0f}"));
    const std::string what = f.split.empty() ? "–" : f.split + (one_score ? "" : " " + runs[i].score_name);
    table.rows.push_back({labels[i], what, number_or_dash(f.score), number_or_dash(f.loss), number_or_dash(f.best_step, "{:.0f}"),
                          steps, std::isnan(f.seconds) ? "–" : format_duration(f.seconds), number_or_dash(f.ms_per_step, "{:.3g}"),
                          std::isnan(f.tokens_per_s) ? "–" : format_count(f.tokens_per_s),
                          std::isnan(f.peak_bytes) ? "–" : format_bytes(whole(f.peak_bytes)),
                          std::isnan(f.parameters) ? "–" : format_count(f.parameters), cell(runs[i].value("seed"))});
    if (std::isnan(f.majority_score)) continue;
    std::vector<std::string> row = {"always class " + number_or_dash(f.majority_class, "{:.0f}"), what,
                                    number_or_dash(f.majority_score)};
    row.resize(table.head.size());
    if (std::find(majority.begin(), majority.end(), row) == majority.end()) majority.push_back(std::move(row));
  }
  if (with_majority) table.rows.insert(table.rows.end(), majority.begin(), majority.end());
  return table;
}

Table differences_table(const std::vector<RunRecord>& runs) {
  Table table;
  table.caption = "Configuration keys that differ";
  table.head = {"key"};
  for (const std::string& label : labels_of(runs)) table.head.push_back(label);
  table.text_columns = table.head.size();
  for (const auto& [key, values] : differences_of(runs)) {
    table.rows.push_back({key});
    for (const Json& value : values) table.rows.back().push_back(cell(value));
  }
  return table;
}

Json comparison_json(const std::vector<RunRecord>& runs) {
  Json out = {{"runs", Json::array()}, {"differences", Json::object()}};
  for (const RunRecord& run : runs) {
    const RunFigures f = figures_of(run);
    out["runs"].push_back({{"run", run.path},
                           {"split", f.split.empty() ? Json() : Json(f.split)},
                           {"score_name", run.score_name},
                           {"score", number_or_null(f.score)},
                           {"loss", number_or_null(f.loss)},
                           {"best_step", integer_or_null(f.best_step)},
                           {"steps", integer_or_null(f.steps)},
                           {"steps_planned", integer_or_null(f.steps_planned)},
                           {"seconds", number_or_null(f.seconds)},
                           {"ms_per_step", number_or_null(f.ms_per_step)},
                           {"samples_per_s", number_or_null(f.samples_per_s)},
                           {"tokens_per_s", number_or_null(f.tokens_per_s)},
                           {"peak_bytes", integer_or_null(f.peak_bytes)},
                           {"parameters", integer_or_null(f.parameters)},
                           {"seed", run.value("seed")},
                           {"majority_class", integer_or_null(f.majority_class)},
                           {"majority_accuracy", number_or_null(f.majority_score)}});
  }
  for (const auto& [key, values] : differences_of(runs)) out["differences"][key] = values;
  return out;
}

}  // namespace flare
