#pragma once
/// Gradients of the weights and biases of the fused residual MLP (see residual_mlp_weights.cuh) on the warpgroup units of sm_90a,
/// for 128 bf16 channels. It reads two arrays once, and reading is what it takes: copies run two steps ahead.
#include "ops/kernels/residual_mlp_live.cuh"
#include "ops/kernels/sdpa_tile.cuh"
#include "ops/kernels/wgmma.cuh"

namespace flare {

inline constexpr int kMlpDwThreads = 256, kMlpDwStages = 3;
inline constexpr int kMlpDwPanel = kWgmmaMlpRows * 64;  // 64 rows of 64 channels; a step has two of cotangents and two of inputs
inline constexpr int kMlpDwBytes = kMlpDwStages * 4 * kMlpDwPanel * 2 + kMlpLiveWords * 4;

/// Starts copying 64 rows of 128 channels into two panels, with zeros in place of rows that are not live.
__device__ __forceinline__ void fetch_panels(bf16* to, const bf16* from, int first, int rows, const uint8_t* mask) {
  const int chunk = threadIdx.x % 16;
#pragma unroll
  for (int r = 0; r < kWgmmaMlpRows; r += kMlpDwThreads / 16) {
    const int row = r + threadIdx.x / 16;
    const bool live = is_live(first + row, rows, mask);
    copy_async_16(to + chunk / 8 * kMlpDwPanel + tile_offset<64>(row, chunk % 8),
                  live ? from + int64_t{first + row} * kMlpChannels + chunk * 8 : from, live);
  }
}

/// Grid (chunks, layers). Neighbouring steps with live rows go to different blocks, from the last one back: those rows are the ones
/// that the backward kernel wrote last, and so still in the second-level cache. Warpgroup i makes rows 64 i to 64 i + 63 of
/// dw; the sums of the cotangents are added beside the products, a pair of columns and 16 rows a thread.
__global__ void __launch_bounds__(kMlpDwThreads, 2)
    residual_mlp_weights_wgmma_kernel(const __grid_constant__ ResidualMlpArgs<bf16> args) {
  after_previous();
#if FLARE_HAS_WGMMA
  bf16* stages = reinterpret_cast<bf16*>(dynamic_shared());
  uint32_t* words = reinterpret_cast<uint32_t*>(stages + kMlpDwStages * 4 * kMlpDwPanel);
  const int layer = blockIdx.y, n = args.n_layers, group = threadIdx.x / 128, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int64_t slot = args.slot_rows * kMlpChannels;
  const bf16* cotangents = layer >= args.n_active() ? args.gy : args.cotangents + layer * slot;
  const bf16* reads = layer == 0 ? args.x : args.kept + (layer - 1) * slot;
  const int rows = static_cast<int>(args.rows);
  LiveTiles tiles{nullptr, (rows + kWgmmaMlpRows - 1) / kWgmmaMlpRows};
  if (args.mask && tiles.n_tiles <= 32 * kMlpLiveWords) {
    find_live_tiles<kMlpDwThreads>(words, tiles.n_tiles, rows, args.mask);
    tiles.words = words;
    __syncthreads();
  }
  const int chunks = gridDim.x, last = tiles.count() - 1 - static_cast<int>(blockIdx.x);
  const int n_steps = last < 0 ? 0 : last / chunks + 1;
  const auto fetch = [&](int step) {
    if (step < n_steps) {
      bf16* to = stages + step % kMlpDwStages * (4 * kMlpDwPanel);
      const int first = LiveTiles(tiles).find(last - step * chunks) * kWgmmaMlpRows;
      fetch_panels(to, cotangents, first, rows, args.mask);
      fetch_panels(to + 2 * kMlpDwPanel, reads, first, rows, args.mask);
    }
    copy_async_commit();
  };
  float sums[2][32] = {}, ones[2] = {};
  for (int i = 0; i < kMlpDwStages - 1; ++i) fetch(i);
  for (int step = 0; step < n_steps; ++step) {
    copy_async_wait<kMlpDwStages - 2>();
    fence_for_wgmma();
    __syncthreads();  // this step has come, and everyone is done with the one before
    fetch(step + kMlpDwStages - 1);
    const bf16 *here = stages + step % kMlpDwStages * (4 * kMlpDwPanel), *right = here + 2 * kMlpDwPanel;
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kWgmmaMlpRows / 16; ++k)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        wgmma_64x64_shared<true, true>(sums[half], matrix_descriptor(here + group * kMlpDwPanel + 16 * 64 * k),
                                       matrix_descriptor(right + half * kMlpDwPanel + 16 * 64 * k));
    wgmma_commit();
#pragma unroll
    for (int r = 0; r < 16; ++r) {
      const uint32_t pair = *reinterpret_cast<const uint32_t*>(here + warp % 2 * kMlpDwPanel +
                                                               tile_offset<64>(warp / 2 * 16 + r, lane / 4) + lane % 4 * 2);
      ones[0] += bf16_low(pair), ones[1] += bf16_high(pair);
    }
    wgmma_wait<0>();
  }
  copy_async_wait<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(sums[half][i])::"memory");
  float* dw = args.dw_parts + (static_cast<int64_t>(layer) * gridDim.x + blockIdx.x) * kMlpChannels * kMlpChannels;
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int block = 0; block < 8; ++block)
#pragma unroll
      for (int r = 0; r < 2; ++r)
        store_pair(dw + (warp * 16 + lane / 4 + 8 * r) * kMlpChannels + half * 64 + block * 8 + lane % 4 * 2,
                   sums[half][4 * block + 2 * r], sums[half][4 * block + 2 * r + 1]);
  __syncthreads();
  float* quarters = reinterpret_cast<float*>(stages);  // [4][128]: of 16 rows of each step
  store_pair(quarters + warp / 2 * kMlpChannels + warp % 2 * 64 + lane * 2, ones[0], ones[1]);
  __syncthreads();
  const int c = threadIdx.x;
  if (c < kMlpChannels)
    args.bias_parts[(static_cast<int64_t>(blockIdx.x) * n + layer) * kMlpChannels + c] =
        (quarters[c] + quarters[kMlpChannels + c]) + (quarters[2 * kMlpChannels + c] + quarters[3 * kMlpChannels + c]);
#endif
}

}  // namespace flare
