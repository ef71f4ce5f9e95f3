/// The rules of Pathfinder. A dash points from its tail to its head; the next one starts a margin further on, at a pivot, and its
/// far end lies on a circle around that pivot, the likelier the straighter on. What is drawn claims the room around it, except for
/// the newest dash of each path, from which the path has yet to grow.
#include "datasets/lra/pathfinder.h"

#include <algorithm>
#include <bitset>
#include <cmath>
#include <map>
#include <numbers>

#include "core/check.h"
#include "core/rng.h"
#include "datasets/lra/pathfinder_stamp.h"

namespace flare {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr int kLargestSize = 128;
constexpr uint64_t kStream = uint64_t{0x5046} << 48;   // keeps these random numbers apart from the loader's
constexpr int kDashTrials = 3, kDistractorTrials = 5;  // the published numbers of retrials, and the first trial
constexpr int kTaken = 76;                             // a pixel is taken when more than 0.3 of it is
constexpr int kCrossing = 459;                         // two rooms cross where they add up to 1.8
constexpr double kLeastRoom = 0.01;                    // no further distractor when less of the picture is free

using Row = std::bitset<kLargestSize>;

Pixel moved(Pixel from, double orientation, double distance) {
  return {static_cast<int>(std::ceil(from.y + distance * std::sin(orientation))),
          static_cast<int>(std::ceil(from.x + distance * std::cos(orientation)))};
}
double reversed(double orientation) { return orientation < 0 ? orientation + kPi : orientation - kPi; }

struct Candidate {
  Pixel offset;
  double orientation;
};

/// The pixels of a circle, each once.
std::vector<Candidate> circle(int radius) {
  constexpr double kBase = 1024;  // so that rounding down treats -1e-16 as 0
  std::map<std::pair<int, int>, Candidate> found;
  for (double angle = 0; angle < 2 * kPi - 1e-9; angle += 1.0 / radius) {
    const Pixel p{static_cast<int>(std::floor(kBase + radius * std::sin(angle)) - kBase),
                  static_cast<int>(std::floor(kBase + radius * std::cos(angle)) - kBase)};
    found.emplace(std::pair(p.y, p.x), Candidate{p, std::atan2(p.y, p.x)});
  }
  std::vector<Candidate> out;
  for (const auto& [key, candidate] : found) out.push_back(candidate);
  return out;
}

/// Where a dash may begin: its core touches no taken pixel and none of a border of this width.
std::vector<Pixel> free_places(const std::vector<uint8_t>& taken, int n, const Dash& dash, int border) {
  std::vector<Row> blocked(static_cast<size_t>(n)), reached(static_cast<size_t>(n));
  for (int y = 0; y < n; ++y)
    for (int x = 0; x < n; ++x)
      if (std::min({y, x, n - 1 - y, n - 1 - x}) < border || taken[static_cast<size_t>(y * n + x)] > kTaken)
        blocked[static_cast<size_t>(y)].set(static_cast<size_t>(x));
  for (const Pixel c : dash.core)
    for (int y = std::max(0, -c.y); y < std::min(n, n - c.y); ++y) {
      const Row& row = blocked[static_cast<size_t>(y + c.y)];
      reached[static_cast<size_t>(y)] |= c.x >= 0 ? row >> static_cast<size_t>(c.x) : row << static_cast<size_t>(-c.x);
    }
  std::vector<Pixel> out;
  for (int y = 0; y < n; ++y)
    for (int x = 0; x < n; ++x)
      if (!reached[static_cast<size_t>(y)][static_cast<size_t>(x)]) out.push_back({y, x});
  return out;
}

}  // namespace

PathfinderRules pathfinder_rules(int64_t size) {
  PathfinderRules r;
  r.size = static_cast<int>(size);
  if (size == 16 || size == 32) {
    r.margins = {1};
    r.path_contrast = 1.5;  // 2 for the path times 0.75 for the dash; distractors are drawn without the second factor
    r.distractor_contrast = 2;
    if (size == 16) {
      r.seed_distance = 3;
      r.path_segments = 4;
      r.distractor_segments = 2;
      r.distractors = 1;
    }
  } else if (size == 64) {
    r.segment_length = 5;
    r.thickness = 1;
    r.margins = {1};
    r.marker_radius = 2.5;
    r.seed_distance = 12;
    r.continuity = 1.8;
    r.path_contrast = r.distractor_contrast = 0.8;
  } else if (size == 128) {
    r.segment_length = 5;
    r.thickness = 1.5;
    r.margins = {2, 3};
    r.marker_radius = 3;
    r.seed_distance = 20;
    r.continuity = 1.8;
    r.distractors = 8;
    r.path_contrast = r.distractor_contrast = 0.9;
  } else {
    throw ConfigError(cat("pathfinder: size is ", size, "; choose 16, 32, 64 or 128"));
  }
  return r;
}

