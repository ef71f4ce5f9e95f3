#pragma once
/// One tile of rows times one square weight, both in shared memory: the step that the fused residual MLP repeats.
#include <cstdint>

#include "core/dtype.h"
#include "ops/kernels/mma.cuh"
#include "ops/kernels/residual_mlp.h"

namespace flare {

/// A block of WarpRows x WarpCols warps owns Rows rows of C columns; a warp's part is kMT x kNT fragments of 16 x 8. While one
/// layer's weight is used, those of the next kBuffers - 1 are on their way. kSplit (f32): each operand as two tf32 numbers, which
/// keeps f32's accuracy. kAhead: for tiles so small that a layer takes less time than a read of device memory; biases are read a
/// layer ahead, and slopes of the activations stay in shared memory.
template <class T_, int Channels, int Rows, int WarpRows, int WarpCols, int Buffers, int Blocks, bool Split> struct MlpTile {
  using T = T_;
  static constexpr int kC = Channels, kRows = Rows, kWarpRows = WarpRows, kWarpCols = WarpCols, kBuffers = Buffers,
                       kBlocks = Blocks;
  static constexpr bool kSplit = Split, kBf16 = sizeof(T) == 2, kAhead = Buffers > 2;
  static constexpr int kThreads = 32 * WarpRows * WarpCols;
  static constexpr int kFetched = Buffers > 1 ? Buffers - 1 : 1;  // weights on their way when a layer begins
  static constexpr int kMT = Rows / WarpRows / 16, kNT = Channels / WarpCols / 8;
  static constexpr int kVec = 16 / sizeof(T);
  // Row strides in elements that keep a warp's reads on different banks: rows of 16 bytes more than a multiple of 128 for reading
  // along a row; for f32 read down the columns (the transposed weight), 32 bytes more.
  static constexpr int kStride = Channels + kVec, kStrideDown = Channels + 8;
  static constexpr int kWeightElements = Channels * kStrideDown;
  static constexpr int64_t kForwardBytes = int64_t{sizeof(T)} * (Buffers * kWeightElements + Rows * kStride);
  static constexpr int64_t kSlopeBytes = kAhead ? int64_t{sizeof(T)} * kMaxMlpLayers * Rows * Channels : 0;
  static constexpr int64_t kBackwardBytes = kForwardBytes + kSlopeBytes;
  static_assert(kMT >= 1 && kNT >= 1 && (!kBf16 || kNT % 2 == 0) && kWeightElements % kVec == 0);
};

/// Where a thread's part of the fragments lies: element pair (mt, half, nt) is at row(mt, half), col(nt) and col(nt) + 1.
template <class Tile> struct MlpPlace {
  int lane = threadIdx.x % 32, warp_row = threadIdx.x / 32 / Tile::kWarpCols, warp_col = threadIdx.x / 32 % Tile::kWarpCols;
  __device__ int first_row() const { return warp_row * 16 * Tile::kMT; }
  __device__ int first_col() const { return warp_col * 8 * Tile::kNT; }
  __device__ int row(int mt, int half) const { return first_row() + mt * 16 + lane / 4 + 8 * half; }
  __device__ int col(int nt) const { return first_col() + nt * 8 + lane % 4 * 2; }
};
__device__ __forceinline__ float2 load_pair(const float* p) { return *reinterpret_cast<const float2*>(p); }
__device__ __forceinline__ float2 load_pair(const bf16* p) {
  const uint32_t bits = *reinterpret_cast<const uint32_t*>(p);
  return {bf16_low(bits), bf16_high(bits)};
}
__device__ __forceinline__ void store_pair(float* p, float a, float b) { *reinterpret_cast<float2*>(p) = {a, b}; }
__device__ __forceinline__ void store_pair(bf16* p, float a, float b) { *reinterpret_cast<uint32_t*>(p) = pack_bf16(a, b); }

template <class Tile> using MlpFragments = float[Tile::kMT][Tile::kNT][4];
template <class Tile> __device__ __forceinline__ void clear(MlpFragments<Tile>& acc) {
#pragma unroll
  for (int mt = 0; mt < Tile::kMT; ++mt)
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[mt][nt][j] = 0;
}
/// The biases at a thread's columns, of one layer after the other.
template <class Tile> struct MlpBias {
  float2 pairs[Tile::kNT];
  __device__ __forceinline__ void load(const float* bias, const MlpPlace<Tile>& at) {
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) pairs[nt] = load_pair(bias + at.col(nt));
  }
  /// Every row starts as the bias of `layer`, which spares an addition per element later.
  __device__ __forceinline__ void start(MlpFragments<Tile>& acc, const float* const* biases, int layer, int n,
                                        const MlpPlace<Tile>& at) {
    if (!Tile::kAhead || layer == 0) load(biases[layer], at);
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
      for (int mt = 0; mt < Tile::kMT; ++mt) {
        acc[mt][nt][0] = acc[mt][nt][2] = pairs[nt].x;
        acc[mt][nt][1] = acc[mt][nt][3] = pairs[nt].y;
      }
    if (Tile::kAhead && layer + 1 < n) load(biases[layer + 1], at);
  }
};

