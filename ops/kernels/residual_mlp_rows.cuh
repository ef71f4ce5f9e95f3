#pragma once
/// What a warpgroup of residual_mlp_wgmma.cuh holds: 64 rows of 128 bf16 channels in registers, their products with a weight in
/// shared memory, and the tiles that it takes.
///
/// A thread's part of a row would be pairs of columns 8 apart. The channels are permuted (fragment_channel) so that it is 16
/// neighbouring bytes instead: only the weights and biases, on their way into shared memory, have to know.
#include "ops/kernels/residual_mlp.cuh"
#include "ops/kernels/residual_mlp_live.cuh"
#include "ops/kernels/residual_mlp_wgmma.h"
#include "ops/kernels/sdpa_tile.cuh"
#include "ops/kernels/wgmma.cuh"

namespace flare {

inline constexpr int kMlpWeightElements = kMlpChannels * kMlpChannels;
/// Slopes of the activations of one layer of one warpgroup.
inline constexpr int kMlpSlopeBytes = kWgmmaMlpRows * kMlpChannels * 2;

/// Channel 32j + 8t + 4q + 2p + e in memory is channel 32j + 16q + 8p + 2t + e of the fragments (t < 4, the others bits), and the
/// other way round.
__device__ __forceinline__ int fragment_channel(int c) { return (c & ~31) | ((c & 6) << 2) | ((c & 24) >> 2) | (c & 1); }

/// What a thread has of 64 rows of 128 channels: two rows, 8 apart. As the left side of products, and as results.
struct MlpRows {
  uint32_t h[8][4];
  __device__ __forceinline__ uint32_t& word(int k, int p, int half) { return h[k][2 * p + half]; }
};
struct MlpSums {
  float half[2][32];  // columns 0 to 63, and 64 to 127
  /// Element e of the pair that becomes word(k, p, r).
  __device__ __forceinline__ float& at(int k, int p, int r, int e) { return half[k / 4][8 * (k % 4) + 4 * p + 2 * r + e]; }
};
/// f(k, p, r, first, second) for each pair of a thread in products kFirst to kLast - 1.
template <int kFirst, int kLast, class F> __device__ __forceinline__ void for_pairs_of(MlpSums& s, F& f) {
#pragma unroll
  for (int k = kFirst; k < kLast; ++k)
#pragma unroll
    for (int p = 0; p < 2; ++p)
#pragma unroll
      for (int r = 0; r < 2; ++r) f(k, p, r, s.at(k, p, r, 0), s.at(k, p, r, 1));
}
template <int kHalf, class F> __device__ __forceinline__ void for_pairs(MlpSums& s, F f) {
  for_pairs_of<4 * kHalf, 4 * kHalf + 4>(s, f);
}
template <class F> __device__ __forceinline__ void for_pairs(MlpSums& s, F f) { for_pairs_of<0, 8>(s, f); }
/// The same with first(j) before and then(j) after the pairs of products 2j and 2j + 1, which fill 16 bytes of each row.
template <class First, class F, class Then> __device__ __forceinline__ void for_groups(MlpSums& s, First first, F f, Then then) {
  const auto group = [&](auto j) {
    first(j);
    for_pairs_of<2 * j.value, 2 * j.value + 2>(s, f);
    then(j);
  };
  group(std::integral_constant<int, 0>{}), group(std::integral_constant<int, 1>{});
  group(std::integral_constant<int, 2>{}), group(std::integral_constant<int, 3>{});
}

inline constexpr int kNoLimit = 0x7fffffff;  // of rows: those of the backward pass's own arrays are whole tiles
/// Where a thread's rows lie in memory: row and row + 8, and its first channel.
struct MlpRowPlace {
  int row;
  bool live[2];
  __device__ __forceinline__ MlpRowPlace(int tile, int rows, const uint8_t* mask) {
    row = tile * kWgmmaMlpRows + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    live[0] = is_live(row, rows, mask), live[1] = is_live(row + 8, rows, mask);
  }
  __device__ __forceinline__ int64_t at(int r) const { return int64_t{row + 8 * r} * kMlpChannels + threadIdx.x % 4 * 8; }
};
/// Channels 32j to 32j + 31 of the rows below `rows`, live or not.
template <int j> __device__ __forceinline__ void load_group(MlpRows& h, const bf16* from, const MlpRowPlace& place, int rows) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const bool there = place.row + 8 * r < rows;
    const uint4 v = *reinterpret_cast<const uint4*>(from + (there ? place.at(r) : 0) + 32 * j);
    h.word(2 * j, 0, r) = v.x, h.word(2 * j, 1, r) = v.y, h.word(2 * j + 1, 0, r) = v.z, h.word(2 * j + 1, 1, r) = v.w;
  }
}
__device__ __forceinline__ void load_all_rows(MlpRows& h, const bf16* from, const MlpRowPlace& place, int rows) {
  load_group<0>(h, from, place, rows), load_group<1>(h, from, place, rows);
  load_group<2>(h, from, place, rows), load_group<3>(h, from, place, rows);
}
__device__ __forceinline__ void clear_dead(MlpRows& h, const MlpRowPlace& place) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int k = 0; k < 8; ++k)
#pragma unroll
      for (int p = 0; p < 2; ++p) h.word(k, p, r) = place.live[r] ? h.word(k, p, r) : 0;
}
/// The rows, with zeros in place of those that are not live.
__device__ __forceinline__ void load_rows(MlpRows& h, const bf16* from, const MlpRowPlace& place, int rows) {
  load_all_rows(h, from, place, rows);
  clear_dead(h, place);
}
/// Channels 32j to 32j + 31.
template <int j> __device__ __forceinline__ void store_group(MlpRows& h, bf16* to, const MlpRowPlace& place, int rows) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (place.row + 8 * r < rows)
      store_words(to + place.at(r) + 32 * j, h.word(2 * j, 0, r), h.word(2 * j, 1, r), h.word(2 * j + 1, 0, r),
                  h.word(2 * j + 1, 1, r));
}
__device__ __forceinline__ void store_rows(MlpRows& h, bf16* to, const MlpRowPlace& place, int rows) {
  store_group<0>(h, to, place, rows), store_group<1>(h, to, place, rows);
  store_group<2>(h, to, place, rows), store_group<3>(h, to, place, rows);
}
/// Asks for the 64 rows of a tile, a line of 128 bytes a thread.
__device__ __forceinline__ void prefetch_rows(const bf16* from, int tile, int rows) {
  const int row = tile * kWgmmaMlpRows + threadIdx.x % 128 / 2;
  if (row < rows) prefetch(from + int64_t{row} * kMlpChannels + threadIdx.x % 2 * 64);
}

