#pragma once
/// Gradients of the fused residual MLP's weights and biases, dw_l = (cotangents of layer l)ᵀ · (what layer l read) and
/// db_l = (cotangents of layer l)ᵀ · 1, for all layers in one launch: a block takes a run of rows of one layer and leaves a partial
/// product. Rows of padding are skipped.
#include "ops/kernels/residual_mlp.h"
#include "ops/kernels/residual_mlp_tile.cuh"

namespace flare {

/// A block's part of dw is kSide x kSide; it reads kStep rows of both operands at a time, the next ones while these are multiplied.
template <class T_, int Channels, bool Split> struct MlpWeightsTile {
  using T = T_;
  static constexpr int kC = Channels, kSide = Channels < 128 ? Channels : 128, kParts = (Channels / kSide) * (Channels / kSide);
  static constexpr bool kSplit = Split, kBf16 = sizeof(T) == 2;
  static constexpr int kThreads = 256, kWarpRows = 4, kWarpCols = 2, kVec = 16 / sizeof(T);
  static constexpr int kMT = kSide / kWarpRows / 16, kNT = kSide / kWarpCols / 8;
  static constexpr int kStep = kBf16 ? 64 : 32, kStride = kSide + 8;  // both operands are read down their columns
  static constexpr int kStepElements = kStep * kStride, kMostSteps = 1024;
  static constexpr int64_t kSharedBytes = int64_t{4} * kStepElements * sizeof(T) + kMostSteps;
};

template <class Tile>
__device__ __forceinline__ void fetch_step(typename Tile::T* to, const typename Tile::T* from, int first_col, int64_t first,
                                           int64_t rows, const uint8_t* mask) {
  constexpr int kPacks = Tile::kSide / Tile::kVec;
  for (int i = threadIdx.x; i < Tile::kStep * kPacks; i += Tile::kThreads) {
    const int row = i / kPacks, col = i % kPacks * Tile::kVec;
    const bool live = is_live(first + row, rows, mask);
    copy_async_16(to + row * Tile::kStride + col, live ? from + (first + row) * Tile::kC + first_col + col : from, live);
  }
}

/// acc += aᵀ·b over the kStep rows of both, and ones += aᵀ·1 if wanted, in every column.
template <class Tile>
__device__ __forceinline__ void mlp_outer_product(MlpFragments<Tile>& acc, float (&ones)[Tile::kMT][4], bool wants_ones,
                                                  const bf16* a, const bf16* b, const MlpPlace<Tile>& at) {
  constexpr uint32_t kOnes = 0x3f803f80u;
  const int i = at.lane % 8, j = at.lane / 8;
  const bf16* a_row = a + (j / 2 * 8 + i) * Tile::kStride + at.first_row() + j % 2 * 8;
  const bf16* b_row = b + (j % 2 * 8 + i) * Tile::kStride + at.first_col() + j / 2 * 8;
#pragma unroll
  for (int k = 0; k < Tile::kStep; k += 16) {
    uint32_t left[Tile::kMT][4];
#pragma unroll
    for (int mt = 0; mt < Tile::kMT; ++mt) {
      ldmatrix_x4_trans(left[mt], a_row + k * Tile::kStride + mt * 16);
      if (wants_ones) mma_bf16_k16(ones[mt], left[mt], kOnes, kOnes, ones[mt]);
    }
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; nt += 2) {
      uint32_t right[4];
      ldmatrix_x4_trans(right, b_row + k * Tile::kStride + nt * 8);
#pragma unroll
      for (int mt = 0; mt < Tile::kMT; ++mt) {
        mma_bf16_k16(acc[mt][nt], left[mt], right[0], right[1], acc[mt][nt]);
        mma_bf16_k16(acc[mt][nt + 1], left[mt], right[2], right[3], acc[mt][nt + 1]);
      }
    }
  }
}
template <class Tile>
__device__ __forceinline__ void mlp_outer_product(MlpFragments<Tile>& acc, float (&ones)[Tile::kMT][4], bool wants_ones,
                                                  const float* a, const float* b, const MlpPlace<Tile>& at) {
  const int g = at.lane / 4, t = at.lane % 4;
  const float *a_col = a + t * Tile::kStride + at.first_row() + g, *b_col = b + t * Tile::kStride + at.first_col() + g;
#pragma unroll 2
  for (int k = 0; k < Tile::kStep; k += 8) {
    MlpLeft<Tile::kSplit> left[Tile::kMT];
#pragma unroll
    for (int mt = 0; mt < Tile::kMT; ++mt) {
#pragma unroll
      for (int j = 0; j < 4; ++j) left[mt].set(j, a_col[(k + j / 2 * 4) * Tile::kStride + mt * 16 + j % 2 * 8]);
      if (wants_ones) mlp_mma(ones[mt], ones[mt], ones[mt], left[mt], MlpRight<Tile::kSplit>(1.0f, 1.0f));
    }
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      const MlpRight<Tile::kSplit> right(b_col[k * Tile::kStride + nt * 8], b_col[(k + 4) * Tile::kStride + nt * 8]);
#pragma unroll
      for (int mt = 0; mt < Tile::kMT; ++mt) mlp_mma(acc[mt][nt], acc[mt][nt], acc[mt][nt], left[mt], right);
    }
  }
}

