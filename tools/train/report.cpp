#include "tools/train/report.h"

#include <algorithm>

#include <fmt/format.h>

#include "core/file.h"
#include "tools/train/chart.h"
#include "tools/train/progress.h"
#include "tools/train/run_folder.h"

namespace flare {
namespace {

constexpr const char* kStyle =
    "body{font:15px/1.5 system-ui,sans-serif;max-width:1340px;margin:2em auto;padding:0 1em;color:#1b1f24;background:#fff}"
    "h1{font-size:1.5em;margin-bottom:.2em}h2{font-size:1.15em;margin-top:1.8em}.sub{color:#57606a}"
    ".charts{display:flex;flex-wrap:wrap;gap:16px}.charts svg{width:min(640px,100%);border:1px solid #d0d7de;border-radius:6px}"
    "svg .title{font-weight:600;font-size:14px}svg .tick{font-size:11px;fill:#57606a}svg .grid{stroke:#eaeef2}"
    "table{border-collapse:collapse;margin:.5em 0}td,th{padding:3px 10px;border:1px solid "
    "#d0d7de;text-align:left;font-variant-numeric:tabular-nums}"
    "th{background:#f6f8fa;font-weight:600}.confusion td{text-align:right}.two{display:flex;flex-wrap:wrap;gap:32px}";

Series curve(const std::vector<Json>& lines, const std::string& split, const std::string& key, bool faint = false) {
  Series series{split, {}, faint};
  for (const Json& line : lines) {
    const auto value = line.find(key);
    if (line.value("split", "") == split && value != line.end() && value->is_number())
      series.points.emplace_back(line.value("step", 0.0), value->get<double>());
  }
  return series;
}

std::string number(const Json& object, const char* key, const char* format = "{:.4f}") {
  const auto value = object.find(key);
  if (value == object.end() || !value->is_number()) return "–";
  return fmt::format(fmt::runtime(format), value->get<double>());
}

/// The results of one split: scores with the majority row, accuracy by length, confusion.
std::string evaluation_section(const Json& e) {
  const std::string score = e.value("score_name", "accuracy");
  std::string html = fmt::format(
      "<h2>{} split</h2><p class=\"sub\">{} samples; weights: {}; {}</p><table><tr><th></th><th>{}</th><th>loss</th></tr>"
      "<tr><th>model</th><td><b>{}</b></td><td>{}</td></tr>",
      html_escape(e.value("split", "")), e.value("n_samples", int64_t{0}), html_escape(e.value("weights", "")),
      html_escape(e.value("chosen_by", "")), html_escape(score), number(e, score.c_str()), number(e, "loss"));
  if (e.contains("majority_accuracy"))
    html += fmt::format("<tr><th>always class {}</th><td>{}</td><td></td></tr>", number(e, "majority_class", "{:.0f}"),
                        number(e, "majority_accuracy"));
  html += "</table>\n<div class=\"two\">";
  if (const auto buckets = e.find("by_length"); buckets != e.end() && buckets->is_array() && !buckets->empty()) {
    html += "<div><h2>By length</h2><table><tr><th>tokens</th><th>samples</th><th>accuracy</th></tr>";
    for (const Json& b : *buckets)
      html += fmt::format("<tr><td>{}–{}</td><td>{}</td><td>{}</td></tr>", b.value("from", int64_t{0}), b.value("to", int64_t{0}),
                          b.value("n_samples", int64_t{0}), number(b, "accuracy"));
    html += "</table></div>";
  }
  if (const auto matrix = e.find("confusion"); matrix != e.end() && matrix->is_array() && matrix->size() <= 32) {
    std::vector<std::string> names;
    for (size_t i = 0; i < matrix->size(); ++i) names.push_back(std::to_string(i));
    html += "<div><h2>Confusion</h2>" + html_confusion(matrix->get<std::vector<std::vector<double>>>(), names) + "</div>";
  }
  return html + "</div>\n";
}

}  // namespace

void write_report(const std::string& run) {
  const std::vector<Json> lines = read_metrics(run);
  Recipe recipe = recipe_of(run);
  std::string score = "accuracy";
  std::vector<Json> evaluations;
  for (const char* split : {"test", "val", "train"}) {
    const std::string path = fmt::format("{}/eval-{}.json", run, split);
    if (!file_exists(path)) continue;
    Json e = Json::parse(read_file(path), nullptr, false);
    if (!e.is_object()) continue;
    score = e.value("score_name", score);
    evaluations.push_back(std::move(e));
  }
  std::string html = fmt::format(
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">"
      "<title>{0} · flare</title><style>{1}</style></head><body>\n<h1>{0}</h1><p class=\"sub\">task {2} · seed {3} · flare {4}",
      html_escape(run), kStyle, html_escape(recipe.task.name), recipe.seed, html_escape(recipe.version));
  const auto last = std::find_if(lines.rbegin(), lines.rend(), [](const Json& l) { return l.value("split", "") == "train"; });
  if (last != lines.rend())
    html += fmt::format(" · step {} of {} · {} ms/step · {} tokens/s · peak memory {}", last->value("step", int64_t{0}),
                        recipe.train.steps, number(*last, "ms_per_step", "{:.3g}"), format_count(last->value("tokens_per_s", 0.0)),
                        format_bytes(last->value("peak_bytes", int64_t{0})));
  html += "</p>\n";
  for (const Json& e : evaluations) html += evaluation_section(e);
  html += "<h2>Training</h2><div class=\"charts\">\n";
  html += svg_chart("loss", {curve(lines, "train", "loss", true), curve(lines, "val", "loss")}, true);
  html += svg_chart(score, {curve(lines, "train", score, true), curve(lines, "val", score)});
  html += svg_chart("learning rate", {curve(lines, "train", "lr")});
  html += svg_chart("gradient norm", {curve(lines, "train", "grad_norm")}, true);
  html += "</div>\n<h2>Configuration</h2><table><tr><th>key</th><th>value</th><th></th></tr>\n";
  const FieldList list = recipe.fields();
  for (const Field& field : list.fields())
    html += fmt::format("<tr><td>{}</td><td>{}</td><td class=\"sub\">{}</td></tr>\n", html_escape(field.key),
                        html_escape(field.get().dump()), html_escape(field.help));
  html += "</table></body></html>\n";
  write_file_atomically(run + "/report.html", html);
}

}  // namespace flare