PathfinderRules with_segments(PathfinderRules rules, int segments) {
  rules.path_segments = segments;
  rules.distractor_segments = std::max(1, segments / 3);
  rules.distractors = (rules.size == 128 ? 35 : 20) / rules.distractor_segments;
  return rules;
}

struct PathfinderArtist::Tools {
  int margin = 0, reach = 0;                   // reach: largest offset of an end in the finer picture
  std::vector<Dash> dashes;                    // by the end's offset
  std::vector<int> index;                      // [(2*reach+1)^2] into dashes
  std::vector<uint8_t> empty, empty_crowded;   // [size^2] before anything is drawn, see Canvas
  std::vector<std::vector<Pixel>> first_tips;  // by whole degrees from -180: where the first dash may begin
  std::vector<Candidate> ends;
  Stamp marker;

  Tools(const PathfinderRules& r, int margin) : margin(margin), reach(r.segment_length * r.antialias + 1) {
    const int side = 2 * reach + 1;
    index.assign(static_cast<size_t>(side * side), -1);
    for (int y = -reach; y <= reach; ++y)
      for (int x = -reach; x <= reach; ++x) {
        if (std::abs(std::hypot(y, x) - (reach - 1)) > 2) continue;  // rounding moves an end by less than a pixel an axis
        index[static_cast<size_t>((y + reach) * side + x + reach)] = static_cast<int>(dashes.size());
        dashes.push_back(make_dash(r, margin, {y, x}));
      }
    ends = circle(r.segment_length + margin);
    marker = make_disc(r.marker_radius, r.antialias);
    const int n = r.size;
    empty.assign(static_cast<size_t>(n * n), 0);
    for (int y = 0; y < n; ++y)
      for (int x = 0; x < n; ++x)
        if (std::min({y, x, n - 1 - y, n - 1 - x}) < r.padding) empty[static_cast<size_t>(y * n + x)] = 255;
    empty_crowded = empty;
    for (int y = 0; y < n; ++y)
      for (int x = 0; x < n; ++x)
        for (const Pixel d : disc_of(margin))
          if (y + d.y >= 0 && y + d.y < n && x + d.x >= 0 && x + d.x < n && empty[static_cast<size_t>((y + d.y) * n + x + d.x)])
            empty_crowded[static_cast<size_t>(y * n + x)] = 255;
    for (int degrees = -180; degrees < 180; ++degrees)
      first_tips.push_back(free_places(empty, n, dash(degrees * kPi / 180), 2 * r.seed_distance));
  }
  const Dash& dash(double orientation) const {
    const Pixel end = moved({reach, reach}, orientation, reach - 1);
    return dashes[static_cast<size_t>(index[static_cast<size_t>(end.y * (2 * reach + 1) + end.x)])];
  }
};

/// One picture in the making.
class PathfinderArtist::Canvas {
 public:
  Canvas(const PathfinderRules& rules, const Tools& tools, Rng& rng) : r_(rules), t_(tools), rng_(rng), n_(rules.size) {}

  /// Both paths, one dash each in turn; false when one cannot go on.
  bool two_paths(std::array<std::vector<Pixel>, 2>& paths) {
    taken_ = t_.empty;
    crowded_ = t_.empty_crowded;
    strokes_.clear();
    Snake snakes[2];
    if (!start(snakes[0], true) || !start_beside(snakes[0].tip, snakes[1])) return false;
    for (const Snake& s : snakes) strokes_.push_back({s.tip, s.newest, r_.path_contrast});
    for (size_t k = 0; k < 2; ++k) paths[k] = {snakes[k].tip};
    for (int i = 1; i < r_.path_segments; ++i)
      for (size_t k = 0; k < 2; ++k) {
        if (!extend(snakes[k], r_.path_contrast)) return false;
        paths[k].push_back(snakes[k].tip);
      }
    claim(snakes[1]);  // of the last two dashes only this one, as published
    return true;
  }

  /// One distractor; false when it found no room, and nothing has changed then.
  bool distractor(std::vector<Pixel>& path) {
    const std::vector<uint8_t> taken_before = taken_, crowded_before = crowded_;
    const size_t n_strokes = strokes_.size();
    Snake snake;
    bool ok = is_roomy() && start(snake, false);
    if (ok) strokes_.push_back({snake.tip, snake.newest, r_.distractor_contrast});
    path = {snake.tip};
    for (int i = 1; ok && i < r_.distractor_segments; ++i) {
      ok = extend(snake, r_.distractor_contrast);
      path.push_back(snake.tip);
    }
    if (ok) {
      claim(snake);
    } else {
      taken_ = taken_before;
      crowded_ = crowded_before;
      strokes_.resize(n_strokes);
    }
    return ok;
  }

