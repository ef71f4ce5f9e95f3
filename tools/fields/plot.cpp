#include "tools/fields/plot.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>

#include "core/check.h"

namespace flare {
namespace {

/// The same number of units a pixel along both axes.
double fitting_units(const Rect& box, double width, double height) {
  return std::max(width / std::max(box.w, 1), height / std::max(box.h, 1));
}

std::pair<double, double> extent(const std::vector<double>& values) {
  double lo = std::numeric_limits<double>::infinity(), hi = -lo;
  for (const double v : values) {
    if (!std::isfinite(v)) continue;
    lo = std::min(lo, v);
    hi = std::max(hi, v);
  }
  return lo <= hi ? std::pair(lo, hi) : std::pair(0.0, 0.0);
}

/// The range of the middle nine tenths.
std::pair<double, double> middle(std::vector<double> values) {
  const auto at = [&](double share) {
    const auto place = values.begin() + static_cast<std::ptrdiff_t>(share * static_cast<double>(values.size() - 1));
    std::nth_element(values.begin(), place, values.end());
    return *place;
  };
  const double lo = at(0.05);
  return {lo, at(0.95)};
}

}  // namespace

/// Sheet (u,v) <-> pixel; the drawing stands in the middle of its box.
struct Plot::Scale {
  Rect box;
  double left, top, units, x0, y0;
  Scale(const Rect& b, const Plot& p)
      : box(b),
        left(p.left_),
        top(p.top_),
        units(fitting_units(b, p.right_ - p.left_, p.top_ - p.bottom_)),
        x0(b.x + (b.w - (p.right_ - p.left_) / units) / 2),
        y0(b.y + (b.h - (p.top_ - p.bottom_) / units) / 2) {}
  double x(double u) const { return x0 + (u - left) / units; }
  double y(double v) const { return y0 + (top - v) / units; }
  double u(int x) const { return left + (x + 0.5 - x0) * units; }
  double v(int y) const { return top - (y + 0.5 - y0) * units; }
  /// The pixels whose centres lie in [lo, hi], cut to those of the box from `first` on.
  static std::pair<int, int> span(double lo, double hi, int first, int count) {
    const auto cut = [&](double at) { return static_cast<int>(std::clamp(at, double(first), double(first + count))); };
    return {cut(std::ceil(lo - 0.5)), cut(std::floor(hi - 0.5) + 1)};
  }
};

Plot::Plot(const FieldSample& s) : rows_(s.rows), columns_(s.columns) {
  const auto coordinate = [&](int64_t c) {
    std::vector<double> values(static_cast<size_t>(s.points));
    for (int64_t p = 0; p < s.points; ++p) values[static_cast<size_t>(p)] = s.position(p, c);
    return values;
  };
  u_ = coordinate(0);
  v_ = coordinate(1);
  if (s.coordinates == 3) {
    depth_ = coordinate(2);
    const std::vector<double> x = u_, y = v_, z = depth_;
    project();
    set_bounds();
    set_radii(x, y, z);
  } else if (s.is_grid()) {
    lay_out_grid();
  } else {
    set_bounds();
    set_radii(u_, v_, {});
  }
}

void Plot::set_bounds() {
  std::tie(left_, right_) = extent(u_);
  std::tie(bottom_, top_) = extent(v_);
  const double size = std::max({right_ - left_, top_ - bottom_, 1e-30});
  // A line still needs some paper on both sides.
  if (right_ - left_ < 0.05 * size) left_ -= 0.05 * size, right_ += 0.05 * size;
  if (top_ - bottom_ < 0.05 * size) bottom_ -= 0.05 * size, top_ += 0.05 * size;
}

/// Turns the cloud so that u_ and v_ lie in the sheet.
void Plot::project() {
  constexpr double kAzimuth = 35 * std::numbers::pi / 180, kElevation = 22 * std::numbers::pi / 180;
  std::array<std::vector<double>*, 3> axis = {&u_, &v_, &depth_};
  std::array<double, 3> size{}, centre{};
  for (size_t a = 0; a < 3; ++a) {
    const auto [lo, hi] = extent(*axis[a]);
    size[a] = hi - lo;
    centre[a] = (lo + hi) / 2;
  }
  std::array<size_t, 3> order = {0, 1, 2};  // across, away, up
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return size[a] > size[b]; });
  // An odd exchange of axes would show a mirror image.
  const bool is_odd = (order[1] + 3 - order[0]) % 3 != 1;
  for (size_t p = 0; p < u_.size(); ++p) {
    const auto along = [&](size_t i) { return (*axis[order[i]])[p] - centre[order[i]]; };
    const double a = along(0), b = is_odd ? -along(1) : along(1), c = along(2);
    const double across = a * std::cos(kAzimuth) - b * std::sin(kAzimuth), away = a * std::sin(kAzimuth) + b * std::cos(kAzimuth);
    u_[p] = across;
    v_[p] = c * std::cos(kElevation) + away * std::sin(kElevation);
    depth_[p] = away * std::cos(kElevation) - c * std::sin(kElevation);
  }
}

