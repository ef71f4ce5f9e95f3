#pragma once
#include <cstdint>
#include <vector>

namespace flare {

/// Hides tokens of a sample so that a model can learn to restore them.
struct Masking {
  double share = 0;   // of the sample's tokens, up to 1; 0: nothing is hidden
  int64_t token = 0;  // what stands in their place
  uint64_t seed = 0;
};

/// K = round(share·n), at least 1 and at most n.
int64_t masked_count(const Masking& masking, int64_t n);
/// K of the positions [0, n), ascending, every choice equally likely: selection sampling by Philox(seed, draw), draw < 2^48.
/// Source: Knuth, The Art of Computer Programming 2, section 3.4.2, algorithm S.
std::vector<int64_t> masked_positions(const Masking& masking, int64_t n, uint64_t draw);

}  // namespace flare
