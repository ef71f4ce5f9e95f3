#pragma once
/// Device pieces of the attention kernels. One thread owns a few rows of one side (queries, keys, latents or tokens), held in
/// registers; rows of the other side pass by in tiles of kTileRows through shared memory, read as broadcasts. Every sum has one
/// owner and a fixed order, so results repeat bit for bit. Head widths are padded with zeros to DP = 4, 8, 16, 32, 64 or 128.
#include <algorithm>

#include "core/launch.cuh"
#include "ops/kernels/attention.h"

namespace flare {

/// Rows of a tile, and the unit in which the streamed side is cut. Three tiles of width 128 must fit 48 KiB.
inline constexpr int kChunkRows = 32;
template <int DP> inline constexpr int kTileRows = DP <= 64 ? kChunkRows : 16;
inline constexpr int kMaxThreads = 128;
inline constexpr float kLog2e = 1.4426950408889634f, kLn2 = 0.6931471805599453f;

/// Rows on the device, with leave to load four elements at a time.
template <class T> struct DeviceRows {
  Rows<T> rows;
  bool vec = false;
};
template <class T> DeviceRows<T> device_rows(const Rows<T>& r, int64_t D) {
  const bool even = D % 4 == 0 && r.batch % 4 == 0 && r.head % 4 == 0 && r.row % 4 == 0;
  return {r, even && reinterpret_cast<uintptr_t>(r.data) % (4 * sizeof(T)) == 0};
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ float minus_infinity() { return __int_as_float(0xff800000); }

__device__ __forceinline__ float4 load4(const float* p) { return *reinterpret_cast<const float4*>(p); }
__device__ __forceinline__ float4 load4(const bf16* p) {
  const uint2 u = *reinterpret_cast<const uint2*>(p);
  return make_float4(__uint_as_float(u.x << 16), __uint_as_float(u.x & 0xffff0000u), __uint_as_float(u.y << 16),
                     __uint_as_float(u.y & 0xffff0000u));
}
__device__ __forceinline__ void store4(float* p, float4 x) { *reinterpret_cast<float4*>(p) = x; }
__device__ __forceinline__ void store4(bf16* p, float4 x) {
  const uint32_t a = bf16(x.x).bits, b = bf16(x.y).bits, c = bf16(x.z).bits, d = bf16(x.w).bits;
  *reinterpret_cast<uint2*>(p) = make_uint2(a | b << 16, c | d << 16);
}
/// Four elements of a row from column d, zero beyond D.
template <class T> __device__ __forceinline__ float4 load_quad(const T* p, int d, int D, bool vec) {
  if (vec) return d < D ? load4(p + d) : make_float4(0, 0, 0, 0);
  return make_float4(d < D ? static_cast<float>(p[d]) : 0.0f, d + 1 < D ? static_cast<float>(p[d + 1]) : 0.0f,
                     d + 2 < D ? static_cast<float>(p[d + 2]) : 0.0f, d + 3 < D ? static_cast<float>(p[d + 3]) : 0.0f);
}
template <int DP, class T>
__device__ __forceinline__ void load_row(const T* p, int D, bool vec, float factor, bool live, float (&x)[DP]) {
#pragma unroll
  for (int d = 0; d < DP; d += 4) {
    const float4 q = live ? load_quad(p, d, D, vec) : make_float4(0, 0, 0, 0);
    x[d] = factor * q.x, x[d + 1] = factor * q.y, x[d + 2] = factor * q.z, x[d + 3] = factor * q.w;
  }
}
template <int DP, class T> __device__ __forceinline__ void store_row(T* p, int D, bool vec, float factor, const float (&x)[DP]) {
#pragma unroll
  for (int d = 0; d < DP; d += 4) {
    if (vec) {
      if (d < D) store4(p + d, make_float4(factor * x[d], factor * x[d + 1], factor * x[d + 2], factor * x[d + 3]));
    } else {
#pragma unroll
      for (int e = d; e < d + 4; ++e)
        if (e < D) p[e] = static_cast<T>(factor * x[e]);
    }
  }
}
/// tile[r][0..DP) = factor * row first + r; rows from count on and masked ones (mask[first + r] == 0) become 0.
template <int DP, class T>
__device__ __forceinline__ void load_tile(const DeviceRows<T>& src, int64_t b, int64_t h, int64_t first, int count, int D,
                                          float factor, const uint8_t* mask, float* tile) {
  for (int i = static_cast<int>(threadIdx.x); i < kTileRows<DP> * (DP / 4); i += static_cast<int>(blockDim.x)) {
    const int r = i / (DP / 4), d = i % (DP / 4) * 4;
    float4 x = make_float4(0, 0, 0, 0);
    if (r < count && (!mask || mask[first + r])) x = load_quad(src.rows.at(b, h, first + r), d, D, src.vec);
    *reinterpret_cast<float4*>(tile + r * DP + d) = make_float4(factor * x.x, factor * x.y, factor * x.z, factor * x.w);
  }
}
template <int DP> __device__ __forceinline__ float dot(const float (&x)[DP], const float* tile_row, float start) {
  float s = start;
#pragma unroll
  for (int d = 0; d < DP; d += 4) {
    const float4 t = *reinterpret_cast<const float4*>(tile_row + d);
    s = fmaf(x[d], t.x, s), s = fmaf(x[d + 1], t.y, s), s = fmaf(x[d + 2], t.z, s), s = fmaf(x[d + 3], t.w, s);
  }
  return s;
}
template <int DP> __device__ __forceinline__ void add_scaled(float w, const float* tile_row, float (&acc)[DP]) {
#pragma unroll
  for (int d = 0; d < DP; d += 4) {
    const float4 t = *reinterpret_cast<const float4*>(tile_row + d);
    acc[d] = fmaf(w, t.x, acc[d]), acc[d + 1] = fmaf(w, t.y, acc[d + 1]);
    acc[d + 2] = fmaf(w, t.z, acc[d + 2]), acc[d + 3] = fmaf(w, t.w, acc[d + 3]);
  }
}

/// Which (batch, head), tile of owners and chunk of the streamed side a block works on.
struct Work {
  int64_t b, h, bh, tile, chunk;
};
/// How a kernel is cut: blocks of `threads`, each thread owning R rows, and the streamed side in chunks (multiples of a tile).
struct Plan {
  int64_t H = 1, n_tiles = 1, n_chunks = 1, chunk = 0;
  int threads = 32;
  LaunchShape shape(int64_t B) const {
    const int64_t blocks = B * H * n_tiles * n_chunks;
    check(blocks < (int64_t{1} << 31), "attention: ", blocks, " blocks are more than a grid holds");
    return {dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)), 0};
  }
};
__device__ __forceinline__ Work work_of(const Plan& p) {
  const int64_t i = blockIdx.x, chunk = i % p.n_chunks, rest = i / p.n_chunks, tile = rest % p.n_tiles, bh = rest / p.n_tiles;
  return {bh / p.H, bh % p.H, bh, tile, chunk};
}
/// Splits the streamed side until about 32 warps for each of 132 multiprocessors exist. The count is fixed, not asked of the
/// device, so that sums are cut alike everywhere.
inline Plan make_plan(int64_t B, int64_t H, int64_t n_owner, int64_t n_stream, int rows_per_thread, bool may_split) {
  Plan p;
  p.H = H;
  const int64_t wanted_threads = (n_owner + rows_per_thread - 1) / rows_per_thread;
  p.threads = static_cast<int>(std::clamp<int64_t>((wanted_threads + 31) / 32 * 32, 32, kMaxThreads));
  p.n_tiles = (n_owner + int64_t{p.threads} * rows_per_thread - 1) / (int64_t{p.threads} * rows_per_thread);
  p.chunk = std::max<int64_t>(n_stream, 1);
  if (may_split) {
    const int64_t warps = std::max<int64_t>(1, B * H * p.n_tiles * (p.threads / 32));
    const int64_t most = (n_stream + 2 * kChunkRows - 1) / (2 * kChunkRows);
    const int64_t n = std::clamp<int64_t>(132 * 32 / warps, 1, std::max<int64_t>(most, 1));
    p.chunk = ((n_stream + n - 1) / n + kChunkRows - 1) / kChunkRows * kChunkRows;
    p.n_chunks = (n_stream + p.chunk - 1) / p.chunk;
  }
  return p;
}

