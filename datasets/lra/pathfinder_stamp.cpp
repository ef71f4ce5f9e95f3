#include "datasets/lra/pathfinder_stamp.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace flare {
namespace {

constexpr double kLobes = 3;

double lanczos(double x) {
  if (std::abs(x) >= kLobes) return 0;
  if (x == 0) return 1;
  const double a = std::numbers::pi * x;
  return kLobes * std::sin(a) * std::sin(a / kLobes) / (a * a);
}

/// A square picture being drawn, origin in the middle.
struct Fine {
  int centre, side;
  std::vector<uint8_t> grey;
  explicit Fine(int centre)
      : centre(centre), side(2 * centre + 1), grey(static_cast<size_t>(side) * static_cast<size_t>(side), 0) {}
  void light(int y, int x) {
    y += centre;
    x += centre;
    if (y >= 0 && y < side && x >= 0 && x < side) grey[static_cast<size_t>(y * side + x)] = 255;
  }
};

/// Pixels of a line from the origin: one a step along the longer axis, or for a wider line all whose centre lies inside it.
std::vector<Pixel> line_pixels(Pixel end, int width) {
  std::vector<Pixel> out;
  const int reach = std::max(std::abs(end.y), std::abs(end.x));
  if (width <= 1) {
    for (int i = 0; i <= reach; ++i) {
      const double t = reach ? static_cast<double>(i) / reach : 0;
      out.push_back({static_cast<int>(std::lround(end.y * t)), static_cast<int>(std::lround(end.x * t))});
    }
    return out;
  }
  const double length = std::hypot(end.y, end.x), uy = end.y / length, ux = end.x / length;
  for (int y = -reach - width; y <= reach + width; ++y)
    for (int x = -reach - width; x <= reach + width; ++x) {
      const double along = y * uy + x * ux, across = y * ux - x * uy;
      if (along >= 0 && along <= length && across > -0.5 * width && across <= 0.5 * width) out.push_back({y, x});
    }
  return out;
}

}  // namespace

std::vector<uint8_t> shrink(const std::vector<uint8_t>& in, int n_in, int n_out) {
  const double scale = static_cast<double>(n_in) / n_out, support = kLobes * scale;
  const auto pass = [&](const std::vector<uint8_t>& from, int rows) {  // [rows, n_in] -> [n_out, rows]
    std::vector<uint8_t> to(static_cast<size_t>(n_out * rows));
    std::vector<double> weights;
    for (int o = 0; o < n_out; ++o) {
      const double centre = (o + 0.5) * scale;
      const int first = std::max(0, static_cast<int>(centre - support + 0.5));
      const int last = std::min(n_in, static_cast<int>(centre + support + 0.5));
      weights.clear();
      double total = 0;
      for (int i = first; i < last; ++i) {
        weights.push_back(lanczos((i + 0.5 - centre) / scale));
        total += weights.back();
      }
      for (int r = 0; r < rows; ++r) {
        double sum = 0;
        for (int i = first; i < last; ++i) sum += weights[static_cast<size_t>(i - first)] * from[static_cast<size_t>(r * n_in + i)];
        to[static_cast<size_t>(o * rows + r)] = static_cast<uint8_t>(std::clamp(sum / total, 0.0, 255.0) + 0.5);
      }
    }
    return to;
  };
  return pass(pass(in, n_in), n_out);  // each pass transposes
}

std::vector<Pixel> disc_of(int radius) {
  std::vector<Pixel> out;
  for (int y = -radius; y <= radius; ++y)
    for (int x = -radius; x <= radius; ++x)
      if (y * y + x * x <= radius * radius) out.push_back({y, x});
  return out;
}

Stamp widened(const Stamp& stamp, int radius) {
  const int r = stamp.radius, wide = r + radius, side = 2 * wide + 1;
  Stamp out{wide, std::vector<uint8_t>(static_cast<size_t>(side * side), 0)};
  for (int y = -r; y <= r; ++y)
    for (int x = -r; x <= r; ++x)
      for (const Pixel d : disc_of(radius)) {
        uint8_t& to = out.grey[static_cast<size_t>((y + d.y + wide) * side + x + d.x + wide)];
        to = std::max(to, stamp.at(y, x));
      }
  return out;
}

Dash make_dash(const PathfinderRules& rules, int margin, Pixel fine_end) {
  const int aa = rules.antialias, width = static_cast<int>(std::lround(rules.thickness * aa));
  const int radius = rules.segment_length + static_cast<int>(std::ceil(rules.thickness)) + margin;
  Fine line(radius * aa), room(radius * aa);
  const std::vector<Pixel> disc = disc_of(margin * aa);
  for (const Pixel p : line_pixels(fine_end, width)) {
    line.light(p.y, p.x);
    for (const Pixel d : disc) room.light(p.y + d.y, p.x + d.x);
  }
  Dash dash;
  dash.line = {radius, shrink(line.grey, line.side, 2 * radius + 1)};
  dash.room = {radius, shrink(room.grey, room.side, 2 * radius + 1)};
  dash.near = widened(dash.room, margin);
  const int reach = rules.segment_length + margin;
  for (int y = -radius; y <= radius; ++y)
    for (int x = -radius; x <= radius; ++x)
      if (dash.room.at(y, x) == 255 && std::abs(y + 1) <= reach && std::abs(x + 1) <= reach) dash.core.push_back({y + 1, x + 1});
  return dash;
}

Stamp make_disc(double radius, int antialias) {
  const int out_radius = static_cast<int>(std::ceil(radius)) + 4, n_out = 2 * out_radius + 1, n_in = n_out * antialias;
  std::vector<uint8_t> fine(static_cast<size_t>(n_in) * static_cast<size_t>(n_in), 0);
  const double r = radius * antialias;
  for (int y = 0; y < n_in; ++y)
    for (int x = 0; x < n_in; ++x)
      if (std::hypot(y - out_radius * antialias, x - out_radius * antialias) <= r) fine[static_cast<size_t>(y * n_in + x)] = 255;
  return {out_radius, shrink(fine, n_in, n_out)};
}

}  // namespace flare
