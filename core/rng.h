#pragma once
#include <cmath>
#include <cstdint>
#include <numbers>

#include <Random123/philox.h>

#include "core/hd.h"

namespace flare {

/// Four 32-bit words of Philox4x32-10 for a key (seed) and a 128-bit counter (stream, index): the same on CPU and GPU.
/// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC11; the Random123 library.
struct Philox4 {
  uint32_t w[4];
};
FLARE_HD Philox4 philox(uint64_t seed, uint64_t stream, uint64_t index) {
  r123::Philox4x32 generator;
  r123::Philox4x32::ctr_type counter = {{static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32),
                                         static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)}};
  r123::Philox4x32::key_type key = {{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)}};
  const r123::Philox4x32::ctr_type r = generator(counter, key);
  return {{r[0], r[1], r[2], r[3]}};
}
/// Uniform in [0, 1) with 24 random bits, exact in float.
FLARE_HD float uniform_float(uint32_t word) { return static_cast<float>(word >> 8) * 0x1p-24f; }

/// A sequential stream of random numbers on the host. Its whole state is (seed, stream, position): saving it is exact.
class Rng {
 public:
  explicit Rng(uint64_t seed, uint64_t stream = 0) : seed_(seed), stream_(stream) {}
  uint32_t next_u32() {
    if (position_ % 4 == 0) block_ = philox(seed_, stream_, position_ / 4);
    return block_.w[position_++ % 4];
  }
  uint64_t next_u64() {
    const uint64_t hi = next_u32();
    return hi << 32 | next_u32();
  }
  double uniform() { return static_cast<double>(next_u64() >> 11) * 0x1p-53; }  // [0, 1)
  /// Unbiased integer in [0, n), n >= 1, by rejection.
  uint64_t below(uint64_t n) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t x;
    do x = next_u64();
    while (x >= limit);
    return x % n;
  }
  /// Standard normal by Box-Muller; uses two uniforms a call.
  double normal() {
    const double u = 1.0 - uniform(), v = uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
  }

 private:
  uint64_t seed_, stream_, position_ = 0;
  Philox4 block_{};
};

}  // namespace flare