  /// Everything drawn and two discs, brightened so that the brightest pixel is white.
  std::vector<uint8_t> picture(Pixel first, Pixel second) const {
    std::vector<float> image(taken_.size(), 0.0f);
    const auto press = [&](Pixel at, const Stamp& stamp, double contrast) {
      each_row(at, stamp, [&](size_t first, const uint8_t* grey, int n) {
        for (int i = 0; i < n; ++i) {
          float& to = image[first + static_cast<size_t>(i)];
          to = std::max(to, static_cast<float>(contrast * grey[i]));
        }
      });
    };
    for (const Stroke& s : strokes_) press(s.at, s.dash->line, s.contrast);
    press(first, t_.marker, 1);
    press(second, t_.marker, 1);
    const float scale = 255.0f / *std::max_element(image.begin(), image.end());
    std::vector<uint8_t> out(image.size());
    for (size_t i = 0; i < out.size(); ++i) out[i] = static_cast<uint8_t>(image[i] * scale + 0.5f);
    return out;
  }

 private:
  struct Snake {
    Pixel pivot, tip;              // where the newest dash set out from (a margin before it), and its end
    double orientation = 0;        // of the newest dash
    const Dash* newest = nullptr;  // it hangs on `tip`
  };
  struct Stroke {
    Pixel at;
    const Dash* dash;
    double contrast;
  };

  bool inside(Pixel p) const { return p.y >= 0 && p.y < n_ && p.x >= 0 && p.x < n_; }
  static double in_radians(uint64_t degrees) { return (static_cast<double>(degrees) - 180) * kPi / 180; }

  /// Calls body(first pixel, its grey values, how many) for each row of the part of a stamp that lies on the canvas.
  template <class Body> void each_row(Pixel at, const Stamp& stamp, const Body& body) const {
    const int r = stamp.radius, y1 = std::min(r, n_ - 1 - at.y), x0 = std::max(-r, -at.x), x1 = std::min(r, n_ - 1 - at.x);
    for (int y = std::max(-r, -at.y); y <= y1; ++y)
      body(static_cast<size_t>((at.y + y) * n_ + at.x + x0), &stamp.grey[static_cast<size_t>((y + r) * (2 * r + 1) + x0 + r)],
           x1 - x0 + 1);
  }
  void claim(const Snake& s) {
    for (auto [stamp, layer] : {std::pair(&s.newest->room, &taken_), std::pair(&s.newest->near, &crowded_)})
      each_row(s.tip, *stamp, [to = layer->data()](size_t first, const uint8_t* grey, int n) {
        for (int i = 0; i < n; ++i) to[first + static_cast<size_t>(i)] = std::max(to[first + static_cast<size_t>(i)], grey[i]);
      });
  }
  bool crosses(Pixel at, const Dash& dash) const {
    int most = 0;
    each_row(at, dash.room, [&most, from = taken_.data()](size_t first, const uint8_t* grey, int n) {
      for (int i = 0; i < n; ++i) most = std::max(most, from[first + static_cast<size_t>(i)] + grey[i]);
    });
    return most >= kCrossing;
  }
  bool is_roomy() const {
    const auto free = std::count_if(taken_.begin(), taken_.end(), [](uint8_t t) { return t <= kTaken; });
    return static_cast<double>(free) >= kLeastRoom * n_ * n_;
  }

  /// A dash of random orientation whose core touches nothing taken and not the border; any such place is equally likely.
  bool start(Snake& s, bool is_first) {
    for (int trial = 0; trial < kDashTrials; ++trial) {
      const uint64_t degrees = rng_.below(360);
      const double orientation = in_radians(degrees);
      std::vector<Pixel> found;
      if (!is_first) found = free_places(taken_, n_, t_.dash(orientation), 1);
      const std::vector<Pixel>& places = is_first ? t_.first_tips[degrees] : found;
      if (places.empty()) return false;
      s.tip = places[rng_.below(places.size())];
      if (point(s, orientation)) return true;
    }
    return false;
  }
  /// The first dash of the second path, at the given distance from the first tip of the other.
  bool start_beside(Pixel other, Snake& s) {
    for (int trial = 0; trial < kDashTrials; ++trial) {
      const double orientation = in_radians(rng_.below(360)), direction = static_cast<double>(rng_.below(360)) * kPi / 180;
      s.tip = {static_cast<int>(std::nearbyint(other.y + r_.seed_distance * std::sin(direction))),
               static_cast<int>(std::nearbyint(other.x + r_.seed_distance * std::cos(direction)))};
      if (inside(s.tip) && point(s, orientation)) return true;
    }
    return false;
  }
  /// Lays the first dash from s.tip; false when it would leave the canvas.
  bool point(Snake& s, double orientation) {
    const Pixel head = moved(s.tip, orientation, r_.segment_length);
    s.pivot = moved(head, reversed(orientation), r_.segment_length + t_.margin);
    s.orientation = orientation;
    s.newest = &t_.dash(orientation);
    return inside(head) && inside(s.pivot);
  }

