#pragma once
#include <string>
#include <utility>
#include <vector>

namespace flare {

/// One curve of a chart; points that are not finite (or, on a log axis, not positive) are left out.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
  bool faint = false;  // a thin pale line, for noisy values
};
/// An inline SVG line chart with ticks, grid, legend and a title. "" when no curve has a point.
std::string svg_chart(const std::string& title, const std::vector<Series>& series, bool log_y = false);
/// A matrix of counts as an HTML table, each row shaded by its share; rows are true classes, columns predictions.
std::string html_confusion(const std::vector<std::vector<double>>& counts, const std::vector<std::string>& names);
/// & < > " escaped.
std::string html_escape(const std::string& text);

}  // namespace flare
