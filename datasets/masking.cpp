#include "datasets/masking.h"

#include <algorithm>
#include <cmath>

#include "core/rng.h"

namespace flare {
namespace {
constexpr uint64_t kStream = uint64_t{0x4d41} << 48;  // keeps the masks apart from the shuffle
}

int64_t masked_count(const Masking& masking, int64_t n) {
  return std::clamp<int64_t>(std::llround(masking.share * static_cast<double>(n)), std::min<int64_t>(1, n), n);
}

std::vector<int64_t> masked_positions(const Masking& masking, int64_t n, uint64_t draw) {
  Rng rng(masking.seed, kStream + draw);
  auto missing = static_cast<uint64_t>(masked_count(masking, n));
  std::vector<int64_t> positions;
  positions.reserve(missing);
  for (int64_t i = 0; missing > 0; ++i) {
    if (rng.below(static_cast<uint64_t>(n - i)) >= missing) continue;
    positions.push_back(i);
    --missing;
  }
  return positions;
}

}  // namespace flare
