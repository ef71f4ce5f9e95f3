#pragma once
/// Layer norm (kCentered) and RMS norm over rows of `c` elements, one warp a row. Rows whose length is a multiple of 4 and at
/// most 1024 stay in registers: lane l holds elements 4l, 4l+1, .. of each chunk of 128, read as one 8- or 16-byte load, and x
/// is read once. Other rows are read again for each pass.
#include <algorithm>
#include <cstdint>

#include "core/beside.h"
#include "ops/kernels/reduce.cuh"

namespace flare {

inline constexpr int kNormWarps = 8;         // rows in flight in a block
inline constexpr int64_t kNormBlocks = 528;  // blocks of the backward pass: fixed, so that the bits do not depend on the chip

/// Chunk j of a row in registers: valid unless beyond the row.
template <class T> __device__ __forceinline__ void load_chunk(const T* row, int c, int j, float (&v)[4]) {
  const int i = (j * kWarp + static_cast<int>(threadIdx.x % kWarp)) * 4;
  if (i < c)
    load_vec<4>(row + i, v);
  else
    v[0] = v[1] = v[2] = v[3] = 0;
}

/// Grid: rows / 8 blocks of 8 warps.
template <bool kCentered, int kChunks, class T>
__global__ void norm_kernel(const T* x, const float* weight, const float* bias, T* y, float* mean, float* rstd, int64_t rows, int c,
                            float eps) {
  after_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kNormWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int lane = threadIdx.x % kWarp;
  float v[kChunks][4];
  float total = 0, squares = 0, mu = 0;
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    load_chunk(x + row * c, c, j, v[j]);
    for (int k = 0; k < 4; ++k) total += v[j][k];
  }
  if (kCentered) mu = warp_sum(total) / c;
#pragma unroll
  for (int j = 0; j < kChunks; ++j)
    if ((j * kWarp + lane) * 4 < c)
      for (int k = 0; k < 4; ++k) {
        v[j][k] -= mu;
        squares += v[j][k] * v[j][k];
      }
  const float r = 1 / sqrtf(warp_sum(squares) / c + eps);
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    const int i = (j * kWarp + lane) * 4;
    if (i >= c) continue;
    for (int k = 0; k < 4; ++k) v[j][k] = v[j][k] * r * weight[i + k] + (kCentered ? bias[i + k] : 0.0f);
    store_vec<4>(y + row * c + i, v[j]);
  }
  if (lane == 0) {
    if (kCentered) mean[row] = mu;
    rstd[row] = r;
  }
}

template <bool kCentered, class T>
__global__ void norm_any_kernel(const T* x, const float* weight, const float* bias, T* y, float* mean, float* rstd, int64_t rows,
                                int c, float eps) {
  after_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kNormWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int lane = threadIdx.x % kWarp;
  const T* in = x + row * c;
  float total = 0, squares = 0, mu = 0;
  if (kCentered) {
    for (int i = lane; i < c; i += kWarp) total += static_cast<float>(in[i]);
    mu = warp_sum(total) / c;
  }
  for (int i = lane; i < c; i += kWarp) {
    const float d = static_cast<float>(in[i]) - mu;
    squares += d * d;
  }
  const float r = 1 / sqrtf(warp_sum(squares) / c + eps);
  for (int i = lane; i < c; i += kWarp)
    y[row * c + i] = static_cast<T>((static_cast<float>(in[i]) - mu) * r * weight[i] + (kCentered ? bias[i] : 0.0f));
  if (lane == 0) {
    if (kCentered) mean[row] = mu;
    rstd[row] = r;
  }
}

/// gx = rstd·(g - mean g - x̂·mean(g⊙x̂)) (+ addend unless null) with g = gy⊙weight (no `mean g` unless centred), and this block's
/// share of Σ gy⊙x̂ and Σ gy in parts [2, blocks, c]. Each warp walks over rows with its columns' sums in registers; the block then
/// adds its warps' in order. Reads x and gy once, writes gx once. Dynamic shared memory: kNormWarps·2c floats.
template <bool kCentered, int kChunks, class T>
__global__ void norm_backward_kernel(const T* x, const float* weight, const float* mean, const float* rstd, const T* gy,
                                     const T* addend, T* gx, float* parts, int64_t rows, int c) {
  after_previous();
  extern __shared__ float of_block[];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  float gw[kChunks][4] = {}, gb[kChunks][4] = {};
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * kNormWarps + warp; row < rows;
       row += static_cast<int64_t>(gridDim.x) * kNormWarps) {
    float xh[kChunks][4], g[kChunks][4];
    const float mu = kCentered ? mean[row] : 0.0f, r = rstd[row];
    float sum_g = 0, sum_gx = 0;
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      load_chunk(x + row * c, c, j, xh[j]);
      load_chunk(gy + row * c, c, j, g[j]);
      const int i = (j * kWarp + lane) * 4;
      if (i >= c) continue;
      for (int k = 0; k < 4; ++k) {
        xh[j][k] = (xh[j][k] - mu) * r;
        gw[j][k] += g[j][k] * xh[j][k];
        if (kCentered) gb[j][k] += g[j][k];
        g[j][k] *= weight[i + k];
        sum_g += g[j][k];
        sum_gx += g[j][k] * xh[j][k];
      }
    }
    const float mean_g = kCentered ? warp_sum(sum_g) / c : 0.0f, mean_gx = warp_sum(sum_gx) / c;