/// Brings all weights into shared memory, two panels of 64 columns each, and the biases. A warp moves 8 rows of 32 columns, 16
/// bytes a thread, whose four words go to four chunks: no two threads to one bank.
template <int kThreads>
__device__ __forceinline__ void fetch_layers(bf16* weights, float* biases, const ResidualMlpArgs<bf16>& args) {
  constexpr int kWarps = kThreads / 32, kPieces = kMlpChannels / 8 * 4, kAtOnce = 8;
  const int lane = threadIdx.x % 32, t = lane % 4, n_pieces = args.n_layers * kPieces;
  for (int first = threadIdx.x / 32; first < n_pieces; first += kWarps * kAtOnce) {
    uint4 v[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int piece = first + i * kWarps, out = fragment_channel(piece % kPieces / 4 * 8 + lane / 4);
      if (piece < n_pieces)
        v[i] = *reinterpret_cast<const uint4*>(args.w[piece / kPieces] + out * kMlpChannels + piece % 4 * 32 + t * 8);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int piece = first + i * kWarps, row = piece % kPieces / 4 * 8 + lane / 4, j = piece % 4;
      if (piece >= n_pieces) break;
      bf16* panel = weights + piece / kPieces * kMlpWeightElements + j / 2 * (kMlpChannels * 64) + 2 * t;
      const uint32_t words[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
      for (int w = 0; w < 4; ++w) *reinterpret_cast<uint32_t*>(panel + tile_offset<64>(row, j % 2 * 4 + w)) = words[w];
    }
  }
  for (int i = threadIdx.x; i < args.n_layers * kMlpChannels; i += kThreads)
    biases[i] = args.bias[i / kMlpChannels][fragment_channel(i % kMlpChannels)];
}

/// Keeps the compiler from moving what makes or uses the sums past this point: it does not know when products read and write them.
__device__ __forceinline__ void settle(float (&half)[32]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(half[i])::"memory");
}
/// Starts sums += h wᵀ, or h w with kBack; w: the descriptor of the weight's first panel, to which offsets are added in units of 16
/// bytes. The halves arrive one after the other; h must stay as it is until the second has.
template <bool kBack> __device__ __forceinline__ void start_product(MlpSums& sums, const MlpRows& h, uint64_t w) {
  constexpr int kRow = 64 * 2 / 16, kPanel = kMlpChannels * kRow;
  settle(sums.half[0]);
  settle(sums.half[1]);
  wgmma_fence();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      if constexpr (kBack)  // rows of w are summed; its columns 64*half to + 63
        wgmma_64x64<true, true>(sums.half[half], h.h[k], w + half * kPanel + 16 * k * kRow);
      else  // columns of w are summed; its rows 64*half to + 63
        wgmma_64x64<true, false>(sums.half[half], h.h[k], w + k / 4 * kPanel + half * 64 * kRow + k % 4 * 2);
    }
    wgmma_commit();
  }
}
/// Waits for a half of the sums. With the second, the product is done with h, whose registers nobody else may have had until here.
template <int kHalf> __device__ __forceinline__ void await_half(MlpSums& sums, MlpRows& h) {
  wgmma_wait<1 - kHalf>();
  settle(sums.half[kHalf]);
  if constexpr (kHalf == 1)
#pragma unroll
    for (int k = 0; k < 8; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(h.h[k][i])::"memory");
}
__device__ __forceinline__ void await_both(MlpSums& sums, MlpRows& h) {
  await_half<0>(sums, h);
  await_half<1>(sums, h);
}
__device__ __forceinline__ void start_with_bias(MlpSums& sums, const float* bias) {
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      const float2 b = load_pair(bias + 16 * k + 8 * p + threadIdx.x % 4 * 2);
      sums.at(k, p, 0, 0) = sums.at(k, p, 1, 0) = b.x;
      sums.at(k, p, 0, 1) = sums.at(k, p, 1, 1) = b.y;
    }
}

