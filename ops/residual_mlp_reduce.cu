/// The last launch of the fused residual MLP's backward pass: sums over the runs of rows that the weight gradients were made of.
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#include "ops/kernels/residual_mlp.h"

namespace flare {

/// Blocks below dw_blocks add chunks of weight gradients, four neighbours a thread, 8 groups of chunks side by side, then the
/// groups; the others those of biases for 8 columns, 32 groups side by side. Fixed order. Block of 256.
__global__ void residual_mlp_reduce_kernel(const float4* dw_parts, const float* bias_parts, float4* dw, float* db,
                                           int64_t per_layer, int64_t n_packs, int64_t n_chunks, int64_t n_columns,
                                           int64_t dw_blocks) {
  after_previous();
  __shared__ float4 packs[8][32];
  __shared__ float groups[32][8];
  if (blockIdx.x < dw_blocks) {
    const int lane = threadIdx.x % 32, group = threadIdx.x / 32;
    const int64_t i = static_cast<int64_t>(blockIdx.x) * 32 + lane;
    float4 sum{0, 0, 0, 0};
    if (i < n_packs) {
      const auto layer = static_cast<uint32_t>(i) / static_cast<uint32_t>(per_layer);  // 64-bit division takes ten times as long
      const float4* p = dw_parts + layer * (n_chunks - 1) * per_layer + i;
#pragma unroll 8
      for (int64_t s = group; s < n_chunks; s += 8) {
        const float4 v = p[s * per_layer];
        sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
      }
    }
    packs[group][lane] = sum;
    __syncthreads();
    if (group != 0 || i >= n_packs) return;
#pragma unroll
    for (int g = 1; g < 8; ++g) {
      const float4 v = packs[g][lane];
      sum.x += v.x, sum.y += v.y, sum.z += v.z, sum.w += v.w;
    }
    dw[i] = sum;
    return;
  }
  const int column = threadIdx.x % 8, group = threadIdx.x / 8;
  const int64_t c = (blockIdx.x - dw_blocks) * 8 + column;
  float sum = 0;
#pragma unroll 4
  for (int64_t s = group; s < n_chunks; s += 32) sum += bias_parts[s * n_columns + c];
  groups[group][column] = sum;
  __syncthreads();
  if (group != 0) return;
  for (int g = 1; g < 32; ++g) sum += groups[g][column];
  db[c] = sum;
}
void residual_mlp_reduce_cuda(const float* dw_parts, const float* bias_parts, float* dw, float* db, int n_layers, int64_t channels,
                              int64_t n_chunks, const Stream& stream) {
  const int64_t per_layer = channels * channels / 4, n_packs = n_layers * per_layer, n_columns = n_layers * channels;
  const int64_t dw_blocks = (n_packs + 31) / 32;
  launch_early("residual_mlp reduce", residual_mlp_reduce_kernel,
               LaunchShape{dim3(static_cast<unsigned>(dw_blocks + n_columns / 8)), dim3(256), 0}, stream,
               reinterpret_cast<const float4*>(dw_parts), bias_parts, reinterpret_cast<float4*>(dw), db, per_layer, n_packs,
               n_chunks, n_columns, dw_blocks);
}

}  // namespace flare
#endif
