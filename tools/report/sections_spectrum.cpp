/// The spectra of the mixing matrices, from spectrum.json: {"weights", "split", "samples", "layers": [{"block", "heads": [{"head",
/// "eigenvalues": [descending, in 0..1], "effective_rank"}]}]}.
#include <algorithm>

#include <fmt/format.h>

#include "tools/report/chart.h"
#include "tools/report/html.h"
#include "tools/report/sections.h"

namespace flare {
namespace {

constexpr size_t kMostLayers = 24, kMostHeads = 64;  // shown
constexpr size_t kPoints = 12000, kMostOfCurve = 128, kFewestOfCurve = 8;
constexpr double kSmallest = 1e-7;  // below the resolution of the f32 products the eigenvalues come from

}  // namespace

std::string spectrum_section(const RunRecord& run) {
  const Json& layers = member(run.spectrum, "layers");
  if (!layers.is_array() || layers.empty()) return "";
  size_t n_curves = 0, n_heads = 0;
  for (size_t i = 0; i < std::min(layers.size(), kMostLayers); ++i) {
    const Json& heads = member(layers[i], "heads");
    n_curves += heads.is_array() ? std::min(heads.size(), kMostHeads) : 0;
    n_heads = std::max(n_heads, heads.is_array() ? std::min(heads.size(), kMostHeads) : 0);
  }
  if (n_curves == 0) return "";
  const size_t most = std::clamp(kPoints / n_curves, kFewestOfCurve, kMostOfCurve);

  Table ranks{"Effective rank of each head", {"block"}, {}, 1};
  for (size_t k = 0; k < n_heads; ++k) ranks.head.push_back(fmt::format("head {}", k));
  std::string charts;
  for (size_t i = 0; i < std::min(layers.size(), kMostLayers); ++i) {
    const Json& heads = member(layers[i], "heads");
    if (!heads.is_array()) continue;
    const std::string block = number_or_dash(number_at(layers[i], "block"), "{:.0f}");
    Chart chart{"spectrum-" + std::to_string(i), "eigenvalues, block " + block, "", "eigenvalue", {}, true};
    std::vector<std::string> row = {block};
    for (size_t k = 0; k < std::min(heads.size(), kMostHeads); ++k) {
      Series series{"head " + number_or_dash(number_at(heads[k], "head"), "{:.0f}"), {}, false};
      if (const Json& values = member(heads[k], "eigenvalues"); values.is_array())
        for (size_t n = 0; n < values.size(); ++n)
          if (values[n].is_number() && values[n].get<double>() > kSmallest)
            series.points.emplace_back(static_cast<double>(n + 1), values[n].get<double>());
      chart.series.push_back(std::move(series));
      row.push_back(short_number(number_at(heads[k], "effective_rank"), 4));
    }
    row.resize(ranks.head.size());
    ranks.rows.push_back(std::move(row));
    charts += html_chart(chart, most);
  }
  std::string html = "<section><h2>Spectra of the mixers</h2>";
  html += fmt::format(
      "<p class=\"sub\">Eigenvalues of the matrix by which each head mixes tokens; {} samples of the {} split, weights {}.</p>\n",
      number_or_dash(number_at(run.spectrum, "samples"), "{:.0f}"), html_escape(text_at(run.spectrum, "split", "?")),
      html_escape(text_at(run.spectrum, "weights", "?")));
  if (layers.size() > kMostLayers)
    html += fmt::format("<p class=\"note\">The first {} of {} blocks are shown; spectrum.json has all.</p>", kMostLayers,
                        layers.size());
  return html + html_table(ranks) + "<div class=\"charts\">\n" + charts + "</div></section>\n";
}

}  // namespace flare