/// What both kernels begin with: weights on their way, and the tiles that this warpgroup will take.
template <int kGroups> struct MlpWork {
  bf16* weights;
  float* biases;
  unsigned char* rest;  // shared memory that is left
  int rows;
  LiveTiles tiles;
  int group = threadIdx.x / 128;

  __device__ __forceinline__ explicit MlpWork(const ResidualMlpArgs<bf16>& args) {
    weights = reinterpret_cast<bf16*>(dynamic_shared());
    biases = reinterpret_cast<float*>(weights + args.n_layers * kMlpWeightElements);
    uint32_t* words = reinterpret_cast<uint32_t*>(biases + args.n_layers * kMlpChannels);
    rest = reinterpret_cast<unsigned char*>(words + kMlpLiveWords);
    rows = static_cast<int>(args.rows);
    tiles.n_tiles = (rows + kWgmmaMlpRows - 1) / kWgmmaMlpRows;
    fetch_layers<128 * kGroups>(weights, biases, args);
    const bool known = args.mask && tiles.n_tiles <= 32 * kMlpLiveWords;
    tiles.words = known ? words : nullptr;
    if (known) find_live_tiles<128 * kGroups>(words, tiles.n_tiles, rows, args.mask);
    fence_for_wgmma();
    __syncthreads();
  }
  __device__ __forceinline__ uint64_t weight(int layer) const {
    return matrix_descriptor(weights) + static_cast<uint32_t>(layer) * (kMlpWeightElements * 2 / 16);
  }
  /// f(tile, next) for this warpgroup's live tiles: neighbours go to different multiprocessors. `next` is known with kAhead only.
  template <bool kAhead, class F> __device__ __forceinline__ void for_live(F f) {
    int k = blockIdx.x + group * gridDim.x, tile = tiles.find(k);
    while (tile < tiles.n_tiles) {
      k += kGroups * gridDim.x;
      const int next = kAhead ? tiles.find(k) : 0;
      f(tile, next);
      tile = kAhead ? next : tiles.find(k);
    }
  }
  /// Rows of padding: zeros plus `residual` unless null.
  __device__ __forceinline__ void fill_dead(bf16* to, const bf16* residual) const {
    if (!tiles.words) return;
    for (int tile = blockIdx.x + group * gridDim.x; tile < tiles.n_tiles; tile += kGroups * gridDim.x) {
      if (!tiles.is_dead(tile)) continue;
      const int64_t first = int64_t{tile} * kWgmmaMlpRows, end = min(first + kWgmmaMlpRows, int64_t{rows});
      for (int64_t i = first * (kMlpChannels / 8) + threadIdx.x % 128; i < end * (kMlpChannels / 8); i += 128)
        reinterpret_cast<uint4*>(to)[i] = residual ? reinterpret_cast<const uint4*>(residual)[i] : uint4{0, 0, 0, 0};
    }
  }
};

}  // namespace flare