/// out[g][e] = factor * sum over b' < n_sum and chunks c of part[(b' * groups + g) * n_chunks + c][e], in that order.
/// Grid: a thread per output element; reads n_sum * n_chunks floats, coalesced over e.
template <class T>
__global__ void sum_parts_kernel(const float* part, T* out, int64_t groups, int64_t n_sum, int64_t n_chunks, int64_t size,
                                 float factor) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= groups * size) return;
  const int64_t g = i / size, e = i % size;
  float total = 0;
  for (int64_t b = 0; b < n_sum; ++b) {
    const float* p = part + (b * groups + g) * n_chunks * size + e;
#pragma unroll 8
    for (int64_t c = 0; c < n_chunks; ++c) total += p[c * size];
  }
  out[i] = static_cast<T>(factor * total);
}
/// Sums the parts [B*H][n_chunks][size] into out [B,H,size], or into [H,size] when over_batch.
template <class T>
void sum_parts(const Tensor& part, T* out, int64_t B, int64_t H, int64_t n_chunks, int64_t size, float factor, bool over_batch,
               Stream& stream) {
  const int64_t groups = over_batch ? H : B * H;
  launch("attention sum of parts", sum_parts_kernel<T>, cover(groups * size), stream, part.data<float>(), out, groups,
         over_batch ? B : 1, n_chunks, size, factor);
}

/// delta[b,h,i] = g row . y row. A thread per row.
template <class T>
__global__ void row_dots_kernel(DeviceRows<const T> g, DeviceRows<const T> y, float* delta, int64_t B, int64_t H, int64_t n, int D,
                                const uint8_t* mask) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= B * H * n) return;
  // Neighbouring threads take neighbouring heads: in [B,N,C] memory their rows touch.
  const int64_t h = i % H, row = i / H % n, b = i / H / n;
  float s = 0;
  if (!mask || mask[b * n + row]) {
    const T *pg = g.rows.at(b, h, row), *py = y.rows.at(b, h, row);
    for (int d = 0; d < D; d += 4) {
      const float4 p = load_quad(pg, d, D, g.vec), q = load_quad(py, d, D, y.vec);
      s += p.x * q.x + p.y * q.y + p.z * q.z + p.w * q.w;
    }
  }
  delta[(b * H + h) * n + row] = s;
}

/// Calls f(integral_constant<int, DP>) with the padded width of D.
template <class F> void dispatch_width(const char* who, int64_t D, F&& f) {
  if (D <= 4) return f(std::integral_constant<int, 4>{});
  if (D <= 8) return f(std::integral_constant<int, 8>{});
  if (D <= 16) return f(std::integral_constant<int, 16>{});
  if (D <= 32) return f(std::integral_constant<int, 32>{});
  if (D <= 64) return f(std::integral_constant<int, 64>{});
  check(D <= 128, who, ": head width ", D, " is more than the 128 that the CUDA kernels take");
  f(std::integral_constant<int, 128>{});
}

}  // namespace flare
