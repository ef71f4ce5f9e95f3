#include "tools/fields/panels.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include <fmt/format.h>

#include "core/check.h"
#include "tools/fields/plot.h"

namespace flare {
namespace {

constexpr int kWidth = 1200, kMargin = 18, kPanel = (kWidth - 4 * kMargin) / 3;
constexpr int kLine = Canvas::kTextHeight, kGap = 8, kBar = 12;
constexpr int64_t kMostRows = 4;
constexpr double kFlattest = 0.2, kTallest = 1.1;  // panels, height over width

struct Range {
  double lo = std::numeric_limits<double>::infinity(), hi = -std::numeric_limits<double>::infinity();
  bool is_empty() const { return lo > hi; }
  void add(double v) {
    if (std::isfinite(v)) lo = std::min(lo, v), hi = std::max(hi, v);
  }
  void add(const std::vector<double>& values) {
    for (const double v : values) add(v);
  }
};

std::string number(double v, int digits = 4) { return fmt::format("{:.{}g}", v == 0 ? 0.0 : v, digits); }

/// "field  1.2 to 3.4", with as many digits as fit.
void caption(Canvas& canvas, const Rect& panel, const std::string& name, const Range& range) {
  canvas.text(panel.x, panel.y - kGap - kLine, name);
  std::string text = "nowhere finite";
  for (int digits = 4; digits >= 2 && !range.is_empty(); --digits) {
    text = number(range.lo, digits) + " to " + number(range.hi, digits);
    if (Canvas::text_width(name + "  " + text) <= panel.w) break;
  }
  canvas.text(panel.x + panel.w - Canvas::text_width(text), panel.y - kGap - kLine, text, kGrey);
}

/// The colours over [0,1] with the values at both ends and in the middle.
void colour_bar(Canvas& canvas, const Rect& bar, double lo, double hi, const std::function<Ink(double)>& ink_of_share) {
  for (int x = 0; x < bar.w; ++x) canvas.fill({bar.x + x, bar.y, 1, bar.h}, ink_of_share((x + 0.5) / bar.w));
  const int y = bar.y + bar.h + kGap / 2;
  const std::string middle = number(lo + (hi - lo) / 2), last = number(hi);
  canvas.text(bar.x, y, number(lo));
  canvas.text(bar.x + (bar.w - Canvas::text_width(middle)) / 2, y, middle);
  canvas.text(bar.x + bar.w - Canvas::text_width(last), y, last);
}

std::vector<double> channel_of(const Tensor& values, int64_t channel) {
  const int64_t n = values.size(0), width = values.size(1);
  std::vector<double> out(static_cast<size_t>(n));
  for (int64_t p = 0; p < n; ++p) out[static_cast<size_t>(p)] = values.data<float>()[p * width + channel];
  return out;
}

/// " 3", or where there are several times " t 12" or " 3, t 12", the first time being 0. Empty for a single channel.
std::string channel_name(const FieldSample& sample, int64_t channel) {
  if (sample.channels() == 1) return "";
  const int64_t frame = sample.channels() / sample.times, time = channel / frame;
  if (sample.times == 1) return fmt::format(" {}", channel);
  return frame == 1 ? fmt::format(" t {}", time) : fmt::format(" {}, t {}", channel % frame, time);
}

}  // namespace

Panels draw_panels(const FieldSample& sample, const std::string& title) {
  check(bool(sample.truth), "panels: there is no field to compare the prediction with");
  const Plot plot(sample);
  const int64_t channels = sample.channels(), n_rows = std::min(channels, kMostRows);
  const int height = static_cast<int>(std::lround(kPanel * std::clamp(plot.aspect(), kFlattest, kTallest)));
  const int row_height = kLine + kGap + height + kGap + kBar + kGap / 2 + kLine + 2 * kGap;
  const int top = kMargin + kLine + 2 * kGap;
  Panels out{Canvas(kWidth, top + static_cast<int>(n_rows) * row_height), {}, {}};
  const auto most = static_cast<size_t>((kWidth - 2 * kMargin) / Canvas::text_width("x "));
  out.canvas.text(kMargin, kMargin, title.size() > 2 * most ? title.substr(0, 2 * most - 3) + "..." : title);
  for (int64_t r = 0; r < n_rows; ++r) {
    const int64_t channel = n_rows == 1 ? 0 : r * (channels - 1) / (n_rows - 1);
    const int y = top + static_cast<int>(r) * row_height + kLine + kGap;
    std::array<Rect, 3> box;
    for (int i = 0; i < 3; ++i) {
      box[static_cast<size_t>(i)] = {kMargin + i * (kPanel + kMargin), y, kPanel, height};
      out.canvas.fill(box[static_cast<size_t>(i)], kShade);
    }
    const std::vector<double> field = channel_of(sample.truth, channel), prediction = channel_of(sample.prediction, channel);
    std::vector<double> error(field.size());
    for (size_t p = 0; p < field.size(); ++p) error[p] = prediction[p] - field[p];
    Range of_field, of_prediction, of_error, shared;
    of_field.add(field);
    of_prediction.add(prediction);
    of_error.add(error);
    shared.add(field);
    shared.add(prediction);
    if (shared.is_empty()) shared = {0, 1};
    const double span = shared.hi - shared.lo, most_error = of_error.is_empty() ? 0 : std::max(-of_error.lo, of_error.hi);
    const auto value_ink = [&](double v) {
      return sequential(std::isfinite(v) ? (span > 0 ? (v - shared.lo) / span : 0.5) : std::numeric_limits<double>::quiet_NaN());
    };
    const auto error_ink = [&](double v) {
      return diverging(std::isfinite(v) ? (most_error > 0 ? v / most_error : 0.0) : std::numeric_limits<double>::quiet_NaN());
    };
    plot.paint(out.canvas, box[0], field, value_ink);
    plot.paint(out.canvas, box[1], prediction, value_ink);
    plot.paint(out.canvas, box[2], error, error_ink);
    const std::string suffix = channel_name(sample, channel);
    caption(out.canvas, box[0], "field" + suffix, of_field);
    caption(out.canvas, box[1], "prediction" + suffix, of_prediction);
    caption(out.canvas, box[2], "error" + suffix, of_error);
    const int bar = y + height + kGap;
    colour_bar(out.canvas, {box[0].x, bar, 2 * kPanel + kMargin, kBar}, shared.lo, shared.hi, sequential);
    colour_bar(out.canvas, {box[2].x, bar, kPanel, kBar}, -most_error, most_error, [](double t) { return diverging(2 * t - 1); });
    out.rows.push_back(box);
    out.channels.push_back(channel);
  }
  return out;
}

}  // namespace flare
