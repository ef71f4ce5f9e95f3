#pragma once
/// Device code of linear: the bias added in place, and the column sum that is its gradient.
#include <cstdint>

#include "core/dtype.h"

namespace flare {

/// kWidth neighbouring elements moved as one access of up to 16 bytes.
template <class T, int kWidth> struct alignas(sizeof(T) * kWidth) LinearPack { T v[kWidth]; };

/// y[i] += bias[i % channels] + residual[i]; either may be null. One thread owns one pack of y: reads and writes it once, bias
/// comes from L1. Index is uint32_t where the packs fit, since a 64-bit remainder would cost more than the memory access.
template <class T, int kWidth, class Index>
__global__ void bias_add_kernel(T* y, const float* bias, const T* residual, Index n_packs, Index packs_per_row) {
  after_previous();
  const Index i = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n_packs) return;
  auto* packs = reinterpret_cast<LinearPack<T, kWidth>*>(y);
  LinearPack<T, kWidth> p = packs[i];
  LinearPack<T, kWidth> r;
  if (residual) r = reinterpret_cast<const LinearPack<T, kWidth>*>(residual)[i];
  const float* b = bias ? bias + static_cast<int64_t>(i % packs_per_row) * kWidth : nullptr;
#pragma unroll
  for (int j = 0; j < kWidth; ++j)
    p.v[j] = T(static_cast<float>(p.v[j]) + (b ? b[j] : 0.0f) + (residual ? static_cast<float>(r.v[j]) : 0.0f));
  packs[i] = p;
}

/// out[blockIdx.y][c] = sum of x[r][c] over the rows r of row block blockIdx.y. Block (lanes, 256/lanes): lane x owns one pack
/// of columns, row group y every blockDim.y-th row; the groups are added in order, so the result never varies.
/// Shared memory: 256*kWidth floats.
template <class T, int kWidth>
__global__ void column_sum_kernel(const T* x, float* out, int64_t rows, int64_t channels, int64_t rows_per_block) {
  after_previous();
  extern __shared__ float group_sums[];
  const int64_t pack = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, packs_per_row = channels / kWidth;
  const int64_t begin = static_cast<int64_t>(blockIdx.y) * rows_per_block;
  const int64_t end = begin + rows_per_block < rows ? begin + rows_per_block : rows;
  float sum[kWidth];
#pragma unroll
  for (int j = 0; j < kWidth; ++j) sum[j] = 0;
  if (pack < packs_per_row) {
    const auto* packs = reinterpret_cast<const LinearPack<T, kWidth>*>(x);
#pragma unroll 4
    for (int64_t r = begin + threadIdx.y; r < end; r += blockDim.y) {
      const LinearPack<T, kWidth> p = packs[r * packs_per_row + pack];
#pragma unroll
      for (int j = 0; j < kWidth; ++j) sum[j] += static_cast<float>(p.v[j]);
    }
  }
  float* mine = group_sums + (threadIdx.y * blockDim.x + threadIdx.x) * kWidth;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) mine[j] = sum[j];
  __syncthreads();
  // Thread t adds column t of the block over the groups.
  const int columns = static_cast<int>(blockDim.x) * kWidth;
  for (int c = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x); c < columns;
       c += static_cast<int>(blockDim.x * blockDim.y)) {
    const int64_t column = static_cast<int64_t>(blockIdx.x) * columns + c;
    if (column >= channels) continue;
    float total = 0;
    for (unsigned g = 0; g < blockDim.y; ++g) total += group_sums[g * static_cast<unsigned>(columns) + static_cast<unsigned>(c)];
    out[static_cast<int64_t>(blockIdx.y) * channels + column] = total;
  }
}

}  // namespace flare
