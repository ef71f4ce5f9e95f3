/// Pathfinder is learnable: a tracer that knows the rules, but of a picture only its pixels and where the discs are, reads off the
/// label.
#include <map>
#include <numbers>

#include "core/parallel.h"
#include "datasets/lra/pathfinder.h"
#include "tests/dataset_fixtures.h"

namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kTurnCost = 0.1;       // times -log cos(turn)
constexpr double kMostCost = 1.2 / 14;  // a dash, of a path that counts as found

Pixel moved(Pixel p, double orientation, double distance) {
  return {static_cast<int>(std::ceil(p.y + distance * std::sin(orientation))),
          static_cast<int>(std::ceil(p.x + distance * std::cos(orientation)))};
}

/// Follows all chains of dashes from one disc, cheapest first kept for each place and direction. A dash costs by how dark the
/// picture is along it, a turn by its angle.
class Tracer {
 public:
  Tracer(const PathfinderRules& rules, const std::vector<uint8_t>& pixels, int margin)
      : r_(rules), pixels_(pixels), margin_(margin) {
    const int radius = r_.segment_length + margin;
    std::map<std::pair<int, int>, double> ends;
    for (double t = 0; t < 2 * kPi - 1e-9; t += 1.0 / radius) {
      const int y = static_cast<int>(std::floor(1024 + radius * std::sin(t)) - 1024);
      const int x = static_cast<int>(std::floor(1024 + radius * std::cos(t)) - 1024);
      ends[{y, x}] = std::atan2(y, x);
    }
    ends_.assign(ends.begin(), ends.end());
  }

  /// Whether a path of the full number of dashes leads from `first` to `last` at no more than the cost allowed.
  bool joins(Pixel first, Pixel last) const {
    Frontier frontier;
    const double length = r_.segment_length, stride = length + 2 * margin_;
    for (int degrees = -180; degrees < 180; degrees += 3) {
      const double o = degrees * kPi / 180, back = o < 0 ? o + kPi : o - kPi;
      const Pixel pivot = moved(moved(first, o, length), back, length + margin_);
      keep(frontier, moved(pivot, o, stride), o, darkness(first, o, 1));
    }
    for (int dash = 2; dash <= r_.path_segments; ++dash) {
      Frontier next;
      for (const auto& [state, cost] : frontier) {
        const auto& [y, x, orientation] = state;
        for (const auto& [offset, o] : ends_) {
          double turn = std::abs(o - orientation);
          turn = std::min(turn, 2 * kPi - turn) * r_.continuity;
          const Pixel tip{y + offset.first, x + offset.second};
          if (turn > kPi / 2 - 1e-6 || tip.y < 0 || tip.y >= r_.size || tip.x < 0 || tip.x >= r_.size) continue;
          const double total = cost + darkness(tip, o, -1) - kTurnCost * std::log(std::cos(turn));
          if (total > kMostCost * r_.path_segments) continue;
          if (dash == r_.path_segments && tip == last) return true;
          keep(next, moved({y, x}, o, stride), o, total);
        }
      }
      frontier = std::move(next);
    }
    return false;
  }

 private:
  using Frontier = std::map<std::tuple<int, int, double>, double>;  // pivot and direction -> least cost

  static void keep(Frontier& frontier, Pixel pivot, double orientation, double cost) {
    const auto [place, is_new] = frontier.try_emplace({pivot.y, pivot.x, orientation}, cost);
    if (!is_new) place->second = std::min(place->second, cost);
  }
  /// Square of the mean darkness along a dash that begins at p, in 0..1.
  double darkness(Pixel p, double orientation, double sign) const {
    double sum = 0;
    for (int t = 0; t <= r_.segment_length; ++t) {
      const auto y = std::lround(p.y + sign * t * std::sin(orientation)), x = std::lround(p.x + sign * t * std::cos(orientation));
      const bool inside = y >= 0 && y < r_.size && x >= 0 && x < r_.size;
      sum += inside ? 1 - std::min(1.0, pixels_[static_cast<size_t>(y * r_.size + x)] / 150.0) : 1;
    }
    return std::pow(sum / (r_.segment_length + 1), 2);
  }

  const PathfinderRules& r_;
  const std::vector<uint8_t>& pixels_;
  int margin_;
  std::vector<std::pair<std::pair<int, int>, double>> ends_;
};

}  // namespace

TEST_CASE("pathfinder: the label can be read from the pixels, at 16, 32 and 128") {
  for (const auto& [size, n] : {std::pair(16, int64_t{200}), std::pair(32, int64_t{200}), std::pair(128, int64_t{40})}) {
    const PathfinderRules rules = pathfinder_rules(size);
    const PathfinderArtist artist(rules);
    std::vector<int> right(static_cast<size_t>(n));
    parallel_for(n, 1, [&, size = size](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const PathfinderPicture p = artist.draw(21, static_cast<uint64_t>(i), static_cast<int>(i % 2));
        const Pixel first = p.paths[static_cast<size_t>(p.marked[0])].front(),
                    last = p.paths[static_cast<size_t>(p.marked[1])].back();
        bool found = false;
        for (const int margin : rules.margins) found = found || Tracer(rules, p.pixels, margin).joins(first, last);
        right[static_cast<size_t>(i)] = found == (i % 2 == 1);
      }
    });
    const double share = static_cast<double>(std::count(right.begin(), right.end(), 1)) / static_cast<double>(n);
    INFO("size ", size, ": ", share);
    CHECK(share > (size == 128 ? 0.9 : 0.75));  // chance: one half
  }
}
