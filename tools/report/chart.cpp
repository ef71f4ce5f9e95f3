#include "tools/report/chart.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <fmt/format.h>

#include "tools/report/html.h"

namespace flare {
namespace {

// The curve area in its own units; integers in paths are then finer than a pixel.
constexpr double kWidth = 2000, kHeight = 1000;
constexpr size_t kMostDots = 24;       // a curve with at most so many points shows each
constexpr size_t kMostColumns = 4;     // of values in the table; more curves get a line each instead
constexpr size_t kMostTableRows = 30;  // of values
constexpr size_t kColours = 8, kDashes = 4;

using Points = std::vector<std::pair<double, double>>;

/// A linear or logarithmic axis from lo to hi, mapped to [0,1].
struct Axis {
  double lo, hi;
  bool log;
  double at(double v) const { return log ? std::log(v / lo) / std::log(hi / lo) : (v - lo) / (hi - lo); }
};

/// The range of the values with a margin, never empty.
Axis fitted(double lo, double hi, bool log, double margin) {
  if (log) {
    if (hi / lo < 1 + 1e-6) {
      lo /= 1.1;
      hi *= 1.1;
    }
    const double pad = std::pow(hi / lo, margin);
    return {lo / pad, hi * pad, true};
  }
  if (hi - lo < 1e-12 + 1e-6 * std::abs(hi)) {
    const double pad = std::max(0.05 * std::abs(hi), 1e-9);
    lo -= pad;
    hi += pad;
  }
  const double pad = margin * (hi - lo);
  return {lo - pad, hi + pad, false};
}

/// "s3 d1": colour and dash pattern of curve i. Dashes shift after each round of colours, so 32 curves all differ.
std::string style_of(size_t i) { return fmt::format("s{} d{}", i % kColours, (i + i / kColours) % kDashes); }

std::string legend_key(size_t i, bool faint) {
  return fmt::format(
      "<svg class=\"key\" viewBox=\"0 0 24 8\" aria-hidden=\"true\"><path class=\"curve {}{}\" d=\"M0 4H24\"/></svg>", style_of(i),
      faint ? " faint" : "");
}

std::string description(const Chart& chart, const std::vector<Series>& curves) {
  std::string text = chart.title + (chart.unit.empty() ? "" : " in " + chart.unit);
  constexpr size_t kMostNamed = 6;
  for (size_t i = 0; i < std::min(curves.size(), kMostNamed); ++i) {
    const Points& p = curves[i].points;
    text += fmt::format("{} {} {}", i == 0 ? "," : ";", curves[i].name, short_number(p.front().second, 4));
    if (p.size() > 1) text += " to " + short_number(p.back().second, 4);
    if (chart.best == Best::none || curves[i].faint || p.size() < 2) continue;
    const auto by_value = [](const auto& a, const auto& b) { return a.second < b.second; };
    const auto best = chart.best == Best::lowest ? std::min_element(p.begin(), p.end(), by_value)
                                                 : std::max_element(p.begin(), p.end(), by_value);
    text += fmt::format(", best {} at {} {}", short_number(best->second, 4), chart.x_name, short_number(best->first));
  }
  if (curves.size() > kMostNamed) text += fmt::format("; and {} more curves", curves.size() - kMostNamed);
  return text;
}

/// The values for those who cannot see the curves: at some steps, or for many curves a line each.
Table values_table(const Chart& chart, const std::vector<Series>& curves) {
  Table table;
  if (curves.size() > kMostColumns) {
    table.caption = chart.title + ": first, last, lowest and highest value of each curve";
    table.head = {"curve", "first", "last", "lowest", "at " + chart.x_name, "highest", "at " + chart.x_name};
    for (const Series& s : curves) {
      const auto [lo, hi] =
          std::minmax_element(s.points.begin(), s.points.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
      table.rows.push_back({s.name, short_number(s.points.front().second), short_number(s.points.back().second),
                            short_number(lo->second), short_number(lo->first), short_number(hi->second), short_number(hi->first)});
    }
    return table;
  }
  // The rows of the curve with the fewest points come first: those of the others between them would be mostly dashes.
  std::set<double> rows;
  std::vector<const Series*> by_size;
  for (const Series& s : curves) by_size.push_back(&s);
  std::stable_sort(by_size.begin(), by_size.end(), [](auto* a, auto* b) { return a->points.size() < b->points.size(); });
  size_t n_values = 0;
  for (const Series* s : by_size) {
    n_values += s->points.size();
    const size_t stride = std::max<size_t>(1, (s->points.size() + kMostTableRows - 1) / kMostTableRows);
    for (size_t i = 0; i < s->points.size() && rows.size() < kMostTableRows; i += stride) rows.insert(s->points[i].first);
    rows.insert(s->points.back().first);
  }
  table.head = {chart.x_name};
  for (const Series& s : curves) table.head.push_back(s.name);
  size_t n_shown = 0;
  for (const double x : rows) {
    table.rows.push_back({short_number(x, 12)});
    for (const Series& s : curves) {
      const auto found = std::find_if(s.points.begin(), s.points.end(), [&](const auto& p) { return p.first == x; });
      n_shown += found != s.points.end();
      table.rows.back().push_back(found == s.points.end() ? "" : short_number(found->second));
    }
  }
  table.caption = chart.title + (n_shown < n_values ? fmt::format(": {} of {} values", n_shown, n_values) : ": values");
  return table;
}

std::string tick_labels(const Axis& x, const Axis& y, bool with_x = true) {
  std::string html = "<div class=\"ticks y\" aria-hidden=\"true\">";
  for (const double t : axis_ticks(y.lo, y.hi, y.log))
    html += fmt::format("<span style=\"bottom:{:.2f}%\">{}</span>", 100 * y.at(t), short_number(t));
  html += "</div><div class=\"ticks x\" aria-hidden=\"true\">";
  if (with_x)
    for (const double t : axis_ticks(x.lo, x.hi, x.log))
      html += fmt::format("<span style=\"left:{:.2f}%\">{}</span>", 100 * x.at(t), short_number(t));
  return html + "</div>";
}

std::string grid_path(const Axis& y) {
  std::string path;
  for (const double t : axis_ticks(y.lo, y.hi, y.log)) path += fmt::format("M0 {:.0f}H{:.0f}", kHeight * (1 - y.at(t)), kWidth);
  return "<path class=\"grid\" d=\"" + path + "\"/>";
}

}  // namespace

std::vector<std::pair<double, double>> thinned(const Points& points, size_t most) {
  const size_t n = points.size();
  if (n <= most || most < 4) return n <= most ? points : Points{points.front(), points.back()};
  const size_t stretches = (most - 2) / 2;
  Points out = {points.front()};
  for (size_t k = 0; k < stretches; ++k) {
    const size_t begin = 1 + k * (n - 2) / stretches, end = 1 + (k + 1) * (n - 2) / stretches;
    size_t lo = begin, hi = begin;
    for (size_t i = begin; i < end; ++i) {
      if (points[i].second < points[lo].second) lo = i;
      if (points[i].second > points[hi].second) hi = i;
    }
    out.push_back(points[std::min(lo, hi)]);
    if (lo != hi) out.push_back(points[std::max(lo, hi)]);
  }
  out.push_back(points.back());
  return out;
}

std::vector<double> axis_ticks(double lo, double hi, bool log) {
  std::vector<double> at;
  if (log) {
    const int first = static_cast<int>(std::floor(std::log10(lo))), last = static_cast<int>(std::ceil(std::log10(hi)));
    for (const std::vector<double>& leads : {std::vector<double>{1, 2, 5}, std::vector<double>{1}}) {
      at.clear();
      const int stride = leads.size() > 1 ? 1 : std::max(1, (last - first + 5) / 6);
      for (int power = first; power <= last; power += stride)
        for (const double lead : leads)
          if (const double t = lead * std::pow(10.0, power); t >= lo * (1 - 1e-9) && t <= hi * (1 + 1e-9)) at.push_back(t);
      if (at.size() <= 7) break;
    }
    if (at.size() >= 3) return at;
    at.clear();
  }
  const double raw = (hi - lo) / 5, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double lead = raw / power, step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  for (double k = std::ceil(lo / step - 1e-9); k * step <= hi + step * 1e-9 && at.size() < 20; ++k) at.push_back(k * step);
  return at;
}

std::string html_chart(const Chart& chart, size_t most_points) {
  std::vector<Series> curves;
  std::vector<size_t> styles;  // by the place in the chart's list: a run looks the same where another run has no curve
  double x_lo = INFINITY, x_hi = -INFINITY, y_lo = INFINITY, y_hi = -INFINITY;
  for (const Series& s : chart.series) {
    Series kept{s.name, {}, s.faint};
    for (const auto& [x, y] : s.points)
      if (std::isfinite(x) && std::isfinite(y) && (!chart.log_y || y > 0)) kept.points.emplace_back(x, y);
    if (kept.points.empty()) continue;
    std::stable_sort(kept.points.begin(), kept.points.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    kept.points = thinned(kept.points, most_points);
    for (const auto& [x, y] : kept.points) {
      x_lo = std::min(x_lo, x);
      x_hi = std::max(x_hi, x);
      y_lo = std::min(y_lo, y);
      y_hi = std::max(y_hi, y);
    }
    curves.push_back(std::move(kept));
    styles.push_back(static_cast<size_t>(&s - chart.series.data()));
  }
  if (curves.empty()) return "";
  const Axis x = fitted(x_lo, x_hi, false, 0.012), y = fitted(y_lo, y_hi, chart.log_y, 0.05);

  Json data = {{"title", chart.title}, {"x", chart.x_name}, {"log", chart.log_y}, {"series", Json::array()}};
  std::string paths, legend;
  for (size_t i = 0; i < curves.size(); ++i) {
    const Series& s = curves[i];
    std::string line, dots;
    Json xs = Json::array(), ys = Json::array();
    for (const auto& [px, py] : s.points) {
      const std::string at = fmt::format("{:.0f} {:.0f}", kWidth * x.at(px), kHeight * (1 - y.at(py)));
      line += (line.empty() ? "M" : line.size() == at.size() + 1 ? "L" : " ") + at;
      dots += "M" + at + "h0";
      xs.push_back(std::stod(fmt::format("{:.12g}", px)));
      ys.push_back(std::stod(fmt::format("{:.6g}", py)));
    }
    const bool has_dots = s.points.size() == 1 || (s.points.size() <= kMostDots && !s.faint);
    paths += fmt::format("<g class=\"{}{}\"><path class=\"curve\" d=\"{}\"/><path class=\"dots\" d=\"{}\"/></g>\n",
                         style_of(styles[i]), s.faint ? " faint" : "", line, has_dots ? dots : "");
    legend += fmt::format("<li>{}<span>{}</span></li>", legend_key(styles[i], s.faint), html_escape(s.name));
    data["series"].push_back({{"name", s.name}, {"dots", has_dots}, {"x", xs}, {"y", ys}});
  }
  return fmt::format(
             "<figure class=\"chart\" id=\"{}\"><figcaption><h3>{}{}</h3></figcaption>\n<div class=\"plot\"><svg viewBox=\"0 0 {} "
             "{}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">{}\n{}</svg>{}</div>\n<ul "
             "class=\"legend\">{}</ul>\n",
             chart.id, html_escape(chart.title), chart.unit.empty() ? "" : " <small>" + html_escape(chart.unit) + "</small>",
             kWidth, kHeight, html_escape(description(chart, curves)), grid_path(y), paths, tick_labels(x, y), legend) +
         "<details class=\"values\"><summary>Values</summary>" + html_table(values_table(chart, curves)) +
         "</details><script type=\"application/json\">" + script_json(data) + "</script></figure>\n";
}

std::string html_histogram(const std::string& title, const std::vector<double>& edges, const std::vector<int64_t>& counts,
                           const std::string& description) {
  if (counts.empty() || edges.size() != counts.size() + 1 || !(edges.front() < edges.back())) return "";
  const Axis x{edges.front(), edges.back(), false};
  const Axis y{0, 1.05 * static_cast<double>(std::max<int64_t>(1, *std::max_element(counts.begin(), counts.end()))), false};
  std::string bars;
  for (size_t i = 0; i < counts.size(); ++i)
    if (counts[i] > 0)
      bars += fmt::format("M{:.0f} {:.0f}V{:.0f}H{:.0f}V{:.0f}z", kWidth * x.at(edges[i]), kHeight,
                          kHeight * (1 - y.at(static_cast<double>(counts[i]))), kWidth * x.at(edges[i + 1]), kHeight);
  return fmt::format(
      "<figure class=\"chart\"><figcaption><h3>{}</h3></figcaption>\n<div class=\"plot\"><svg viewBox=\"0 0 {} {}\" "
      "preserveAspectRatio=\"none\" role=\"img\" aria-label=\"{}\">{}<path class=\"bars\" d=\"{}\"/></svg>{}</div></figure>\n",
      html_escape(title), kWidth, kHeight, html_escape(description), grid_path(y), bars, tick_labels(x, y));
}

}  // namespace flare
