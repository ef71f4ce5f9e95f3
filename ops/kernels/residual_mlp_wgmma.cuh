#pragma once
/// The fused residual MLP of 128 bf16 channels on the warpgroup units of sm_90a. A block keeps the weights of all layers in shared
/// memory, and each of its warpgroups carries 64 rows at a time through all layers in registers: the result of one product,
/// activated and rounded, is the left side of the next. Nothing waits for anybody after the weights have come; while one warpgroup
/// computes activations, the products of the others run.
///
/// A thread's part of a row would be pairs of columns 8 apart. The channels are permuted (physical_channel) so that it is 16
/// neighbouring bytes instead: only the weights and biases, on their way into shared memory, have to know.
#include "ops/kernels/residual_mlp.cuh"
#include "ops/kernels/residual_mlp_live.cuh"
#include "ops/kernels/residual_mlp_wgmma.h"
#include "ops/kernels/sdpa_tile.cuh"
#include "ops/kernels/wgmma.cuh"

namespace flare {

inline constexpr int kMlpWeightElements = kMlpChannels * kMlpChannels;
inline constexpr int kMlpThreads = 128 * kWgmmaMlpGroups;
/// Slopes of the activations of one layer of one warpgroup.
inline constexpr int kMlpSlopeBytes = kWgmmaMlpRows * kMlpChannels * 2;

/// Channel p in memory is channel 16(2j+q) + 8p' + 2t + e of the fragments, where p = 32j + 8t + 4q + 2p' + e.
__device__ __forceinline__ int fragment_channel(int p) {
  return (p & ~31) | ((p & 6) << 2) | ((p & 24) >> 2) | (p & 1);
}

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
/// f(k, p, r, first, second) for each pair of a thread.
template <class F> __device__ __forceinline__ void for_pairs(MlpSums& s, F f) {
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int p = 0; p < 2; ++p)
#pragma unroll
      for (int r = 0; r < 2; ++r) f(k, p, r, s.at(k, p, r, 0), s.at(k, p, r, 1));
}

/// Where a thread's rows lie in memory: row and row + 8, and its first channel.
struct MlpRowPlace {
  int64_t row;
  bool live[2];
  __device__ __forceinline__ MlpRowPlace(int64_t tile, int64_t rows, const uint8_t* mask) {
    row = tile * kWgmmaMlpRows + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    live[0] = is_live(row, rows, mask), live[1] = is_live(row + 8, rows, mask);
  }
  __device__ __forceinline__ int64_t at(int r) const { return (row + 8 * r) * kMlpChannels + threadIdx.x % 4 * 8; }
};
/// The rows, with zeros in place of those that are not live.
__device__ __forceinline__ void load_rows(MlpRows& h, const bf16* from, const MlpRowPlace& place) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const uint4* p = reinterpret_cast<const uint4*>(from + (place.live[r] ? place.at(r) : 0));
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      const uint4 v = place.live[r] ? p[4 * j] : uint4{0, 0, 0, 0};
      h.word(2 * j, 0, r) = v.x, h.word(2 * j, 1, r) = v.y, h.word(2 * j + 1, 0, r) = v.z, h.word(2 * j + 1, 1, r) = v.w;
    }
  }
}
__device__ __forceinline__ void store_rows(MlpRows& h, bf16* to, const MlpRowPlace& place, int64_t rows) {
#pragma unroll
  for (int r = 0; r < 2; ++r)
    if (place.row + 8 * r < rows)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        store_words(to + place.at(r) + 32 * j, h.word(2 * j, 0, r), h.word(2 * j, 1, r), h.word(2 * j + 1, 0, r),
                    h.word(2 * j + 1, 1, r));
}

/// Starts all weights on their way into shared memory, two panels of 64 columns each, and puts the biases behind them.
__device__ __forceinline__ void fetch_layers(bf16* weights, float* biases, const ResidualMlpArgs<bf16>& args) {
  for (int layer = 0; layer < args.n_layers; ++layer) {
    bf16* to = weights + layer * kMlpWeightElements;
    for (int i = threadIdx.x; i < kMlpChannels * 16; i += kMlpThreads) {
      const int out = i / 16, chunk = i % 16, row = fragment_channel(out);
      const bf16* from = args.w[layer] + out * kMlpChannels + chunk * 8;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const int col = fragment_channel(chunk * 8 + 2 * w);
        copy_async_4(to + col / 64 * (kMlpChannels * 64) + tile_offset<64>(row, col % 64 / 8) + col % 8, from + 2 * w, true);
      }
    }
    for (int i = threadIdx.x; i < kMlpChannels; i += kMlpThreads)
      biases[layer * kMlpChannels + fragment_channel(i)] = args.bias[layer][i];
  }
  copy_async_commit();
}