/// Whether a row is one of the array's and, where there is a mask, real.
__device__ __forceinline__ bool is_live(int64_t row, int64_t rows, const uint8_t* mask) {
  return row < rows && (!mask || mask[row]);
}

/// Fetches a [C,C] weight, or rows first... of a packed [rows,C] array with zeros in place of those not live. Asynchronous.
template <class Tile> __device__ __forceinline__ void fetch_weight(typename Tile::T* to, const typename Tile::T* w, int stride) {
  constexpr int kPacks = Tile::kC / Tile::kVec;
  for (int i = threadIdx.x; i < Tile::kC * kPacks; i += Tile::kThreads) {
    const int row = i / kPacks, col = i % kPacks * Tile::kVec;
    copy_async_16(to + row * stride + col, w + row * Tile::kC + col, true);
  }
  copy_async_commit();
}
template <class Tile>
__device__ __forceinline__ void fetch_rows(typename Tile::T* to, const typename Tile::T* from, int64_t first, int64_t rows,
                                           const uint8_t* mask) {
  constexpr int kPacks = Tile::kC / Tile::kVec;
  for (int i = threadIdx.x; i < Tile::kRows * kPacks; i += Tile::kThreads) {
    const int row = i / kPacks, col = i % kPacks * Tile::kVec;
    const bool live = is_live(first + row, rows, mask);
    copy_async_16(to + row * Tile::kStride + col, live ? from + (first + row) * Tile::kC + col : from, live);
  }
  copy_async_commit();
}
template <class T> __device__ __forceinline__ uint4 sum_of_packs(uint4 a, uint4 b) {
  T *to = reinterpret_cast<T*>(&a), *from = reinterpret_cast<T*>(&b);
#pragma unroll
  for (int k = 0; k < 16 / static_cast<int>(sizeof(T)); ++k) to[k] = T(static_cast<float>(to[k]) + static_cast<float>(from[k]));
  return a;
}
/// Writes the tile's rows, with zeros in place of masked ones, plus `residual` unless null. Without a tile: zeros.
template <class Tile>
__device__ __forceinline__ void store_rows(const typename Tile::T* tile, typename Tile::T* to, int64_t first, int64_t rows,
                                           const uint8_t* mask = nullptr, const typename Tile::T* residual = nullptr) {
  constexpr int kPacks = Tile::kC / Tile::kVec;
  for (int i = threadIdx.x; i < Tile::kRows * kPacks; i += Tile::kThreads) {
    const int row = i / kPacks, col = i % kPacks * Tile::kVec;
    if (first + row >= rows) continue;
    uint4 pack{0, 0, 0, 0};
    if (tile && is_live(first + row, rows, mask)) pack = *reinterpret_cast<const uint4*>(tile + row * Tile::kStride + col);
    const int64_t at = (first + row) * Tile::kC + col;
    if (residual) pack = sum_of_packs<typename Tile::T>(pack, *reinterpret_cast<const uint4*>(residual + at));
    *reinterpret_cast<uint4*>(to + at) = pack;
  }
}

/// Whether a block has a live row at all; padding comes in long runs. Every thread must call it.
template <class Tile> __device__ __forceinline__ bool has_live_row(int64_t first, int64_t rows, const uint8_t* mask) {
  bool live = false;
  for (int i = threadIdx.x; i < Tile::kRows; i += Tile::kThreads) live |= is_live(first + i, rows, mask);
  return __syncthreads_or(live);
}

