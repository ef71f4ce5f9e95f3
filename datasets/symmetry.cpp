#include "datasets/symmetry.h"

#include <cmath>

#include "core/check.h"
#include "core/rng.h"

namespace flare {
namespace {
constexpr uint64_t kStream = uint64_t{0x5359} << 48;  // keeps the symmetries apart from shuffle and masks
}

Symmetries symmetries_named(const std::string& name) {
  if (name == "none") return Symmetries::none;
  if (name == "mirror") return Symmetries::mirror;
  if (name == "square") return Symmetries::square;
  throw ConfigError(cat("task.symmetries: \"", name, "\" is not one of none, mirror, square"));
}

int drawn_symmetry(Symmetries symmetries, uint64_t seed, uint64_t draw) {
  if (symmetries == Symmetries::none) return 0;
  Rng rng(seed, kStream + draw);
  return static_cast<int>(rng.below(symmetries == Symmetries::mirror ? 2 : 8));
}

int64_t square_side(int64_t n) {
  const int64_t side = std::llround(std::sqrt(static_cast<double>(n)));
  return side * side == n ? side : 0;
}

}  // namespace flare
