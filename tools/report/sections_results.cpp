/// What evaluation found: scores, accuracy by length, confusion, the distribution of errors and the pictures of fields.
#include <algorithm>
#include <cmath>

#include <fmt/format.h>

#include "core/check.h"
#include "core/file.h"
#include "tools/report/chart.h"
#include "tools/report/html.h"
#include "tools/report/sections.h"

namespace flare {
namespace {

constexpr size_t kMostClasses = 32, kMostBuckets = 64, kMostBins = 30, kMostTimes = 256;

std::string integer(double value) { return number_or_dash(value, "{:.0f}"); }

Table scores_table(const RunRecord& run) {
  const char* score = run.score_name.c_str();
  Table table{"Scores by split", {"split", "answers of", run.score_name, "loss", "samples", "step"}, {}, 2};
  for (const Json& e : run.evaluations) {
    const std::string split = text_at(e, "split"), samples = integer(number_at(e, "n_samples"));
    table.rows.push_back({split, "the model", number_or_dash(number_at(e, score)), number_or_dash(number_at(e, "loss")), samples,
                          integer(number_at(e, "step"))});
    for (const auto& [key, whose] : {std::pair("relative_l2_step", "the model, mean over times"),
                                     std::pair("relative_l2_warped", "the model, decoded as the published figures are")})
      if (const double error = number_at(e, key); !std::isnan(error))
        table.rows.push_back({split, whose, number_or_dash(error), "", samples, ""});
    if (const double majority = number_at(e, "majority_accuracy"); !std::isnan(majority))
      table.rows.push_back(
          {split, "always class " + integer(number_at(e, "majority_class")), number_or_dash(majority), "", samples, ""});
  }
  return table;
}

std::string by_length(const Json& e) {
  const Json& buckets = member(e, "by_length");
  if (!buckets.is_array() || buckets.empty()) return "";
  std::string html =
      "<div><h3>By length</h3><div class=\"scroll\"><table><caption>Accuracy by length</caption>\n<thead><tr><th "
      "scope=\"col\">tokens</th><th scope=\"col\" class=\"n\">samples</th><th scope=\"col\" class=\"n\">accuracy</th><td>"
      "</td></tr></thead>\n<tbody>";
  for (size_t i = 0; i < std::min(buckets.size(), kMostBuckets); ++i) {
    const Json& b = buckets[i];
    const double accuracy = number_at(b, "accuracy");
    html += fmt::format(
        "<tr><th scope=\"row\">{}–{}</th><td class=\"n\">{}</td><td class=\"n\">{}</td><td class=\"bar\" aria-hidden=\"true\"><i "
        "style=\"width:{:.1f}%\"></i></td></tr>\n",
        integer(number_at(b, "from")), integer(number_at(b, "to")), integer(number_at(b, "n_samples")), number_or_dash(accuracy),
        std::isnan(accuracy) ? 0.0 : 100 * std::clamp(accuracy, 0.0, 1.0));
  }
  return html + "</tbody></table></div></div>\n";
}

std::string by_time(const Json& e) {
  const Json& list = member(e, "relative_l2_by_time");
  if (!list.is_array() || list.empty() || list.size() > kMostTimes) return "";
  Table table{"Relative L2 of each time", {"time", "relative L2"}, {}, 1};
  for (size_t t = 0; t < list.size(); ++t)
    table.rows.push_back({std::to_string(t), list[t].is_number() ? short_number(list[t].get<double>(), 4) : "–"});
  return "<div><h3>By time</h3>" + html_table(table) + "</div>\n";
}

/// Rows are true classes, columns predictions; the shade is the share of the row.
std::string confusion(const Json& e) {
  const Json& matrix = member(e, "confusion");
  if (!matrix.is_array() || matrix.empty() || matrix.size() > kMostClasses) return "";
  std::string html =
      "<div><h3>Confusion</h3><div class=\"scroll explained\" tabindex=\"0\" role=\"region\" aria-label=\"Confusion "
      "matrix\"><table "
      "class=\"heat\"><caption>Samples of each true class (row) by predicted class (column)</caption>\n<thead><tr><th "
      "scope=\"col\">true</th>";
  for (size_t i = 0; i < matrix.size(); ++i) html += fmt::format("<th scope=\"col\" class=\"n\">{}</th>", i);
  html += "</tr></thead>\n<tbody>";
  for (size_t i = 0; i < matrix.size(); ++i) {
    const Json& row = matrix[i];
    if (!row.is_array() || row.size() != matrix.size()) return "";
    double total = 0;
    for (const Json& count : row) total += count.is_number() ? count.get<double>() : 0;
    html += fmt::format("<tr><th scope=\"row\">{}</th>", i);
    for (size_t k = 0; k < row.size(); ++k) {
      const double count = row[k].is_number() ? row[k].get<double>() : 0;
      html += fmt::format("<td class=\"n{}\" style=\"--share:{:.2f}\">{:.0f}</td>", i == k ? " hit" : "",
                          total > 0 ? count / total : 0, count);
    }
    html += "</tr>\n";
  }
  return html + "</tbody></table></div></div>\n";
}

/// Quantiles and a histogram of the errors of single samples.
std::string errors(const RunRecord& run, const Json& e) {
  const Json& list = member(e, "errors");
  std::vector<double> values;
  if (list.is_array())
    for (const Json& value : list)
      if (value.is_number() && std::abs(value.get<double>()) < 1e150) values.push_back(value.get<double>());
  if (values.empty()) return "";
  std::sort(values.begin(), values.end());
  const auto quantile = [&](double q) { return values[static_cast<size_t>(q * static_cast<double>(values.size() - 1) + 0.5)]; };
  Table table{"Relative L2 of single samples", {"share of samples", "at most"}, {}, 1};
  for (const double q : {0.0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0})
    table.rows.push_back({q == 0 ? "best" : q == 1 ? "worst" : fmt::format("{:.0f} %", 100 * q), short_number(quantile(q), 4)});

  const size_t n_bins = std::clamp<size_t>(static_cast<size_t>(std::sqrt(static_cast<double>(values.size()))), 4, kMostBins);
  const double lo = values.front(), width = (values.back() - lo) / static_cast<double>(n_bins);
  std::vector<double> edges;
  std::vector<int64_t> counts(n_bins);
  for (size_t i = 0; i <= n_bins; ++i) edges.push_back(lo + width * static_cast<double>(i));
  for (const double value : values)
    if (width > 0) ++counts[std::min(static_cast<size_t>((value - lo) / width), n_bins - 1)];
  const std::string what =
      fmt::format("histogram of the relative L2 of {} samples of the {} split: {} to {}, median {}", values.size(),
                  text_at(e, "split"), short_number(lo, 4), short_number(values.back(), 4), short_number(quantile(0.5), 4));
  const std::string title = run.score_name == "relative_l2" ? "Samples by relative L2" : "Samples by error";
  return "<div>" + html_histogram(title, edges, counts, what) + "</div><div><h3>Error quantiles</h3>" + html_table(table) +
         "</div>\n";
}

}  // namespace

std::string results_section(const RunRecord& run) {
  if (run.evaluations.empty())
    return "<section><h2>Results</h2><p>Not evaluated yet: training evaluates the test split after its last step, <code>flare "
           "eval</code> any split at any time.</p></section>\n";
  std::string html = "<section><h2>Results</h2>" + html_table(scores_table(run));
  for (const Json& e : run.evaluations)
    if (const std::string chosen = text_at(e, "chosen_by"); !chosen.empty())
      html += fmt::format("<p class=\"sub\">{}: weights of {}</p>\n", html_escape(text_at(e, "split")), html_escape(chosen));
  html += "</section>\n";
  for (const Json& e : run.evaluations) {
    const std::string details = by_length(e) + by_time(e) + confusion(e) + errors(run, e);
    if (!details.empty())
      html += fmt::format("<section><h2>{} split in detail</h2><div class=\"columns\">{}</div></section>\n",
                          html_escape(text_at(e, "split")), details);
  }
  return html;
}

std::string panels_section(const RunRecord& run, size_t budget) {
  static constexpr std::string_view kPngSignature = "\x89PNG\r\n\x1a\n";
  std::string html;
  std::vector<std::string> left_out;
  for (const char* split : {"test", "val", "train"}) {
    const auto e =
        std::find_if(run.evaluations.begin(), run.evaluations.end(), [&](const Json& j) { return text_at(j, "split") == split; });
    for (const char* which : {"best", "median", "worst"}) {
      const std::string name = cat("panels/", split, "-", which, ".png"), path = run.path + "/" + name;
      if (!file_exists(path)) continue;
      std::string bytes;
      try {
        bytes = read_file(path);
      } catch (const DataError&) {
        // Named below.
      }
      std::string caption = cat(split, " split, ", which, " sample");
      if (e != run.evaluations.end()) {
        const Json& entry = member(*e, which);
        if (entry.is_object())
          caption += fmt::format(": number {}, relative L2 {}", integer(number_at(entry, "sample")),
                                 short_number(number_at(entry, "relative_l2"), 4));
      }
      const size_t cost = bytes.size() / 3 * 4 + 2 * caption.size() + 200;
      if (!bytes.starts_with(kPngSignature) || cost > budget) {
        left_out.push_back(name);
        continue;
      }
      budget -= cost;
      html += fmt::format(
          "<figure class=\"panel\"><img alt=\"Field, prediction and error: {0}\" src=\"data:image/png;base64,{1}\"><figcaption>{0}"
          "</figcaption></figure>\n",
          html_escape(caption), base64(bytes));
    }
  }
  if (html.empty() && left_out.empty()) return "";
  if (!left_out.empty()) {
    html += "<p class=\"note\">Not shown, because the page would grow too large or the file is no PNG:";
    for (const std::string& name : left_out) html += fmt::format(" {}", html_escape(name));
    html += "</p>";
  }
  return fmt::format("<section><h2>Fields</h2>{}</section>\n", html);
}

}  // namespace flare