  bool extend(Snake& s, double contrast) {
    const Pixel pivot = moved(s.pivot, s.orientation, r_.segment_length + 2 * t_.margin);
    double sums[512];  // a circle has at most 8 pixels a unit of radius
    double total = 0;
    for (size_t i = 0; i < t_.ends.size(); ++i) {
      const Candidate& c = t_.ends[i];
      const Pixel end{pivot.y + c.offset.y, pivot.x + c.offset.x};
      double turn = std::abs(c.orientation - s.orientation);
      turn = std::min(turn, 2 * kPi - turn) * r_.continuity;
      if (turn < kPi / 2 && inside(end)) {
        const double straight = std::cos(turn);
        total += straight * straight * (1 - crowded_[static_cast<size_t>(end.y * n_ + end.x)] / 255.0);
      }
      sums[i] = total;
    }
    if (total < 1e-4) return false;
    for (int trial = 0; trial < kDashTrials; ++trial) {
      const double at = rng_.uniform() * total;
      const size_t i = static_cast<size_t>(std::upper_bound(sums, sums + t_.ends.size(), at) - sums);
      const Candidate& c = t_.ends[std::min(i, t_.ends.size() - 1)];
      const Pixel end{pivot.y + c.offset.y, pivot.x + c.offset.x};
      const Dash& dash = t_.dash(reversed(c.orientation));
      if (crosses(end, dash)) continue;
      claim(s);
      s = {pivot, end, c.orientation, &dash};
      strokes_.push_back({end, &dash, contrast});
      return true;
    }
    return false;
  }

  const PathfinderRules& r_;
  const Tools& t_;
  Rng& rng_;
  int n_;
  std::vector<uint8_t> taken_;    // room in use, 0..255
  std::vector<uint8_t> crowded_;  // the most of it within a margin of each pixel
  std::vector<Stroke> strokes_;
};

PathfinderArtist::PathfinderArtist(const PathfinderRules& rules) : rules_(rules) {
  check<ConfigError>(rules.size >= 8 && rules.size <= kLargestSize, "pathfinder: size is ", rules.size, "; 8 to ", kLargestSize,
                     " are possible");
  check<ConfigError>(
      rules.path_segments >= 2 && rules.shortest <= rules.path_segments && (rules.shortest == 0 || rules.shortest >= 2),
      "pathfinder: paths of ", rules.path_segments, " dashes, the shortest of ", rules.shortest,
      "; a path has at least 2, and the shortest is no longer than the others");
  for (int margin : rules.margins) tools_.emplace_back(rules, margin);
}
PathfinderArtist::~PathfinderArtist() = default;

PathfinderPicture PathfinderArtist::draw(uint64_t seed, uint64_t index, int label) const {
  Rng rng(seed, kStream + index);
  const Tools& tools = tools_[rng.below(tools_.size())];
  PathfinderRules rules = rules_;
  if (rules_.shortest > 0) {
    const int n = rules_.shortest + static_cast<int>(rng.below(static_cast<uint64_t>(rules_.path_segments - rules_.shortest + 1)));
    if (n < rules_.path_segments) rules = with_segments(rules_, n);
  }
  Canvas canvas(rules, tools, rng);
  PathfinderPicture p;
  p.margin = tools.margin;
  while (!canvas.two_paths(p.paths)) {}
  for (int i = 0; i < rules.distractors; ++i)
    for (int trial = 0; trial < kDistractorTrials; ++trial) {
      std::vector<Pixel> path;
      if (!canvas.distractor(path)) continue;
      p.shorter.push_back(std::move(path));
      break;
    }
  p.marked[0] = static_cast<int>(rng.below(2));
  p.marked[1] = label ? p.marked[0] : 1 - p.marked[0];
  p.pixels = canvas.picture(p.paths[static_cast<size_t>(p.marked[0])].front(), p.paths[static_cast<size_t>(p.marked[1])].back());
  return p;
}

}  // namespace flare