/// Grid (chunks, layers, parts of dw).
template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, 2)
    residual_mlp_weights_kernel(const __grid_constant__ ResidualMlpArgs<typename Tile::T> args) {
  after_previous();
  using T = typename Tile::T;
  extern __shared__ __align__(16) unsigned char shared[];
  T* stages = reinterpret_cast<T*>(shared);
  unsigned char* step_is_live = shared + int64_t{4} * Tile::kStepElements * sizeof(T);
  const MlpPlace<Tile> at;
  const int layer = blockIdx.y, n = args.n_layers;
  const int row0 = blockIdx.z / (Tile::kC / Tile::kSide) * Tile::kSide, col0 = blockIdx.z % (Tile::kC / Tile::kSide) * Tile::kSide;
  const int64_t slot = args.slot_rows * Tile::kC, begin = blockIdx.x * args.chunk_rows;
  const int64_t end = begin + args.chunk_rows < args.rows ? begin + args.chunk_rows : args.rows;
  const T* cotangents = layer >= args.n_active() ? args.gy : args.cotangents + layer * slot;
  const T* reads = layer == 0 ? args.x : args.kept + (layer - 1) * slot;
  const int n_steps = static_cast<int>((end - begin + Tile::kStep - 1) / Tile::kStep);
  const bool skips = args.mask && n_steps <= Tile::kMostSteps;
  if (skips) {
    for (int s = threadIdx.x; s < n_steps; s += Tile::kThreads) {
      bool live = false;
      for (int r = 0; r < Tile::kStep && !live; ++r) live = is_live(begin + s * Tile::kStep + r, end, args.mask);
      step_is_live[s] = live;
    }
    __syncthreads();
  }
  const auto next_live = [&](int s) {
    while (skips && s < n_steps && !step_is_live[s]) ++s;
    return s;
  };
  const auto fetch = [&](int s, int stage) {
    if (s < n_steps) {
      T* to = stages + stage * 2 * Tile::kStepElements;
      const int64_t first = begin + int64_t{s} * Tile::kStep;
      fetch_step<Tile>(to, cotangents, row0, first, end, args.mask);
      fetch_step<Tile>(to + Tile::kStepElements, reads, col0, first, end, args.mask);
    }
    copy_async_commit();
  };
  MlpFragments<Tile> acc;
  clear<Tile>(acc);
  float ones[Tile::kMT][4] = {};
  const bool wants_ones = col0 == 0 && at.warp_col == 0;
  int step = next_live(0), stage = 0;
  fetch(step, 0);
  while (step < n_steps) {
    const int next = next_live(step + 1);
    fetch(next, stage ^ 1);
    copy_async_wait<1>();
    __syncthreads();
    const T* here = stages + stage * 2 * Tile::kStepElements;
    mlp_outer_product<Tile>(acc, ones, wants_ones, here, here + Tile::kStepElements, at);
    __syncthreads();
    step = next, stage ^= 1;
  }
  copy_async_wait<0>();
  float* out = args.dw_parts + (static_cast<int64_t>(layer) * gridDim.x + blockIdx.x) * Tile::kC * Tile::kC;
#pragma unroll
  for (int mt = 0; mt < Tile::kMT; ++mt)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int nt = 0; nt < Tile::kNT; ++nt)
        store_pair(out + (row0 + at.row(mt, half)) * Tile::kC + col0 + at.col(nt), acc[mt][nt][2 * half],
                   acc[mt][nt][2 * half + 1]);
  float* sums = args.bias_parts + (static_cast<int64_t>(blockIdx.x) * n + layer) * Tile::kC + row0;
  if (wants_ones && at.lane % 4 == 0)
#pragma unroll
    for (int mt = 0; mt < Tile::kMT; ++mt)
#pragma unroll
      for (int half = 0; half < 2; ++half) sums[at.row(mt, half)] = ones[mt][2 * half];
}

}  // namespace flare
