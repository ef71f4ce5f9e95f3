#pragma once
/// Charts drawn as inline SVG. A chart is a curve area that stretches with its box (labels are HTML beside it, so text keeps its
/// size on a phone), a legend, a description for screen readers, and a table of values. report.js adds cursor and zoom; without it
/// the chart is complete.
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace flare {

/// One curve; points that are not finite are left out.
struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;
  bool faint = false;  // a thin pale line, for noisy values
};

enum class Best { none, lowest, highest };  // the point of a curve that the description names

struct Chart {
  std::string id;     // of the element: letters, digits, "-"
  std::string title;  // "loss"
  std::string unit;   // "MiB", or ""
  std::string x_name = "step";
  std::vector<Series> series;
  bool log_y = false;  // points that are not positive are left out
  Best best = Best::none;
};

/// At most `most` of the points, among them the first, the last, and the lowest and highest of every stretch: what is drawn was
/// logged, not averaged.
std::vector<std::pair<double, double>> thinned(const std::vector<std::pair<double, double>>& points, size_t most);

/// Round numbers in [lo, hi] for an axis, about five; on a log axis 1, 2, 5 times powers of ten where those are enough.
std::vector<double> axis_ticks(double lo, double hi, bool log);

/// The chart as a <figure>; "" when no curve has a point. Each curve keeps at most `most_points`.
std::string html_chart(const Chart& chart, size_t most_points = 600);

/// Bars [edges[i], edges[i+1]) of heights counts[i] as a <figure>, with `description` for screen readers.
std::string html_histogram(const std::string& title, const std::vector<double>& edges, const std::vector<int64_t>& counts,
                           const std::string& description);

}  // namespace flare