/// A point reaches a little beyond half-way to its third neighbour, so that a surface closes and a void stays open, whatever the
/// density there. x, y, z: in space, before projection.
void Plot::set_radii(const std::vector<double>& x, const std::vector<double>& y, const std::vector<double>& z) {
  constexpr size_t kNeighbours = 3, kMostLookedAt = 256;
  constexpr double kReach = 0.9;
  const size_t n = x.size();
  const auto [x0, x1] = extent(x);
  const auto [y0, y1] = extent(y);
  const auto [z0, z1] = extent(z);
  // Boxes of about two spacings of points spread over the area (of the surface, in 3-D).
  const double a = x1 - x0, b = y1 - y0, c = z1 - z0;
  const double area = z.empty() ? a * b : 2 * (a * b + b * c + c * a);
  const double spacing = std::max(std::sqrt(area / static_cast<double>(n)), 1e-3 * std::max({a, b, c, 1e-30}));
  using Box = std::array<int64_t, 3>;
  std::map<Box, std::vector<size_t>> boxes;
  const auto position = [&](size_t p) { return std::array<double, 3>{x[p], y[p], z.empty() ? 0.0 : z[p]}; };
  const auto is_finite = [&](size_t p) { return std::isfinite(x[p]) && std::isfinite(y[p]) && (z.empty() || std::isfinite(z[p])); };
  const auto box_of = [&](size_t p) {
    const std::array<double, 3> at = position(p);
    return Box{static_cast<int64_t>((at[0] - x0) / (2 * spacing)), static_cast<int64_t>((at[1] - y0) / (2 * spacing)),
               z.empty() ? 0 : static_cast<int64_t>((at[2] - z0) / (2 * spacing))};
  };
  for (size_t p = 0; p < n; ++p)
    if (is_finite(p)) boxes[box_of(p)].push_back(p);
  radius_.assign(n, spacing);
  for (const auto& [box, members] : boxes)
    for (const size_t p : members) {
      std::array<double, kNeighbours> nearest;  // squared, ascending
      nearest.fill(9 * spacing * spacing);
      for (int64_t i = -1; i <= 1; ++i)
        for (int64_t j = -1; j <= 1; ++j)
          for (int64_t k = z.empty() ? 0 : -1; k <= (z.empty() ? 0 : 1); ++k) {
            const auto found = boxes.find({box[0] + i, box[1] + j, box[2] + k});
            if (found == boxes.end()) continue;
            for (size_t m = 0; m < std::min(found->second.size(), kMostLookedAt); ++m) {
              const size_t q = found->second[m];
              if (q == p) continue;
              const std::array<double, 3> from = position(p), to = position(q);
              double square = 0;
              for (size_t axis = 0; axis < 3; ++axis) square += (from[axis] - to[axis]) * (from[axis] - to[axis]);
              for (double& place : nearest)
                if (square < place) std::swap(square, place);
            }
          }
      radius_[p] = std::max(kReach * std::sqrt(nearest.back()), 0.1 * spacing);
    }
  const double margin = z.empty() ? spacing / 2 : spacing;
  left_ -= margin, right_ += margin, bottom_ -= margin, top_ += margin;
}

