#pragma once
/// Gradients of the weights and biases of the fused residual MLP (see residual_mlp_weights.cuh) in f32 on the warpgroup units of
/// sm_90a. Rows come as f32 numbers into registers and go split into two fp16 numbers (see residual_mlp_halves_rows.cuh) into
/// shared memory, for 64 rows with one scale each of the cotangents and of the inputs; the products of 64 rows are then added in
/// f32.
#include "ops/kernels/residual_mlp_halves_rows.cuh"

namespace flare {

/// A block of C/64 warpgroups; each makes 64 rows of dw.
template <int C> struct HalvesDw {
  static constexpr int kThreads = 2 * C, kWarps = kThreads / 32, kBlocks = C == 64 ? 3 : 1;
  static constexpr int kRowStep = kThreads / (C / 4), kLoads = kHalvesRows / kRowStep;  // of a thread, of four channels
  static constexpr int kPanel = kHalvesRows * 64, kArray = 2 * C / 64 * kPanel;  // fp16 numbers: a panel, both parts of an array
  static constexpr int kBuffer = 2 * kArray;                                     // cotangents, inputs
  static constexpr int kSharedBytes = 2 * kBuffer * 2 + 2 * 2 * kWarps * 4;
};
/// What a thread has of 64 rows of one array: rows first + kRowStep i, four channels.
template <int C> struct HalvesPiece {
  float4 v[HalvesDw<C>::kLoads];
  __device__ __forceinline__ void load(const float* from, int tile, int rows, const uint8_t* mask) {
    const int row = tile * kHalvesRows + threadIdx.x / (C / 4);
    const float* mine = from + int64_t{tile} * (kHalvesRows * C) + threadIdx.x * 4;
#pragma unroll
    for (int i = 0; i < HalvesDw<C>::kLoads; ++i) {
      const int r = i * HalvesDw<C>::kRowStep;
      v[i] = is_live(row + r, rows, mask) ? *reinterpret_cast<const float4*>(mine + r * C) : float4{0, 0, 0, 0};
    }
  }
  /// The bits of the largest, which order as the numbers do.
  __device__ __forceinline__ uint32_t largest() const {
    float most = 0;
#pragma unroll
    for (int i = 0; i < HalvesDw<C>::kLoads; ++i)
      most = fmaxf(fmaxf(most, fmaxf(fabsf(v[i].x), fabsf(v[i].y))), fmaxf(fabsf(v[i].z), fabsf(v[i].w)));
    return __reduce_max_sync(0xffffffffu, __float_as_uint(most));
  }
  __device__ __forceinline__ void store(__half* to, float scale) const {
    const int c = threadIdx.x % (C / 4) * 4, row = threadIdx.x / (C / 4);
    __half* panel = to + c / 64 * HalvesDw<C>::kPanel + c % 8;
#pragma unroll
    for (int i = 0; i < HalvesDw<C>::kLoads; ++i) {
      uint2 hi, lo;
      split_halves(v[i].x * scale, v[i].y * scale, hi.x, lo.x);
      split_halves(v[i].z * scale, v[i].w * scale, hi.y, lo.y);
      __half* at = panel + tile_offset<64>(row + i * HalvesDw<C>::kRowStep, c % 64 / 8);
      *reinterpret_cast<uint2*>(at) = hi;
      *reinterpret_cast<uint2*>(at + HalvesDw<C>::kArray / 2) = lo;
    }
  }
};

/// Grid (chunks, layers). Neighbouring 64 rows go to different blocks, from the last back: those are the ones that the backward
/// kernel wrote last, and so still in the second-level cache. While the matrix units work on 64 rows, the next are split, and those
/// after them are on their way.
template <int C>
__global__ void __launch_bounds__(HalvesDw<C>::kThreads, HalvesDw<C>::kBlocks)
    residual_mlp_weights_halves_kernel(const __grid_constant__ ResidualMlpArgs<float> args) {
  after_previous();
#if FLARE_HAS_WGMMA
  using Dw = HalvesDw<C>;
  constexpr int kHalf = C / 64, kUnit = 16;  // of a descriptor's address
  __half* buffers = reinterpret_cast<__half*>(dynamic_shared());
  uint32_t* largest = reinterpret_cast<uint32_t*>(buffers + 2 * Dw::kBuffer);  // [2 buffers][2 arrays][warps]
  const int layer = blockIdx.y, n = args.n_layers, warp = threadIdx.x / 32, lane = threadIdx.x % 32, group = threadIdx.x / 128;
  const int64_t slot = args.slot_rows * C;
  const int rows = static_cast<int>(args.rows), chunks = gridDim.x;
  const float* cotangents = layer >= args.n_active() ? args.gy : args.cotangents + layer * slot;
  const float* reads = layer == 0 ? args.x : args.kept + (layer - 1) * slot;
  // Every warp finds the next 64 rows that are not all padding, from tile on in steps of `chunks` down.
  const auto next_live = [&](int tile) {
    while (args.mask && tile >= 0 &&
           !__any_sync(0xffffffffu, is_live(tile * kHalvesRows + lane, rows, args.mask) ||
                                        is_live(tile * kHalvesRows + 32 + lane, rows, args.mask)))
      tile -= chunks;
    return tile;
  };
  const auto load = [&](HalvesPiece<C>& g, HalvesPiece<C>& x, int tile) {
    if (tile < 0) return;
    g.load(cotangents, tile, rows, args.mask);
    x.load(reads, tile, rows, args.mask);
  };
  HalvesPiece<C> g, x;
  float sums[kHalf][32] = {}, parts[kHalf][32], back = 0;
  float4 bias = {0, 0, 0, 0};
  const auto collect = [&] {
    wgmma_wait<0>();
#pragma unroll
    for (int half = 0; half < kHalf; ++half) {
      settle_sums(parts[half]);
#pragma unroll
      for (int i = 0; i < 32; ++i) sums[half][i] = fmaf(parts[half][i], back, sums[half][i]);
    }
  };
  int step = 0, tile = next_live((rows + kHalvesRows - 1) / kHalvesRows - 1 - static_cast<int>(blockIdx.x));
  load(g, x, tile);
  for (; tile >= 0; ++step) {
    __half *buffer = buffers + step % 2 * Dw::kBuffer, *right = buffer + Dw::kArray;
    uint32_t* mine = largest + step % 2 * (2 * Dw::kWarps);
    const uint32_t of_g = g.largest(), of_x = x.largest();
    if (lane == 0) mine[warp] = of_g, mine[Dw::kWarps + warp] = of_x;
    __syncthreads();
    uint32_t most_g = 0, most_x = 0;
#pragma unroll
    for (int i = 0; i < Dw::kWarps; ++i) most_g = max(most_g, mine[i]), most_x = max(most_x, mine[Dw::kWarps + i]);
    const HalfScale scale_g = scale_for(__uint_as_float(most_g), kMostRowScale);
    const HalfScale scale_x = scale_for(__uint_as_float(most_x), kMostRowScale);
    g.store(buffer, scale_g.by);
    x.store(right, scale_x.by);
#pragma unroll
    for (int i = 0; i < Dw::kLoads; ++i) bias.x += g.v[i].x, bias.y += g.v[i].y, bias.z += g.v[i].z, bias.w += g.v[i].w;
    tile = next_live(tile - chunks);
    load(g, x, tile);
    fence_for_wgmma();
    if (step > 0) collect();  // after it nothing reads the other buffer
    __syncthreads();
    back = scale_g.back * scale_x.back;
    const uint64_t left_tile = matrix_descriptor(buffer + group * Dw::kPanel), right_tile = matrix_descriptor(right);
    constexpr uint32_t kLow = Dw::kArray / 2 * 2 / kUnit, kPanelUnits = Dw::kPanel * 2 / kUnit, kRows16 = 16 * 64 * 2 / kUnit;
    wgmma_fence();
#pragma unroll
    for (int half = 0; half < kHalf; ++half) {
      const uint64_t b = right_tile + half * kPanelUnits;
      wgmma_64x64_shared<false, true, true>(parts[half], left_tile + kLow, b);
#pragma unroll
      for (int k = 1; k < 4; ++k)
        wgmma_64x64_shared<true, true, true>(parts[half], left_tile + kLow + k * kRows16, b + k * kRows16);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        wgmma_64x64_shared<true, true, true>(parts[half], left_tile + k * kRows16, b + kLow + k * kRows16);
#pragma unroll
      for (int k = 0; k < 4; ++k) wgmma_64x64_shared<true, true, true>(parts[half], left_tile + k * kRows16, b + k * kRows16);
    }
    wgmma_commit();
  }
  if (step > 0) collect();
  float* dw = args.dw_parts + (static_cast<int64_t>(layer) * gridDim.x + blockIdx.x) * C * C;
#pragma unroll
  for (int half = 0; half < kHalf; ++half)
#pragma unroll
    for (int block = 0; block < 8; ++block)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        store_pair(dw + (warp * 16 + lane / 4 + 8 * r) * C + half * 64 + block * 8 + lane % 4 * 2, sums[half][4 * block + 2 * r],
                   sums[half][4 * block + 2 * r + 1]);
  __syncthreads();
  float* by_row = reinterpret_cast<float*>(buffers);  // [kRowStep][C]
  *reinterpret_cast<float4*>(by_row + threadIdx.x * 4) = bias;
  __syncthreads();
  if (threadIdx.x < C) {
    float sum = 0;
    for (int i = 0; i < Dw::kRowStep; ++i) sum += by_row[i * C + threadIdx.x];
    args.bias_parts[(static_cast<int64_t>(blockIdx.x) * n + layer) * C + threadIdx.x] = sum;
  }
#endif
}

}  // namespace flare
