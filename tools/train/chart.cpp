#include "tools/train/chart.h"

#include <algorithm>
#include <cmath>

#include <fmt/format.h>

namespace flare {
namespace {

constexpr double kWidth = 640, kHeight = 280, kLeft = 64, kRight = 16, kTop = 34, kBottom = 34;
constexpr size_t kMostPoints = 1000;
constexpr const char* kColours[] = {"#0b6e99", "#d9480f", "#2b8a3e", "#862e9c"};

/// About five round numbers covering [lo, hi].
std::vector<double> ticks(double lo, double hi) {
  const double raw = (hi - lo) / 5, power = std::pow(10.0, std::floor(std::log10(raw)));
  const double lead = raw / power, step = power * (lead < 1.5 ? 1 : lead < 3.5 ? 2 : lead < 7.5 ? 5 : 10);
  std::vector<double> at;
  for (double t = std::ceil(lo / step - 1e-9) * step; t <= hi + step * 1e-9; t += step)
    at.push_back(std::abs(t) < step * 1e-9 ? 0 : t);
  return at;
}

/// Averages neighbouring points so that a long run stays a small file.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points) {
  if (points.size() <= kMostPoints) return points;
  std::vector<std::pair<double, double>> out;
  const size_t group = (points.size() + kMostPoints - 1) / kMostPoints;
  for (size_t i = 0; i < points.size(); i += group) {
    const size_t end = std::min(points.size(), i + group);
    double x = 0, y = 0;
    for (size_t j = i; j < end; ++j) {
      x += points[j].first;
      y += points[j].second;
    }
    out.emplace_back(x / static_cast<double>(end - i), y / static_cast<double>(end - i));
  }
  return out;
}

}  // namespace

std::string html_escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&': out += "&amp;"; break;
      case '<': out += "&lt;"; break;
      case '>': out += "&gt;"; break;
      case '"': out += "&quot;"; break;
      default: out += c;
    }
  }
  return out;
}

std::string svg_chart(const std::string& title, const std::vector<Series>& series, bool log_y) {
  std::vector<Series> curves;
  double x_lo = INFINITY, x_hi = -INFINITY, y_lo = INFINITY, y_hi = -INFINITY;
  for (const Series& s : series) {
    Series kept{s.name, {}, s.faint};
    for (const auto& [x, y] : s.points)
      if (std::isfinite(y) && (!log_y || y > 0)) kept.points.emplace_back(x, log_y ? std::log10(y) : y);
    kept.points = thinned(kept.points);
    for (const auto& [x, y] : kept.points) {
      x_lo = std::min(x_lo, x);
      x_hi = std::max(x_hi, x);
      y_lo = std::min(y_lo, y);
      y_hi = std::max(y_hi, y);
    }
    if (!kept.points.empty()) curves.push_back(std::move(kept));
  }
  if (curves.empty()) return "";
  if (x_hi <= x_lo) {
    x_lo -= 1;
    x_hi += 1;
  }
  if (y_hi - y_lo < 1e-12 + 1e-6 * std::abs(y_hi)) {
    const double pad = std::max(0.05 * std::abs(y_hi), 1e-9);
    y_lo -= pad;
    y_hi += pad;
  }
  const double pad = 0.05 * (y_hi - y_lo);
  y_lo -= pad;
  y_hi += pad;
  const auto px = [&](double x) { return kLeft + (x - x_lo) / (x_hi - x_lo) * (kWidth - kLeft - kRight); };
  const auto py = [&](double y) { return kHeight - kBottom - (y - y_lo) / (y_hi - y_lo) * (kHeight - kTop - kBottom); };

  std::string svg =
      fmt::format("<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\"><text x=\"{}\" y=\"20\" class=\"title\">{}</text>\n",
                  kWidth, kHeight, html_escape(title), kLeft, html_escape(title));
  for (const double t : ticks(y_lo, y_hi)) {
    const std::string label = log_y ? fmt::format("{:.3g}", std::pow(10.0, t)) : fmt::format("{:.4g}", t);
    svg += fmt::format(
        "<line x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\" class=\"grid\"/><text x=\"{}\" y=\"{:.1f}\" class=\"tick\" "
        "text-anchor=\"end\">{}</text>\n",
        kLeft, kWidth - kRight, py(t), py(t), kLeft - 6, py(t) + 4, label);
  }
  for (const double t : ticks(x_lo, x_hi))
    svg += fmt::format("<text x=\"{:.1f}\" y=\"{}\" class=\"tick\" text-anchor=\"middle\">{:.6g}</text>\n", px(t),
                       kHeight - kBottom + 16, t);
  double legend_x = kWidth - kRight;
  for (size_t i = curves.size(); i-- > 0;) {
    const Series& s = curves[i];
    const char* colour = kColours[i % std::size(kColours)];
    std::string path;
    for (const auto& [x, y] : s.points) path += fmt::format("{:.1f},{:.1f} ", px(x), py(y));
    svg += fmt::format("<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" opacity=\"{}\"/>\n", path, colour,
                       s.faint ? 1 : 2, s.faint ? 0.55 : 1.0);
    if (s.points.size() <= 40 && !s.faint)
      for (const auto& [x, y] : s.points)
        svg += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>", px(x), py(y), colour);
    svg += fmt::format("<text x=\"{:.0f}\" y=\"20\" class=\"tick\" text-anchor=\"end\" style=\"fill:{}\">{}</text>\n", legend_x,
                       colour, html_escape(s.name));
    legend_x -= 14 + 7.0 * static_cast<double>(s.name.size());
  }
  return svg + "</svg>\n";
}

std::string html_confusion(const std::vector<std::vector<double>>& counts, const std::vector<std::string>& names) {
  std::string html = "<table class=\"confusion\"><tr><th>true \\ predicted</th>";
  for (const std::string& name : names) html += "<th>" + html_escape(name) + "</th>";
  html += "</tr>\n";
  for (size_t i = 0; i < counts.size(); ++i) {
    double total = 0;
    for (const double c : counts[i]) total += c;
    html += "<tr><th>" + html_escape(i < names.size() ? names[i] : std::to_string(i)) + "</th>";
    for (const double c : counts[i])
      html += fmt::format("<td style=\"background:rgba(11,110,153,{:.2f})\">{:.0f}</td>", total > 0 ? 0.85 * c / total : 0.0, c);
    html += "</tr>\n";
  }
  return html + "</table>\n";
}

}  // namespace flare