/// Whether the nodes are an upright, evenly spaced grid; finds its spacing.
bool Plot::find_cells() {
  constexpr double kSlack = 1e-2;  // of the spacing
  const auto at = [&](const std::vector<double>& c, int64_t i, int64_t j) { return c[static_cast<size_t>(i * columns_ + j)]; };
  for (const bool by_rows : {true, false}) {
    const int64_t along_u = by_rows ? rows_ : columns_, along_v = by_rows ? columns_ : rows_;
    const auto last = [&](const std::vector<double>& c, bool is_u) {
      return is_u == by_rows ? at(c, rows_ - 1, 0) : at(c, 0, columns_ - 1);
    };
    u_first_ = u_[0], v_first_ = v_[0];
    u_step_ = (last(u_, true) - u_first_) / static_cast<double>(along_u - 1);
    v_step_ = (last(v_, false) - v_first_) / static_cast<double>(along_v - 1);
    if (u_step_ == 0 || v_step_ == 0) continue;
    bool fits = true;
    for (int64_t i = 0; fits && i < rows_; ++i)
      for (int64_t j = 0; fits && j < columns_; ++j) {
        const auto a = static_cast<double>(by_rows ? i : j), b = static_cast<double>(by_rows ? j : i);
        fits = std::abs(at(u_, i, j) - u_first_ - a * u_step_) <= kSlack * std::abs(u_step_) &&
               std::abs(at(v_, i, j) - v_first_ - b * v_step_) <= kSlack * std::abs(v_step_);
      }
    u_follows_rows_ = by_rows;
    if (fits) return true;
  }
  return false;
}

void Plot::lay_out_grid() {
  set_bounds();
  if (find_cells()) {
    kind_ = Kind::cells;
    left_ -= std::abs(u_step_) / 2, right_ += std::abs(u_step_) / 2;
    bottom_ -= std::abs(v_step_) / 2, top_ += std::abs(v_step_) / 2;
  } else {
    kind_ = Kind::mesh;
    show_dense_part();
  }
}

void Plot::show_dense_part() {
  constexpr double kMuch = 3, kAround = 0.25;
  const auto [u_lo, u_hi] = middle(u_);
  const auto [v_lo, v_hi] = middle(v_);
  const double width = u_hi - u_lo, height = v_hi - v_lo;
  if (!(width > 0 && height > 0 && kMuch * width < right_ - left_ && kMuch * height < top_ - bottom_)) return;
  left_ = std::max(left_, u_lo - kAround * width), right_ = std::min(right_, u_hi + kAround * width);
  bottom_ = std::max(bottom_, v_lo - kAround * height), top_ = std::min(top_, v_hi + kAround * height);
}

void Plot::paint(Canvas& canvas, const Rect& box, const std::vector<double>& values, const std::function<Ink(double)>& ink) const {
  check(values.size() == u_.size(), "plot: ", values.size(), " values for ", u_.size(), " points");
  const Scale scale(box, *this);
  switch (kind_) {
    case Kind::cells: return paint_cells(canvas, scale, values, ink);
    case Kind::mesh: return paint_mesh(canvas, scale, values, ink);
    case Kind::cloud: return paint_cloud(canvas, scale, values, ink);
  }
}

void Plot::paint_cells(Canvas& canvas, const Scale& s, const std::vector<double>& values,
                       const std::function<Ink(double)>& ink) const {
  const int64_t along_u = u_follows_rows_ ? rows_ : columns_, along_v = u_follows_rows_ ? columns_ : rows_;
  const auto [x0, x1] = Scale::span(s.x(left_), s.x(right_), s.box.x, s.box.w);
  const auto [y0, y1] = Scale::span(s.y(top_), s.y(bottom_), s.box.y, s.box.h);
  const auto nearest = [](double at, int64_t n) { return std::clamp<int64_t>(std::llround(at), 0, n - 1); };
  for (int y = y0; y < y1; ++y) {
    const int64_t b = nearest((s.v(y) - v_first_) / v_step_, along_v);
    for (int x = x0; x < x1; ++x) {
      const int64_t a = nearest((s.u(x) - u_first_) / u_step_, along_u);
      canvas.set(x, y, ink(values[static_cast<size_t>(u_follows_rows_ ? a * columns_ + b : b * columns_ + a)]));
    }
  }
}