/// Keeps the compiler from moving what makes or uses the sums past this point: it does not know when products read and write them.
__device__ __forceinline__ void settle(MlpSums& sums) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(sums.half[half][i])::"memory");
}
/// sums += h wᵀ, or h w with kBack.
template <bool kBack> __device__ __forceinline__ void mlp_product(MlpSums& sums, const MlpRows& h, const bf16* w) {
  constexpr int kPanel = kMlpChannels * 64;
  settle(sums);
  wgmma_fence();
#pragma unroll
  for (int k = 0; k < 8; ++k)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if constexpr (kBack)  // rows of w are summed; its columns 64*half to + 63
        wgmma_64x64<true, true>(sums.half[half], h.h[k], matrix_descriptor(w + half * kPanel + 16 * 64 * k));
      else  // columns of w are summed; its rows 64*half to + 63
        wgmma_64x64<true, false>(sums.half[half], h.h[k], matrix_descriptor(w + k / 4 * kPanel + half * 64 * 64 + k % 4 * 16));
    }
  wgmma_commit();
  wgmma_wait<0>();
  settle(sums);
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
struct MlpWork {
  bf16* weights;
  float* biases;
  unsigned char* rest;  // shared memory that is left
  LiveTiles tiles;
  int group = threadIdx.x / 128;

  __device__ __forceinline__ explicit MlpWork(const ResidualMlpArgs<bf16>& args) {
    weights = reinterpret_cast<bf16*>(dynamic_shared());
    biases = reinterpret_cast<float*>(weights + args.n_layers * kMlpWeightElements);
    uint32_t* words = reinterpret_cast<uint32_t*>(biases + args.n_layers * kMlpChannels);
    rest = reinterpret_cast<unsigned char*>(words + kMlpLiveWords);
    tiles.n_tiles = (args.rows + kWgmmaMlpRows - 1) / kWgmmaMlpRows;
    fetch_layers(weights, biases, args);
    const bool known = args.mask && tiles.n_tiles <= 32 * kMlpLiveWords;
    tiles.words = known ? words : nullptr;
    if (known) find_live_tiles<kMlpThreads>(words, tiles.n_tiles, args.rows, args.mask);
    copy_async_wait<0>();
    fence_for_wgmma();
    __syncthreads();
  }
  /// f(tile) for this warpgroup's live tiles: neighbours go to different multiprocessors.
  template <class F> __device__ __forceinline__ void for_live(F f) {
    for (int64_t k = blockIdx.x + int64_t{group} * gridDim.x;; k += int64_t{kWgmmaMlpGroups} * gridDim.x) {
      const int64_t tile = tiles.find(k);
      if (tile >= tiles.n_tiles) break;
      f(tile);
    }
  }
  /// Rows of padding: zeros plus `residual` unless null.
  __device__ __forceinline__ void fill_dead(bf16* to, int64_t rows, const bf16* residual) const {
    if (!tiles.words) return;
    for (int64_t tile = blockIdx.x + int64_t{group} * gridDim.x; tile < tiles.n_tiles; tile += int64_t{kWgmmaMlpGroups} * gridDim.x) {
      if (!tiles.is_dead(tile)) continue;
      const int64_t first = tile * kWgmmaMlpRows * (kMlpChannels / 8), end = rows * (kMlpChannels / 8);
      for (int64_t i = first + threadIdx.x % 128; i < min(first + kWgmmaMlpRows * (kMlpChannels / 8), end); i += 128)
        reinterpret_cast<uint4*>(to)[i] = residual ? reinterpret_cast<const uint4*>(residual)[i] : uint4{0, 0, 0, 0};
    }
  }
};

