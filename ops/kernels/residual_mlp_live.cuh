#pragma once
/// Which tiles of 64 rows have a live row: work is then shared out evenly over the rows that are not padding.
#include "ops/kernels/residual_mlp_tile.cuh"
#include "ops/kernels/residual_mlp_wgmma.h"

namespace flare {

/// Tiles whose padding is known beforehand, a bit each; of larger arrays every tile counts as live.
inline constexpr int kMlpLiveWords = 512;
/// Whether any of 16 rows from `first` on is live. `whole`: the mask's address is a multiple of 16.
__device__ __forceinline__ bool any_live(int first, int rows, const uint8_t* mask, bool whole) {
  if (whole && first + 16 <= rows) {
    const uint4 v = *reinterpret_cast<const uint4*>(mask + first);
    return (v.x | v.y | v.z | v.w) != 0;
  }
  bool live = false;
  for (int r = first; r < min(first + 16, rows); ++r) live |= mask[r] != 0;
  return live;
}
/// The tiles that have a live row, a bit each, found by all kThreads threads; a barrier must follow. A warp makes words, four loads
/// of 8 tiles each.
template <int kThreads>
__device__ __forceinline__ void find_live_tiles(uint32_t* words, int n_tiles, int rows, const uint8_t* mask) {
  static_assert(kWgmmaMlpRows == 64);
  constexpr int kAtOnce = 3;
  const int n_words = (n_tiles + 31) / 32, lane = threadIdx.x % 32;
  const bool whole = reinterpret_cast<uintptr_t>(mask) % 16 == 0;
  for (int first = threadIdx.x / 32; first < n_words; first += kThreads / 32 * kAtOnce) {
    bool live[kAtOnce][4];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i)
#pragma unroll
      for (int part = 0; part < 4; ++part)
        live[i][part] = any_live((first + i * (kThreads / 32)) * 2048 + part * 512 + lane * 16, rows, mask, whole);
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      uint32_t word = 0;
#pragma unroll
      for (int part = 0; part < 4; ++part) {
        uint32_t bits = __ballot_sync(0xffffffffu, live[i][part]);  // four lanes a tile
        bits |= bits >> 1, bits |= bits >> 2, bits &= 0x11111111u;
        bits |= bits >> 3, bits &= 0x03030303u, bits |= bits >> 6, bits &= 0x000f000fu, bits |= bits >> 12;
        word |= (bits & 0xffu) << 8 * part;
      }
      const int at = first + i * (kThreads / 32);
      if (lane == 0 && at < n_words) words[at] = word;
    }
  }
}
/// Counts through the live tiles; every warp for itself, in rising order.
struct LiveTiles {
  const uint32_t* words;  // null: all tiles are live
  int n_tiles;
  int base = 0;    // the first of the 32 words looked at
  int before = 0;  // live tiles in front of them

  /// The k-th live tile, or n_tiles when there are fewer.
  __device__ __forceinline__ int find(int k) {
    if (!words) return k < n_tiles ? k : n_tiles;
    const int n_words = (n_tiles + 31) / 32, lane = threadIdx.x % 32;
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
        int rank = k - before - __shfl_sync(0xffffffffu, up_to - mine, owner);
        word = __shfl_sync(0xffffffffu, word, owner);
        for (; rank > 0; --rank) word &= word - 1;
        return (base + owner) * 32 + __ffs(word) - 1;
      }
      before += all;
    }
    return n_tiles;
  }
  /// How many there are.
  __device__ __forceinline__ int count() const {
    if (!words) return n_tiles;
    const int n_words = (n_tiles + 31) / 32, lane = threadIdx.x % 32;
    int mine = 0;
    for (int i = lane; i < n_words; i += 32) mine += __popc(words[i]);
    return __reduce_add_sync(0xffffffffu, mine);
  }
  __device__ __forceinline__ bool is_dead(int tile) const { return words && !(words[tile / 32] >> tile % 32 & 1); }
};

}  // namespace flare
