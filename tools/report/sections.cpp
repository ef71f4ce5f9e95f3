#include "tools/report/sections.h"

#include <algorithm>

#include <fmt/format.h>

#include "tools/report/chart.h"
#include "tools/report/comparison.h"
#include "tools/report/html.h"
#include "tools/train/config.h"
#include "tools/train/progress.h"

namespace flare {
namespace {

constexpr size_t kPointsOfPage = 24000, kMostPoints = 600, kFewestPoints = 24;

// report.js shows it.
constexpr const char* kHint =
    "<p class=\"hint sub\" hidden>Move the pointer over a chart, or focus it and press ← →, to read values. Drag, or press + and "
    "−, to "
    "zoom; double-click or press Escape to see everything again.</p>\n";

std::string charts_section(const std::string& charts) {
  if (charts.empty()) return "<section><h2>Training</h2><p>Nothing was logged yet.</p></section>\n";
  return std::string("<section><h2>Training</h2>") + kHint + "<div class=\"charts\">\n" + charts + "</div></section>\n";
}

std::string tile(const std::string& name, const std::string& value, const std::string& note = "") {
  return fmt::format("<div><dt>{}</dt><dd>{}{}</dd></div>", html_escape(name), html_escape(value),
                     note.empty() ? "" : " <small>" + html_escape(note) + "</small>");
}
std::string fact(const std::string& name, const std::string& value) {
  return value.empty() ? "" : fmt::format("<div><dt>{}</dt><dd>{}</dd></div>", html_escape(name), html_escape(value));
}
std::string text_of(const Json& value) {
  return value.is_string() ? value.get<std::string>() : value.is_null() ? "" : value.dump();
}

std::string words(std::string name) {  // relative_l2 -> relative L2
  if (name == "relative_l2") return "relative L2";
  std::replace(name.begin(), name.end(), '_', ' ');
  return name;
}

/// One kind of value over the steps: what it is called in metrics.jsonl and how it is drawn.
struct Quantity {
  std::string key, id, title, unit;
  bool log_y = false;
  Best best = Best::none;
  double scale = 1;
  std::vector<const char*> splits = {"train"};
};

std::vector<Quantity> quantities(const RunRecord& run) {
  return {{"loss", "loss", "loss", "", true, Best::lowest, 1, {"train", "val"}},
          {run.score_name,
           "score",
           words(run.score_name),
           "",
           !run.higher_is_better,
           run.higher_is_better ? Best::highest : Best::lowest,
           1,
           {"train", "val"}},
          {"lr", "lr", "learning rate", ""},
          {"grad_norm", "grad-norm", "gradient norm", "", true},
          {"tokens_per_s", "throughput", "throughput", "tokens/s"},
          {"peak_bytes", "memory", "peak memory", "MiB", false, Best::none, 0x1p-20}};
}

RunRecord::Points scaled(RunRecord::Points points, double by) {
  for (auto& [x, y] : points) y *= by;
  return points;
}

const char* split_name(const std::string& split) { return split == "train" ? "training" : split == "val" ? "validation" : "test"; }

}  // namespace

size_t points_per_curve(size_t n_curves) {
  return std::clamp(kPointsOfPage / std::max<size_t>(n_curves, 1), kFewestPoints, kMostPoints);
}

std::string header_section(const RunRecord& run) {
  const RunFigures f = figures_of(run);
  const std::string recipe = text_at(run.summary, "recipe"), task = text_of(run.value("task.name"));
  std::string state = "no step logged yet";
  if (!std::isnan(f.steps)) {
    state = f.steps >= f.steps_planned ? "finished" : "stopped or still running";
    state += fmt::format(", step {} of {}", number_or_dash(f.steps, "{:.0f}"), number_or_dash(f.steps_planned, "{:.0f}"));
  }
  std::string html = fmt::format("<header><p class=\"over\">{}</p><h1>{}</h1><p class=\"sub\">{}</p></header>\n",
                                 html_escape("flare · " + (task.empty() ? "run" : task)), html_escape(run.name),
                                 html_escape((recipe.empty() ? "" : "recipe " + recipe + " · ") + state));
  for (const std::string& warning : run.warnings) html += "<p class=\"note\">" + html_escape(warning) + "</p>\n";

  html += "<dl class=\"tiles\">";
  if (!f.split.empty()) {
    const std::string majority = std::isnan(f.majority_score) ? ""
                                                              : number_or_dash(f.majority_score) + " by always answering class " +
                                                                    number_or_dash(f.majority_class, "{:.0f}");
    html += tile(std::string(split_name(f.split)) + " " + words(run.score_name), number_or_dash(f.score), majority);
    html += tile(std::string(split_name(f.split)) + " loss", number_or_dash(f.loss),
                 std::isnan(f.best_step) ? "" : "at step " + number_or_dash(f.best_step, "{:.0f}"));
  }
  if (!std::isnan(f.seconds)) html += tile("wall time", format_duration(f.seconds), "evaluation included");
  if (!std::isnan(f.ms_per_step)) html += tile("a step", number_or_dash(f.ms_per_step, "{:.3g}") + " ms", "median");
  if (!std::isnan(f.samples_per_s)) html += tile("throughput", short_number(f.samples_per_s, 4), "samples/s");
  if (!std::isnan(f.peak_bytes)) html += tile("peak memory", format_bytes(whole(f.peak_bytes)));
  if (!std::isnan(f.parameters)) html += tile("parameters", short_number(f.parameters, 4));
  html += "</dl>\n<dl class=\"facts\">";

  std::vector<std::string> splits;
  for (const auto& [split, count] : member(run.data, "splits").items()) splits.push_back(split + " " + text_of(count));
  const auto rank = [](const std::string& s) { return s.starts_with("train ") ? 0 : s.starts_with("val ") ? 1 : 2; };
  std::stable_sort(splits.begin(), splits.end(), [&](const auto& a, const auto& b) { return rank(a) < rank(b); });
  std::string samples;
  for (const std::string& split : splits) samples += (samples.empty() ? "" : ", ") + split;
  html += fact("data", text_of(run.value("task.data")));
  html += fact("data set", text_at(run.data, "name"));
  html += fact("samples", samples);
  html += fact("source", text_at(run.data, "source"));
  html += fact("licence", text_at(run.data, "licence"));
  html += fact("device", text_at(run.summary, "device"));
  const std::string version = text_at(run.summary, "version", text_of(run.value("version"))), git = text_at(run.summary, "git");
  html += fact("flare", version + (git.empty() ? "" : ", commit " + git));
  html += fact("seed", text_of(run.value("seed")));
  html += fact("folder", run.path);
  return html + "</dl>\n";
}

std::string training_section(const RunRecord& run) {
  std::string charts;
  for (const Quantity& q : quantities(run)) {
    Chart chart{q.id, q.title, q.unit, "step", {}, q.log_y, q.best};
    for (const std::string split : q.splits)
      chart.series.push_back(
          {split_name(split), scaled(run.curve(split, q.key), q.scale), split == "train" && q.splits.size() > 1});
    charts += html_chart(chart, points_per_curve(8));
  }
  return charts_section(charts);
}

std::string configuration_section(const RunRecord& run) {
  constexpr size_t kLongest = 400;
  Recipe known;
  const FieldList list = known.fields();
  Table table{"Every configuration key", {"key", "value", "meaning"}, {}, 3};
  for (const auto& [key, value] : run.config) {
    const Field* field = list.find(key);
    table.rows.push_back({key, text_of(value).substr(0, kLongest), field ? field->help : ""});
  }
  return fmt::format("<section><h2>Configuration</h2><details><summary>All {} keys</summary>{}</details></section>\n",
                     table.rows.size(), html_table(table));
}

std::string comparison_sections(const std::vector<RunRecord>& runs) {
  std::string html = fmt::format(
      "<header><p class=\"over\">flare</p><h1>Comparison of {} runs</h1></header>\n<section><h2>Results</h2>{}</section>\n",
      runs.size(), html_table(results_table(runs, true)));
  for (const RunRecord& run : runs)
    for (const std::string& warning : run.warnings)
      html += "<p class=\"note\">" + html_escape(run.name + ": " + warning) + "</p>\n";
  const Table differences = differences_table(runs);
  html += "<section><h2>Differences</h2>" +
          (differences.rows.empty() ? "<p>The configurations are the same.</p>" : html_table(differences)) + "</section>\n";

  // Runs with another score are drawn where they have a curve of that name.
  std::vector<Quantity> all = quantities(runs.front());
  for (const RunRecord& run : runs) {
    Quantity score = quantities(run)[1];
    score.id = "score-" + std::to_string(&run - runs.data());
    if (std::none_of(all.begin(), all.end(), [&](const Quantity& q) { return q.key == score.key; }))
      all.push_back(std::move(score));
  }
  const std::vector<std::string> labels = labels_of(runs);
  std::string charts;
  for (const Quantity& q : all) {
    for (size_t s = q.splits.size(); s-- > 0;) {  // validation first
      const std::string split = q.splits[s];
      Chart chart{q.id + "-" + split,
                  q.splits.size() > 1 ? std::string(split_name(split)) + " " + q.title : q.title,
                  q.unit,
                  "step",
                  {},
                  q.log_y,
                  q.best};
      for (size_t i = 0; i < runs.size(); ++i)
        chart.series.push_back({labels[i], scaled(runs[i].curve(split, q.key), q.scale), false});
      charts += html_chart(chart, points_per_curve(8 * runs.size()));
    }
  }
  return html + charts_section(charts);
}

}  // namespace flare
