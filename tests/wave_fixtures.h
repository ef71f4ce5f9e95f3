#pragma once
/// A small field data set with several recorded times: waves that travel over a grid.
#include <cmath>
#include <numbers>
#include <string>
#include <vector>

#include "core/rng.h"
#include "datasets/pde/field_set.h"

namespace flare {

struct Waves {
  int64_t h = 3, w = 4, history = 2, times = 3, frame = 2;  // frames of x and of y, channels of a frame
  int64_t train = 8, val = 0, test = 4;
  bool is_scaled = true;  // states scales that differ from channel to channel and from time to time
  bool has_times = true;  // states the times
};

/// x = (position, `history` frames), y = the next `times` frames. Channel k of a frame is a growing wave of its sample's speed and
/// phase.
inline void write_waves(const std::string& dir, const Waves& o) {
  const int64_t n = o.h * o.w;
  DatasetInfo info;
  info.name = "waves";
  info.grid = {o.h, o.w};
  info.coordinates = 2;
  if (o.has_times) info.times = o.times;
  if (o.is_scaled) {
    Normalisation x{{0.1, 0.2}, {0.9, 1.1}}, y;
    for (int64_t i = 0; i < o.history * o.frame; ++i) {
      x.mean.push_back(0.05 * static_cast<double>(i));
      x.std.push_back(0.6 + 0.1 * static_cast<double>(i));
    }
    for (int64_t i = 0; i < o.times * o.frame; ++i) {
      y.mean.push_back(0.2 - 0.07 * static_cast<double>(i));
      y.std.push_back(0.5 + 0.15 * static_cast<double>(i));
    }
    info.normalisation = {{"x", x}, {"y", y}};
  }
  Rng rng(11);
  std::vector<FieldSplit> splits;
  for (const auto& [name, count] : {std::pair("train", o.train), std::pair("val", o.val), std::pair("test", o.test)}) {
    if (count == 0) continue;
    FieldSplit split{name, Tensor::empty({count, n, 2 + o.history * o.frame}, DType::f32),
                     Tensor::empty({count, n, o.times * o.frame}, DType::f32)};
    fill_points(grid_points(o.h, o.w), split.x);
    for (int64_t s = 0; s < count; ++s) {
      const double phase = 6 * rng.uniform(), speed = 0.3 + 0.4 * rng.uniform();
      for (int64_t p = 0; p < n; ++p)
        for (int64_t t = 0; t < o.history + o.times; ++t)
          for (int64_t k = 0; k < o.frame; ++k) {
            const double along = static_cast<double>(p / o.w) / static_cast<double>(o.h) +
                                 static_cast<double>(k * (p % o.w)) / static_cast<double>(o.w);
            const auto value = static_cast<float>((1 + 0.2 * static_cast<double>(t)) *
                                                  std::sin(2 * std::numbers::pi * along + phase - speed * static_cast<double>(t)));
            if (t < o.history)
              split.x.data<float>()[(s * n + p) * split.x.size(2) + 2 + t * o.frame + k] = value;
            else
              split.y.data<float>()[(s * n + p) * split.y.size(2) + (t - o.history) * o.frame + k] = value;
          }
    }
    splits.push_back(std::move(split));
  }
  write_field_set(dir, info, splits);
}

}  // namespace flare
