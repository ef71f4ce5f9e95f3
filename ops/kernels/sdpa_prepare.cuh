#pragma once
/// The small kernels around the attention passes on the matrix units: operands into aligned bf16 parts, and statistics of the rows.
#include "ops/kernels/attention.h"
#include "ops/kernels/sdpa_tile.cuh"

namespace flare {

/// Up to four tensors of rows to be written as packed parts [part][B or 1][H][n][W].
template <class T> struct SdpaSplitArgs {
  Rows<const T> from[4];
  bf16* to[4];
  int64_t n[4], B[4], part[4];  // rows per (b,h); batches; elements between parts
  int64_t H;
  int D, W;  // W: D rounded up to a multiple of 8
};

/// Grid: (rows * W/8 threads, tensor). A thread writes 8 elements of a row in kParts pieces of 16 bytes.
template <class T> __global__ void sdpa_split_kernel(SdpaSplitArgs<T> a) {
  constexpr int kParts = kOperandParts<T>;
  const int s = static_cast<int>(blockIdx.y), chunks = a.W / 8;
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, row = i / chunks;
  if (row >= a.B[s] * a.H * a.n[s]) return;
  const int d0 = static_cast<int>(i % chunks) * 8;
  const T* p = a.from[s].at(row / a.n[s] / a.H, row / a.n[s] % a.H, row % a.n[s]) + d0;
  float x[8];
#pragma unroll
  for (int e = 0; e < 8; ++e) x[e] = d0 + e < a.D ? static_cast<float>(p[e]) : 0.0f;
#pragma unroll
  for (int part = 0; part < kParts; ++part) {
    uint32_t w[4];
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      w[e] = pack_bf16(x[2 * e], x[2 * e + 1]);
      x[2 * e] -= bf16_low(w[e]), x[2 * e + 1] -= bf16_high(w[e]);
    }
    *reinterpret_cast<uint4*>(a.to[s] + part * a.part[s] + row * a.W + d0) = make_uint4(w[0], w[1], w[2], w[3]);
  }
}

/// Four neighbours, of which `room` exist; with `vec` all do, in one load.
__device__ __forceinline__ float4 load_four(const float* p, int room, bool vec) {
  if (vec) return *reinterpret_cast<const float4*>(p);
  return make_float4(p[0], room > 1 ? p[1] : 0.0f, room > 2 ? p[2] : 0.0f, room > 3 ? p[3] : 0.0f);
}
__device__ __forceinline__ float4 load_four(const bf16* p, int room, bool vec) {
  if (vec) {
    const uint2 u = *reinterpret_cast<const uint2*>(p);
    return make_float4(bf16_low(u.x), bf16_high(u.x), bf16_low(u.y), bf16_high(u.y));
  }
  return make_float4(p[0], room > 1 ? static_cast<float>(p[1]) : 0.0f, room > 2 ? static_cast<float>(p[2]) : 0.0f,
                     room > 3 ? static_cast<float>(p[3]) : 0.0f);
}

/// The statistics of each query (kRowStats), 0 for rows n_query to n_padded; and clears the first n_zero words of `zero`. `rest` is
/// what the forward left, or null; `vec`: rows of g and out allow loads of four. 4 threads a row.
template <class T>
__global__ void sdpa_row_stats_kernel(Rows<const T> grad, Rows<const T> out, const float* lse, const rest_t<T>* rest, float* stats,
                                      int* zero, int64_t n_zero, int64_t n_rows, int64_t H, int64_t n_query, int64_t n_padded,
                                      int D, bool vec) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  for (int64_t z = i; z < n_zero; z += static_cast<int64_t>(gridDim.x) * blockDim.x) zero[z] = 0;
  const int64_t row = i / 4, lane = i % 4;
  // Neighbouring rows take neighbouring heads: in [B,N,C] memory they touch.
  const int64_t h = row % H, q = row / H % n_padded, b = row / H / n_padded;
  float s = 0;
  if (row < n_rows && q < n_query) {
    const T *pg = grad.at(b, h, q), *py = out.at(b, h, q);
    const T* pr = sizeof(T) == 2 && rest ? rest + ((b * H + h) * n_query + q) * D : nullptr;
    for (int d = static_cast<int>(lane) * 4; d < D; d += 16) {
      const float4 g = load_four(pg + d, D - d, vec), r = pr ? load_four(pr + d, D - d, vec) : make_float4(0, 0, 0, 0);
      const float4 y = load_four(py + d, D - d, vec);
      s += g.x * (y.x + r.x) + g.y * (y.y + r.y) + g.z * (y.z + r.z) + g.w * (y.w + r.w);
    }
  }
  s += __shfl_xor_sync(0xffffffffu, s, 1);
  s += __shfl_xor_sync(0xffffffffu, s, 2);
  if (row >= n_rows || lane != 0) return;
  const int64_t from = (b * H + h) * n_query + q, to = (b * H + h) * n_padded + q;
  const bool live = q < n_query;
  const float log_sum = live ? 1.4426950408889634f * lse[from] : 0.0f;
  if constexpr (sizeof(T) == 2) {
    reinterpret_cast<float2*>(stats)[to] = make_float2(log_sum, s);
  } else {
    const bool precise = live && rest;
    reinterpret_cast<float4*>(stats)[to] =
        make_float4(precise ? rest[2 * from] : log_sum, s, precise ? rest[2 * from + 1] : 1.0f, 0);
  }
}

}  // namespace flare