/// The operands of one f32 product of 16 x 8 x 8 as the matrix units take them.
template <bool kSplit> struct MlpLeft {
  uint32_t hi[4], lo[kSplit ? 4 : 1];
  __device__ void set(int j, float v) {
    if constexpr (kSplit)
      split_tf32(__float_as_uint(v), hi[j], lo[j]);
    else
      hi[j] = tf32_nearest(__float_as_uint(v));
  }
};
template <bool kSplit> struct MlpRight {
  uint32_t hi[2], lo[kSplit ? 2 : 1];
  __device__ MlpRight(float v0, float v1) {
    const uint32_t v[2] = {__float_as_uint(v0), __float_as_uint(v1)};
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      if constexpr (kSplit)
        split_tf32(v[j], hi[j], lo[j]);
      else
        hi[j] = tf32_nearest(v[j]);
    }
  }
};
/// acc += a·b; the products with a low part go to lo_hi and hi_lo, which may be acc.
template <bool kSplit>
__device__ __forceinline__ void mlp_mma(float (&acc)[4], float (&lo_hi)[4], float (&hi_lo)[4], const MlpLeft<kSplit>& a,
                                        const MlpRight<kSplit>& b) {
  if constexpr (kSplit) {
    mma_tf32_k8(lo_hi, a.lo, b.hi[0], b.hi[1], lo_hi);
    mma_tf32_k8(hi_lo, a.hi, b.lo[0], b.lo[1], hi_lo);
  }
  mma_tf32_k8(acc, a.hi, b.hi[0], b.hi[1], acc);
}

/// acc += tile·wᵀ (kDown false: w is read along its rows), or acc += tile·w (kDown true, w stored with stride kStrideDown).
template <class Tile, bool kDown>
__device__ __forceinline__ void mlp_product(MlpFragments<Tile>& acc, const float* tile, const float* w, const MlpPlace<Tile>& at) {
  const int g = at.lane / 4, t = at.lane % 4;
  const float* a_row = tile + (at.first_row() + g) * Tile::kStride + t;
  constexpr int kStride = kDown ? Tile::kStrideDown : Tile::kStride;
  const float* b_row = kDown ? w + t * kStride + at.first_col() + g : w + (at.first_col() + g) * kStride + t;
#pragma unroll 4
  for (int k = 0; k < Tile::kC; k += 8) {
    MlpLeft<Tile::kSplit> left[Tile::kMT];
#pragma unroll
    for (int mt = 0; mt < Tile::kMT; ++mt)
#pragma unroll
      for (int j = 0; j < 4; ++j) left[mt].set(j, a_row[(mt * 16 + j % 2 * 8) * Tile::kStride + k + j / 2 * 4]);
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      const float v0 = kDown ? b_row[k * kStride + nt * 8] : b_row[nt * 8 * kStride + k];
      const float v1 = kDown ? b_row[(k + 4) * kStride + nt * 8] : b_row[nt * 8 * kStride + k + 4];
      const MlpRight<Tile::kSplit> right(v0, v1);
#pragma unroll
      for (int mt = 0; mt < Tile::kMT; ++mt) mlp_mma(acc[mt][nt], acc[mt][nt], acc[mt][nt], left[mt], right);
    }
  }
}
template <class Tile, bool kDown>
__device__ __forceinline__ void mlp_product(MlpFragments<Tile>& acc, const bf16* tile, const bf16* w, const MlpPlace<Tile>& at) {
  const int i = at.lane % 8, j = at.lane / 8;
  const bf16* a_row = tile + (at.first_row() + at.lane % 16) * Tile::kStride + at.lane / 16 * 8;
  constexpr int kStride = kDown ? Tile::kStrideDown : Tile::kStride;
  const bf16* b_row = kDown ? w + (j % 2 * 8 + i) * kStride + at.first_col() + j / 2 * 8
                            : w + (at.first_col() + j / 2 * 8 + i) * kStride + j % 2 * 8;
#pragma unroll
  for (int k = 0; k < Tile::kC; k += 16) {
    uint32_t a[Tile::kMT][4];
#pragma unroll
    for (int mt = 0; mt < Tile::kMT; ++mt) ldmatrix_x4(a[mt], a_row + mt * 16 * Tile::kStride + k);
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; nt += 2) {
      uint32_t b[4];
      if constexpr (kDown)
        ldmatrix_x4_trans(b, b_row + k * kStride + nt * 8);
      else
        ldmatrix_x4(b, b_row + nt * 8 * kStride + k);
#pragma unroll
      for (int mt = 0; mt < Tile::kMT; ++mt) {
        mma_bf16_k16(acc[mt][nt], a[mt], b[0], b[1], acc[mt][nt]);
        mma_bf16_k16(acc[mt][nt + 1], a[mt], b[2], b[3], acc[mt][nt + 1]);
      }
    }
  }
}

}  // namespace flare