void Plot::paint_mesh(Canvas& canvas, const Scale& s, const std::vector<double>& values,
                      const std::function<Ink(double)>& ink) const {
  const auto triangle = [&](size_t a, size_t b, size_t c) {
    const double ax = s.x(u_[a]), ay = s.y(v_[a]), bx = s.x(u_[b]), by = s.y(v_[b]), cx = s.x(u_[c]), cy = s.y(v_[c]);
    const double area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax);
    if (!std::isfinite(area) || area == 0) return;
    const auto [x0, x1] = Scale::span(std::min({ax, bx, cx}), std::max({ax, bx, cx}), s.box.x, s.box.w);
    const auto [y0, y1] = Scale::span(std::min({ay, by, cy}), std::max({ay, by, cy}), s.box.y, s.box.h);
    for (int y = y0; y < y1; ++y)
      for (int x = x0; x < x1; ++x) {
        const double px = x + 0.5, py = y + 0.5;
        const double wb = ((px - ax) * (cy - ay) - (py - ay) * (cx - ax)) / area;
        const double wc = ((bx - ax) * (py - ay) - (by - ay) * (px - ax)) / area;
        constexpr double kEdge = -1e-9;  // a pixel on an edge belongs to both sides
        if (wb < kEdge || wc < kEdge || 1 - wb - wc < kEdge) continue;
        canvas.set(x, y, ink((1 - wb - wc) * values[a] + wb * values[b] + wc * values[c]));
      }
  };
  for (int64_t i = 0; i + 1 < rows_; ++i)
    for (int64_t j = 0; j + 1 < columns_; ++j) {
      const auto p = static_cast<size_t>(i * columns_ + j), below = p + static_cast<size_t>(columns_);
      triangle(p, below, below + 1);
      triangle(p, below + 1, p + 1);
    }
}

void Plot::paint_cloud(Canvas& canvas, const Scale& s, const std::vector<double>& values,
                       const std::function<Ink(double)>& ink) const {
  const Rect& box = s.box;
  std::vector<double> nearest(static_cast<size_t>(box.w) * static_cast<size_t>(box.h), std::numeric_limits<double>::infinity());
  for (size_t p = 0; p < u_.size(); ++p) {
    if (!std::isfinite(u_[p]) || !std::isfinite(v_[p]) || (!depth_.empty() && !std::isfinite(depth_[p]))) continue;
    const Ink colour = ink(values[p]);
    const double radius = std::max(radius_[p], 0.75 * s.units);
    const auto [x0, x1] = Scale::span(s.x(u_[p] - radius), s.x(u_[p] + radius), box.x, box.w);
    const auto [y0, y1] = Scale::span(s.y(v_[p] + radius), s.y(v_[p] - radius), box.y, box.h);
    for (int y = y0; y < y1; ++y)
      for (int x = x0; x < x1; ++x) {
        const double du = s.u(x) - u_[p], dv = s.v(y) - v_[p], square = du * du + dv * dv;
        if (square > radius * radius) continue;
        // In 3-D the front of a sphere, so that neighbours on a surface meet half-way.
        const double distance = depth_.empty() ? square : depth_[p] - std::sqrt(radius * radius - square);
        double& best = nearest[static_cast<size_t>(y - box.y) * static_cast<size_t>(box.w) + static_cast<size_t>(x - box.x)];
        if (distance >= best) continue;
        best = distance;
        canvas.set(x, y, colour);
      }
  }
}

}  // namespace flare