#pragma unroll
    for (int j = 0; j < kChunks; ++j) {
      const int i = (j * kWarp + lane) * 4;
      if (i >= c) continue;
      for (int k = 0; k < 4; ++k) g[j][k] = r * (g[j][k] - mean_g - xh[j][k] * mean_gx);
      if (addend) {
        load_chunk(addend + row * c, c, j, xh[j]);
        for (int k = 0; k < 4; ++k) g[j][k] += xh[j][k];
      }
      store_vec<4>(gx + row * c + i, g[j]);
    }
  }
  float* own = of_block + warp * 2 * c;
#pragma unroll
  for (int j = 0; j < kChunks; ++j) {
    const int i = (j * kWarp + lane) * 4;
    if (i >= c) continue;
    for (int k = 0; k < 4; ++k) own[i + k] = gw[j][k], own[c + i + k] = gb[j][k];
  }
  __syncthreads();
  const int64_t n_parts = gridDim.x;
  for (int i = threadIdx.x; i < (kCentered ? 2 * c : c); i += kNormWarps * kWarp) {
    float sum = of_block[i];
    for (int w = 1; w < kNormWarps; ++w) sum += of_block[w * 2 * c + i];
    parts[(i < c ? 0 : n_parts - 1) * c + static_cast<int64_t>(blockIdx.x) * c + i] = sum;
  }
}

template <bool kCentered, class T>
__global__ void norm_any_backward_kernel(const T* x, const float* weight, const float* mean, const float* rstd, const T* gy,
                                         const T* addend, T* gx, int64_t rows, int c) {
  after_previous();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kNormWarps + threadIdx.x / kWarp;
  if (row >= rows) return;
  const int lane = threadIdx.x % kWarp;
  const float mu = kCentered ? mean[row] : 0.0f, r = rstd[row];
  const auto xh = [&](int i) { return (static_cast<float>(x[row * c + i]) - mu) * r; };
  const auto g = [&](int i) { return static_cast<float>(gy[row * c + i]) * weight[i]; };
  float sum_g = 0, sum_gx = 0;
  for (int i = lane; i < c; i += kWarp) {
    sum_g += g(i);
    sum_gx += g(i) * xh(i);
  }
  const float mean_g = kCentered ? warp_sum(sum_g) / c : 0.0f, mean_gx = warp_sum(sum_gx) / c;
  for (int i = lane; i < c; i += kWarp)
    gx[row * c + i] =
        static_cast<T>(r * (g(i) - mean_g - xh(i) * mean_gx) + (addend ? static_cast<float>(addend[row * c + i]) : 0.0f));
}

/// parts [2, n_parts, c] of Σ gy⊙x̂ and Σ gy. Grid: one block a (part of the rows, tile of 32 columns); block 32 x 8.
template <bool kCentered, class T>
__global__ void norm_any_params_kernel(const T* x, const float* mean, const float* rstd, const T* gy, float* parts, int64_t rows,
                                       int c, int64_t n_parts, int64_t part, int64_t n_tiles) {
  after_previous();
  __shared__ float gw_of[kNormWarps][kWarp], gb_of[kNormWarps][kWarp];
  const int64_t p = blockIdx.x / n_tiles, i = blockIdx.x % n_tiles * kWarp + threadIdx.x;
  const int64_t end = (p + 1) * part < rows ? (p + 1) * part : rows;
  float gw = 0, gb = 0;
  if (i < c)
    for (int64_t row = p * part + threadIdx.y; row < end; row += kNormWarps) {
      const float g = static_cast<float>(gy[row * c + i]);
      gw += g * (static_cast<float>(x[row * c + i]) - (kCentered ? mean[row] : 0.0f)) * rstd[row];
      gb += g;
    }
  gw_of[threadIdx.y][threadIdx.x] = gw;
  gb_of[threadIdx.y][threadIdx.x] = gb;
  __syncthreads();
  if (threadIdx.y != 0 || i >= c) return;
  for (int w = 1; w < kNormWarps; ++w) {
    gw += gw_of[w][threadIdx.x];
    gb += gb_of[w][threadIdx.x];
  }
  parts[p * c + i] = gw;
  if (kCentered) parts[(n_parts + p) * c + i] = gb;
}

