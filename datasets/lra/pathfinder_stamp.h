#pragma once
#include <cstdint>
#include <vector>

#include "datasets/lra/pathfinder.h"

namespace flare {

/// A square grey picture of odd side 2*radius+1 around its origin.
struct Stamp {
  int radius = 0;
  std::vector<uint8_t> grey;
  uint8_t at(int dy, int dx) const { return grey[static_cast<size_t>((dy + radius) * (2 * radius + 1) + dx + radius)]; }
};

/// A dash from the origin towards one end, drawn `antialias` times finer and shrunk: itself, and the room it needs (itself widened
/// by the margin on all sides), and `near`, the pixels within a margin of that room.
struct Dash {
  Stamp line, room, near;
  std::vector<Pixel> core;  // where room is full, as offsets from the pixel before the origin: what a first dash must find free
};
/// `fine_end`: the end's offset from the origin in the finer picture.
Dash make_dash(const PathfinderRules& rules, int margin, Pixel fine_end);
Stamp make_disc(double radius, int antialias);

/// Offsets of the pixels within a distance.
std::vector<Pixel> disc_of(int radius);
/// Every pixel becomes the largest value within a distance of it.
Stamp widened(const Stamp& stamp, int radius);

/// Grey picture of side n_in shrunk to n_out by a Lanczos filter (a = 3) that covers a = 3 output pixels to each side, first along
/// rows, then along columns, rounded to 8 bits after each.
std::vector<uint8_t> shrink(const std::vector<uint8_t>& in, int n_in, int n_out);

}  // namespace flare
