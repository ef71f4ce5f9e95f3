#pragma once
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace flare {

/// What may be done to a square picture without changing its label: nothing; left and right exchanged; or any of the eight
/// symmetries of the square.
enum class Symmetries { none, mirror, square };
/// "none", "mirror", "square"; ConfigError on another word.
Symmetries symmetries_named(const std::string& name);

/// The symmetry of a sample, drawn uniformly by Philox(seed, draw), draw < 2^48: bit 0 exchanges left and right, bit 1 top and
/// bottom, bit 2, afterwards, rows and columns.
int drawn_symmetry(Symmetries symmetries, uint64_t seed, uint64_t draw);

/// Applies it in place to side·side rows of `width` values, row-major.
template <class T> void apply_symmetry(T* picture, int64_t side, int64_t width, int symmetry) {
  if (symmetry == 0) return;
  const std::vector<T> before(picture, picture + side * side * width);
  for (int64_t y = 0; y < side; ++y)
    for (int64_t x = 0; x < side; ++x) {
      int64_t row = y, column = x;  // where the value at (y, x) comes from
      if (symmetry & 4) std::swap(row, column);
      if (symmetry & 2) row = side - 1 - row;
      if (symmetry & 1) column = side - 1 - column;
      for (int64_t c = 0; c < width; ++c)
        picture[(y * side + x) * width + c] = before[static_cast<size_t>((row * side + column) * width + c)];
    }
}

/// The side of a square of n elements; 0 when there is none.
int64_t square_side(int64_t n);

}  // namespace flare
