#pragma once
#include "core/hd.h"
#include "core/tensor.h"

namespace flare {

/// The Philox stream of dropout site `site` at step `step`: both mixed by splitmix64, so that neither neighbouring sites nor
/// neighbouring steps share numbers.  Source: Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014.
FLARE_HD uint64_t dropout_stream(uint64_t site, uint64_t step) {
  uint64_t z = step;
  for (int round = 0; round < 2; ++round) {
    z += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    if (round == 0) z ^= site * 0xd1342543de82ef95ull;
  }
  return z;
}

/// y = x⊙keep / (1 - p), keep = 1 with probability 1 - p.  rng: i64 [2] = {seed, step} on x's device, read when the op runs.
/// Element e takes word e mod 4 of philox(seed, dropout_stream(site, step), e / 4), so a mask is the same on every device and
/// is drawn again, not kept, for the gradient: rng must not change between forward and backward. x itself when p is 0.
/// ShapeError unless 0 <= p < 1.
Tensor dropout(const Tensor& x, double p, const Tensor& rng, uint64_t site);

}  // namespace flare