/// Persistent blocks, one for each multiprocessor.
__global__ void __launch_bounds__(kMlpThreads, 1) residual_mlp_wgmma_kernel(const __grid_constant__ ResidualMlpArgs<bf16> args) {
#if FLARE_HAS_WGMMA
  MlpWork work(args);
  work.for_live([&](int64_t tile) {
    const MlpRowPlace place(tile, args.rows, args.mask);
    MlpRows h;
    load_rows(h, args.x, place);
    for (int layer = 0; layer < args.n_layers; ++layer) {
      MlpSums sums;
      start_with_bias(sums, work.biases + layer * kMlpChannels);
      mlp_product<false>(sums, h, work.weights + layer * kMlpWeightElements);
      const bool last = layer == args.n_layers - 1;
      const bool keeps = layer == 0 ? args.input_residual : !last || args.output_residual;
      if (!last)
        for_pairs(sums, [](int, int, int, float& a, float& b) { a = MlpGelu<bf16>(a).value, b = MlpGelu<bf16>(b).value; });
      if (keeps)
        for_pairs(sums, [&](int k, int p, int r, float& a, float& b) {
          a += bf16_low(h.word(k, p, r)), b += bf16_high(h.word(k, p, r));
        });
      for_pairs(sums, [&](int k, int p, int r, float a, float b) { h.word(k, p, r) = pack_bf16(a, b); });
    }
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (!place.live[r])
#pragma unroll
        for (int k = 0; k < 8; ++k) h.word(k, 0, r) = h.word(k, 1, r) = 0;
    if (args.residual) {
      MlpRows other;
      MlpRowPlace all = place;
      all.live[0] = place.row < args.rows, all.live[1] = place.row + 8 < args.rows;
      load_rows(other, args.residual, all);
#pragma unroll
      for (int k = 0; k < 8; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          h.h[k][i] = pack_bf16(bf16_low(h.h[k][i]) + bf16_low(other.h[k][i]), bf16_high(h.h[k][i]) + bf16_high(other.h[k][i]));
    }
    store_rows(h, args.y, place, args.rows);
  });
  work.fill_dead(args.y, args.rows, args.residual);
#endif
}

/// Persistent blocks as above. `shared_slopes` layers' slopes stay in shared memory; those of the others wait where the cotangents
/// of the layer's sum will take their place, written and read by the same thread.
__global__ void __launch_bounds__(kMlpThreads, 1)
    residual_mlp_backward_wgmma_kernel(const __grid_constant__ ResidualMlpArgs<bf16> args, int shared_slopes) {
#if FLARE_HAS_WGMMA
  MlpWork work(args);
  const int n = args.n_layers;
  const int64_t slot = args.slot_rows * kMlpChannels;
  const auto slopes_at = [&](int layer) {  // a thread's units of 16 bytes, 128 units apart
    return reinterpret_cast<uint4*>(work.rest + (layer * kWgmmaMlpGroups + work.group) * kMlpSlopeBytes) + threadIdx.x % 128;
  };
  work.for_live([&](int64_t tile) {
    const MlpRowPlace place(tile, args.rows, args.mask);
    MlpRows h;
    MlpSums sums;
    load_rows(h, args.x, place);
    for (int layer = 0; layer < n - 1; ++layer) {
      start_with_bias(sums, work.biases + layer * kMlpChannels);
      mlp_product<false>(sums, h, work.weights + layer * kMlpWeightElements);
      const bool keeps = layer > 0 || args.input_residual;
      MlpRows slopes;
      for_pairs(sums, [&](int k, int p, int r, float a, float b) {
        const MlpGelu<bf16> ga(a), gb(b);
        slopes.word(k, p, r) = pack_bf16(ga.slope, gb.slope);
        uint32_t& word = h.word(k, p, r);
        word = keeps ? pack_bf16(bf16_low(word) + ga.value, bf16_high(word) + gb.value) : pack_bf16(ga.value, gb.value);
      });
      store_rows(h, args.kept + layer * slot, place, args.slot_rows);
      if (layer < shared_slopes) {
        uint4* to = slopes_at(layer);
#pragma unroll
        for (int k = 0; k < 8; ++k) to[128 * k] = {slopes.h[k][0], slopes.h[k][1], slopes.h[k][2], slopes.h[k][3]};
      } else {
        store_rows(slopes, args.cotangents + layer * slot, place, args.slot_rows);
      }
    }
    // From here on h is the cotangent of a layer's sum, and sums what reaches the layer's input past the layer.
    load_rows(h, args.gy, place);
    for_pairs(sums, [&](int k, int p, int r, float& a, float& b) {
      a = args.output_residual ? bf16_low(h.word(k, p, r)) : 0.0f, b = args.output_residual ? bf16_high(h.word(k, p, r)) : 0.0f;
    });
    for (int layer = n - 1;; --layer) {
      mlp_product<true>(sums, h, work.weights + layer * kMlpWeightElements);
      if (layer == 0) break;
      MlpRows slopes;
      if (layer - 1 < shared_slopes) {
        const uint4* from = slopes_at(layer - 1);
#pragma unroll
        for (int k = 0; k < 8; ++k) {
          const uint4 v = from[128 * k];
          slopes.h[k][0] = v.x, slopes.h[k][1] = v.y, slopes.h[k][2] = v.z, slopes.h[k][3] = v.w;
        }
      } else {
        MlpRowPlace all = place;
        all.live[0] = all.live[1] = true;
        load_rows(slopes, args.cotangents + (layer - 1) * slot, all);
      }
      for_pairs(sums, [&](int k, int p, int r, float a, float b) {
        const uint32_t s = slopes.word(k, p, r);
        h.word(k, p, r) = pack_bf16(a * bf16_low(s), b * bf16_high(s));
      });
      store_rows(h, args.cotangents + (layer - 1) * slot, place, args.slot_rows);
      if (layer == 1 && !args.input_residual)
        for_pairs(sums, [](int, int, int, float& a, float& b) { a = b = 0; });
    }
    for_pairs(sums, [&](int k, int p, int r, float a, float b) { h.word(k, p, r) = pack_bf16(a, b); });
    store_rows(h, args.y, place, args.rows);
  });
  work.fill_dead(args.y, args.rows, nullptr);
#endif
}

}  // namespace flare
