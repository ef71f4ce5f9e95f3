#pragma once
/// Which tiles of 64 rows have a live row: work is then shared out evenly over the rows that are not padding.
#include "ops/kernels/residual_mlp_tile.cuh"
#include "ops/kernels/residual_mlp_wgmma.h"

namespace flare {

/// Tiles whose padding is known beforehand, a bit each; of larger arrays every tile counts as live.
inline constexpr int kMlpLiveWords = 512;
/// The tiles that have a live row, a bit each, found by all kThreads threads; a barrier must follow.
template <int kThreads>
__device__ __forceinline__ void find_live_tiles(uint32_t* words, int64_t n_tiles, int64_t rows, const uint8_t* mask) {
  const int n_words = static_cast<int>((n_tiles + 31) / 32);
  const bool whole = reinterpret_cast<uintptr_t>(mask) % 16 == 0;
  for (int i = threadIdx.x; i < n_words * 32; i += kThreads) {
    const int64_t first = int64_t{i} * kWgmmaMlpRows;
    bool live = false;
    if (whole && first + kWgmmaMlpRows <= rows) {
      const uint4* p = reinterpret_cast<const uint4*>(mask + first);
#pragma unroll
      for (int c = 0; c < kWgmmaMlpRows / 16; ++c) {
        const uint4 v = p[c];
        live |= (v.x | v.y | v.z | v.w) != 0;
      }
    } else {
      for (int r = 0; r < kWgmmaMlpRows && !live; ++r) live = is_live(first + r, rows, mask);
    }
    const uint32_t bits = __ballot_sync(0xffffffffu, live);
    if (threadIdx.x % 32 == 0) words[i / 32] = bits;
  }
}
/// Counts through the live tiles; every warp for itself, in rising order.
struct LiveTiles {
  const uint32_t* words;  // null: all tiles are live
  int64_t n_tiles;
  int base = 0;       // the first of the 32 words looked at
  int64_t before = 0;  // live tiles in front of them

  /// The k-th live tile, or n_tiles when there are fewer.
  __device__ __forceinline__ int64_t find(int64_t k) {
    if (!words) return k < n_tiles ? k : n_tiles;
    const int n_words = static_cast<int>((n_tiles + 31) / 32), lane = threadIdx.x % 32;
    for (; base < n_words; base += 32) {
      uint32_t word = base + lane < n_words ? words[base + lane] : 0;
      const int mine = __popc(word);
      int up_to = mine;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffu, up_to, step);
        if (lane >= step) up_to += other;
      }
      const int all = __shfl_sync(0xffffffffu, up_to, 31);
      if (k < before + all) {
        const int owner = __ffs(__ballot_sync(0xffffffffu, before + up_to > k)) - 1;
        int rank = static_cast<int>(k - before) - __shfl_sync(0xffffffffu, up_to - mine, owner);
        word = __shfl_sync(0xffffffffu, word, owner);
        for (; rank > 0; --rank) word &= word - 1;
        return (base + owner) * 32 + __ffs(word) - 1;
      }
      before += all;
    }
    return n_tiles;
  }
  /// How many there are.
  __device__ __forceinline__ int64_t count() const {
    if (!words) return n_tiles;
    const int n_words = static_cast<int>((n_tiles + 31) / 32), lane = threadIdx.x % 32;
    int mine = 0;
    for (int i = lane; i < n_words; i += 32) mine += __popc(words[i]);
    return __reduce_add_sync(0xffffffffu, mine);
  }
  __device__ __forceinline__ bool is_dead(int64_t tile) const { return words && !(words[tile / 32] >> tile % 32 & 1); }
};

}  // namespace flare