/// The last step of both: gw[i] = sum over p of parts[0][p][i], and gb, unless null, likewise of parts[1]. A block takes 8 columns;
/// 32 groups of threads add every 32nd part, then the groups add up in order.
inline constexpr int kNormSumColumns = 8, kNormSumGroups = 32;
static __global__ void norm_params_sum_kernel(const float* parts, float* gw, float* gb, int64_t n_parts, int64_t c) {
  after_previous();
  __shared__ float of_group[kNormSumGroups][kNormSumColumns];
  const int column = threadIdx.x % kNormSumColumns, group = threadIdx.x / kNormSumColumns;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kNormSumColumns + column, n = gb ? 2 * c : c;
  float sum = 0;
  if (i < n) {
    const float* from = parts + (i < c ? 0 : n_parts - 1) * c + i;
#pragma unroll 4
    for (int64_t p = group; p < n_parts; p += kNormSumGroups) sum += from[p * c];
  }
  of_group[group][column] = sum;
  __syncthreads();
  if (group > 0 || i >= n) return;
  for (int g = 1; g < kNormSumGroups; ++g) sum += of_group[g][column];
  (i < c ? gw : gb - c)[i] = sum;
}

/// Calls f with the number of 128-wide chunks as a constant, or 0 for rows that do not fit the register kernels.
template <class F> void with_chunks(int64_t c, bool aligned, F&& f) {
  if (!aligned || c % 4 != 0 || c > 1024)
    f(std::integral_constant<int, 0>{});
  else if (c <= 128)
    f(std::integral_constant<int, 1>{});
  else if (c <= 256)
    f(std::integral_constant<int, 2>{});
  else if (c <= 512)
    f(std::integral_constant<int, 4>{});
  else
    f(std::integral_constant<int, 8>{});
}

template <bool kCentered, class T>
void norm_cuda(const char* name, const T* x, const float* weight, const float* bias, T* y, float* mean, float* rstd, int64_t rows,
               int64_t c, double eps, Stream& stream) {
  const LaunchShape shape = cover(rows * kWarp, kNormWarps * kWarp);
  with_chunks(c, fits_vec(x, c, sizeof(T), 4) && fits_vec(y, c, sizeof(T), 4), [&](auto chunks) {
    constexpr int kChunks = decltype(chunks)::value;
    const auto kernel = [] {
      if constexpr (kChunks == 0)
        return norm_any_kernel<kCentered, T>;
      else
        return norm_kernel<kCentered, kChunks, T>;
    }();
    launch_early(name, kernel, shape, stream, x, weight, bias, y, mean, rstd, rows, static_cast<int>(c), static_cast<float>(eps));
  });
}

template <bool kCentered, class T>
void norm_backward_cuda(const char* name, const T* x, const float* weight, const float* mean, const float* rstd, const T* gy,
                        const T* addend, T* gx, const Tensor& gw, const Tensor& gb, int64_t rows, int64_t c, Stream& stream) {
  const bool aligned = fits_vec(x, c, sizeof(T), 4) && fits_vec(gy, c, sizeof(T), 4) && fits_vec(gx, c, sizeof(T), 4) &&
                       (!addend || fits_vec(addend, c, sizeof(T), 4));
  const int width = static_cast<int>(c);
  with_chunks(c, aligned, [&](auto chunks) {
    constexpr int kChunks = decltype(chunks)::value;
    int64_t n_parts = std::max<int64_t>(1, std::min(kNormBlocks, (rows + kNormWarps - 1) / kNormWarps));
    const Tensor parts = Tensor::empty({2, n_parts, c}, DType::f32, Device::cuda);
    float* to = parts.data<float>();
    if constexpr (kChunks == 0) {
      launch_early(name, norm_any_backward_kernel<kCentered, T>, cover(rows * kWarp, kNormWarps * kWarp), stream, x, weight, mean,
                   rstd, gy, addend, gx, rows, width);
      const int64_t tiles = (c + kWarp - 1) / kWarp;
      launch_early(name, norm_any_params_kernel<kCentered, T>,
                   {dim3(static_cast<unsigned>(n_parts * tiles)), dim3(kWarp, kNormWarps)}, stream, x, mean, rstd, gy, to, rows,
                   width, n_parts, (rows + n_parts - 1) / n_parts, tiles);
    } else {
      const LaunchShape shape{dim3(static_cast<unsigned>(n_parts)), dim3(kNormWarps * kWarp),
                              kNormWarps * 2 * c * static_cast<int64_t>(sizeof(float))};
      launch_early(name, norm_backward_kernel<kCentered, kChunks, T>, shape, stream, x, weight, mean, rstd, gy, addend, gx, to,
                   rows, width);
    }
    const Beside beside({parts, gw, gb});
    beside.made(gw);
    if (kCentered) beside.made(gb);
    launch_early(name, norm_params_sum_kernel, cover((kCentered ? 2 : 1) * c * kNormSumGroups, kNormSumColumns * kNormSumGroups),
                 compute_stream(Device::cuda), to, gw.data<float>(), kCentered ? gb.data<float>() : nullptr, n_parts, c);
  });
}

}  // namespace flare
