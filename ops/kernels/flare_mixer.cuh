#pragma once
/// Backward of the FLARE mixer on the GPU; formulas in flare_mixer.h. Scores are recomputed in every pass: at these head widths
/// that is cheaper than any traffic.
#include "ops/kernels/attention.cuh"

namespace flare {

template <class T> struct MixerKernelArgs {
  DeviceRows<const float> q, z, dz;  // z, dz [B,H,M,D] packed
  DeviceRows<const T> k, v, g;
  DeviceRows<T> dk, dv;
  const float *lse_encode, *lse_decode, *delta;
  const uint8_t* mask;
  int64_t M, N;
  int D;
  float scale;
  AttentionDropout dropout;
  Plan plan;
};

/// Pass B1, partial dz. Grid: (b, h, tile of blockDim*R latents, chunk of tokens). A thread owns R latents: q and dz in
/// registers; k and g pass through 2*32*DP floats of shared memory. Reads k, g once per tile of latents, writes D floats per
/// latent and chunk. 2*DP FMAs and one exponential per pair.
template <class T, int DP, int R>
__global__ void __launch_bounds__(kMaxThreads) mixer_dz_kernel(MixerKernelArgs<T> a, float* part) {
  __shared__ __align__(16) float k_tile[kTileRows<DP> * DP], g_tile[kTileRows<DP> * DP], minus_lse[kTileRows<DP>];
  const Work w = work_of(a.plan);
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = w.tile * blockDim.x * R + t;
  float q[R][DP], dz[R][DP];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t m = first + r * static_cast<int64_t>(blockDim.x);
    load_row<DP>(a.q.rows.at(w.b, w.h, m < a.M ? m : 0), a.D, a.q.vec, a.scale * kLog2e, m < a.M, q[r]);
#pragma unroll
    for (int d = 0; d < DP; ++d) dz[r][d] = 0;
  }
  const uint8_t* mask = a.mask ? a.mask + w.b * a.N : nullptr;
  const int64_t begin = w.chunk * a.plan.chunk, end = min(a.N, begin + a.plan.chunk);
  for (int64_t n0 = begin; n0 < end; n0 += kTileRows<DP>) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTileRows<DP>), end - n0));
    const bool mine = t < count && (!mask || mask[n0 + t]);
    if (!__syncthreads_or(mine)) continue;
    load_tile<DP>(a.k, w.b, w.h, n0, count, a.D, 1.0f, mask, k_tile);
    load_tile<DP>(a.g, w.b, w.h, n0, count, a.D, 1.0f, mask, g_tile);
    if (t < kTileRows<DP>) minus_lse[t] = mine ? -kLog2e * a.lse_decode[w.bh * a.N + n0 + t] : minus_infinity();
    __syncthreads();
    // Rows from count to the end of the tile are zeros with weight 0, so the loop may run in fours.
#pragma unroll 1
    for (int j0 = 0; j0 < count; j0 += 4) {
      float p[R][4];
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int r = 0; r < R; ++r) p[r][j] = minus_lse[j0 + j];
#pragma unroll
      for (int d = 0; d < DP; d += 4)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float4 k = *reinterpret_cast<const float4*>(k_tile + (j0 + j) * DP + d);
#pragma unroll
          for (int r = 0; r < R; ++r)
            p[r][j] = fmaf(q[r][d + 3], k.w, fmaf(q[r][d + 2], k.z, fmaf(q[r][d + 1], k.y, fmaf(q[r][d], k.x, p[r][j]))));
        }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const int64_t m = first + r * static_cast<int64_t>(blockDim.x);
#pragma unroll
        for (int j = 0; j < 4; ++j) p[r][j] = exp2_fast(p[r][j]);
        if (a.dropout.on()) {
#pragma unroll
          for (int j = 0; j < 4; j += 2) {
            const int64_t n = n0 + j0 + j;
            const Philox4 bits = a.dropout.patch(w.bh, m, n);
            p[r][j] *= a.dropout.factor(bits, m, n, 1), p[r][j + 1] *= a.dropout.factor(bits, m, n + 1, 1);
          }
        }
      }
#pragma unroll
      for (int j = 0; j < 4; ++j)
#pragma unroll
        for (int d = 0; d < DP; d += 4) {
          const float4 g = *reinterpret_cast<const float4*>(g_tile + (j0 + j) * DP + d);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            dz[r][d] = fmaf(p[r][j], g.x, dz[r][d]), dz[r][d + 1] = fmaf(p[r][j], g.y, dz[r][d + 1]);
            dz[r][d + 2] = fmaf(p[r][j], g.z, dz[r][d + 2]), dz[r][d + 3] = fmaf(p[r][j], g.w, dz[r][d + 3]);
          }
        }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t m = first + r * static_cast<int64_t>(blockDim.x);
    if (m < a.M) store_row<DP>(part + ((w.bh * a.plan.n_chunks + w.chunk) * a.M + m) * a.D, a.D, a.D % 4 == 0, 1.0f, dz[r]);
  }
}

/// Pass B2 for the tokens: dk, dv. Grid: (b, h, tile of blockDim*R tokens). A thread owns R tokens: k, v, g, dk, dv in
/// registers; q, z, dz pass through 3*32*DP floats of shared memory. Reads k, v, g once and writes dk, dv once.
/// 5*DP FMAs and two exponentials per pair.
template <class T, int DP, int R> __global__ void __launch_bounds__(kMaxThreads) mixer_dkv_kernel(MixerKernelArgs<T> a) {
  __shared__ __align__(16) float q_tile[kTileRows<DP> * DP], z_tile[kTileRows<DP> * DP], dz_tile[kTileRows<DP> * DP];
  __shared__ float2 stats[kTileRows<DP>];  // lse of the encode row (powers of two), eps
  const Work w = work_of(a.plan);
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = w.tile * blockDim.x * R + t;
  float k[R][DP], v[R][DP], g[R][DP], dk[R][DP], dv[R][DP], lse[R], delta[R];
  bool any = false;
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t n = first + r * static_cast<int64_t>(blockDim.x);
    const bool live = n < a.N && (!a.mask || a.mask[w.b * a.N + n]);
    any = any || live;
    const int64_t row = live ? n : 0;
    load_row<DP>(a.k.rows.at(w.b, w.h, row), a.D, a.k.vec, 1.0f, live, k[r]);
    load_row<DP>(a.v.rows.at(w.b, w.h, row), a.D, a.v.vec, 1.0f, live, v[r]);
    load_row<DP>(a.g.rows.at(w.b, w.h, row), a.D, a.g.vec, 1.0f, live, g[r]);
    lse[r] = live ? kLog2e * a.lse_decode[w.bh * a.N + n] : 0.0f;
    delta[r] = live ? a.delta[w.bh * a.N + n] : 0.0f;
#pragma unroll
    for (int d = 0; d < DP; ++d) dk[r][d] = dv[r][d] = 0;
  }
  if (__syncthreads_or(any)) {
    for (int64_t m0 = 0; m0 < a.M; m0 += kTileRows<DP>) {
      const int count = static_cast<int>(min(static_cast<int64_t>(kTileRows<DP>), a.M - m0));
      load_tile<DP>(a.q, w.b, w.h, m0, count, a.D, a.scale * kLog2e, nullptr, q_tile);
      load_tile<DP>(a.z, w.b, w.h, m0, count, a.D, 1.0f, nullptr, z_tile);
      load_tile<DP>(a.dz, w.b, w.h, m0, count, a.D, 1.0f, nullptr, dz_tile);
      __syncthreads();
      if (t < count) {
        float eps = 0;
        for (int i = 0; i < DP; ++i) {
          const int d = (i + t) % DP;  // spreads the rows over the banks
          eps = fmaf(z_tile[t * DP + d], dz_tile[t * DP + d], eps);
        }
        stats[t] = make_float2(kLog2e * a.lse_encode[w.bh * a.M + m0 + t], eps);
      }
      __syncthreads();
      if (any) {
#pragma unroll 2
        for (int j = 0; j < count; ++j) {
          const float2 stat = stats[j];
#pragma unroll
          for (int r = 0; r < R; ++r) {
            const int64_t n = first + r * static_cast<int64_t>(blockDim.x);
            const float s = dot(k[r], q_tile + j * DP, 0.0f);
            float gz = dot(g[r], z_tile + j * DP, 0.0f), dzv = dot(v[r], dz_tile + j * DP, 0.0f);
            const float p = exp2_fast(s - lse[r]), e = exp2_fast(s - stat.x);
            float kept = e;
            if (a.dropout.on()) {
              const Philox4 bits = a.dropout.patch(w.bh, m0 + j, n);
              const float encode = a.dropout.factor(bits, m0 + j, n, 0);
              gz *= a.dropout.factor(bits, m0 + j, n, 1), dzv *= encode, kept *= encode;
            }
            add_scaled(p * (gz - delta[r]) + e * (dzv - stat.y), q_tile + j * DP, dk[r]);
            add_scaled(kept, dz_tile + j * DP, dv[r]);
          }
        }
      }
      __syncthreads();
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t n = first + r * static_cast<int64_t>(blockDim.x);
    if (n >= a.N) continue;
    if (a.mask && !a.mask[w.b * a.N + n]) {
#pragma unroll
      for (int d = 0; d < DP; ++d) dk[r][d] = dv[r][d] = 0;
    }
    store_row<DP>(a.dk.rows.at(w.b, w.h, n), a.D, a.dk.vec, kLn2, dk[r]);  // q carried scale * log2(e)
    store_row<DP>(a.dv.rows.at(w.b, w.h, n), a.D, a.dv.vec, 1.0f, dv[r]);
  }
}

/// Pass B2 for the latents: partial dq. Grid: (b, h, tile of blockDim*R latents, chunk of tokens). A thread owns R latents: q, z,
/// dz, dq in registers; k, v, g pass through 3*32*DP floats of shared memory. Reads k, v, g once per tile of latents, writes D
/// floats per latent and chunk. 4*DP FMAs and two exponentials per pair.
template <class T, int DP, int R>
__global__ void __launch_bounds__(kMaxThreads) mixer_dq_kernel(MixerKernelArgs<T> a, float* part) {
  __shared__ __align__(16) float k_tile[kTileRows<DP> * DP], v_tile[kTileRows<DP> * DP], g_tile[kTileRows<DP> * DP];
  __shared__ float4 stats[kTileRows<DP>];  // 0 or -infinity (masked), lse of the decode row (powers of two), delta
  const Work w = work_of(a.plan);
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = w.tile * blockDim.x * R + t;
  float q[R][DP], z[R][DP], dz[R][DP], dq[R][DP], lse[R], eps[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t m = first + r * static_cast<int64_t>(blockDim.x);
    const bool live = m < a.M;
    load_row<DP>(a.q.rows.at(w.b, w.h, live ? m : 0), a.D, a.q.vec, a.scale * kLog2e, live, q[r]);
    load_row<DP>(a.z.rows.at(w.b, w.h, live ? m : 0), a.D, a.z.vec, 1.0f, live, z[r]);
    load_row<DP>(a.dz.rows.at(w.b, w.h, live ? m : 0), a.D, a.dz.vec, 1.0f, live, dz[r]);
    lse[r] = live ? kLog2e * a.lse_encode[w.bh * a.M + m] : 0.0f;
    eps[r] = 0;
#pragma unroll
    for (int d = 0; d < DP; ++d) eps[r] = fmaf(z[r][d], dz[r][d], eps[r]), dq[r][d] = 0;
  }
  const uint8_t* mask = a.mask ? a.mask + w.b * a.N : nullptr;
  const int64_t begin = w.chunk * a.plan.chunk, end = min(a.N, begin + a.plan.chunk);
  for (int64_t n0 = begin; n0 < end; n0 += kTileRows<DP>) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTileRows<DP>), end - n0));
    const bool mine = t < count && (!mask || mask[n0 + t]);
    if (!__syncthreads_or(mine)) continue;
    load_tile<DP>(a.k, w.b, w.h, n0, count, a.D, 1.0f, mask, k_tile);
    load_tile<DP>(a.v, w.b, w.h, n0, count, a.D, 1.0f, mask, v_tile);
    load_tile<DP>(a.g, w.b, w.h, n0, count, a.D, 1.0f, mask, g_tile);
    if (t < kTileRows<DP>) {
      const int64_t n = w.bh * a.N + n0 + t;
      stats[t] = mine ? make_float4(0, kLog2e * a.lse_decode[n], a.delta[n], 0) : make_float4(minus_infinity(), 0, 0, 0);
    }
    __syncthreads();
#pragma unroll 2
    for (int j = 0; j < count; ++j) {
      const float4 stat = stats[j];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const float s = dot(q[r], k_tile + j * DP, stat.x);
        float gz = dot(z[r], g_tile + j * DP, 0.0f), dzv = dot(dz[r], v_tile + j * DP, 0.0f);
        const float p = exp2_fast(s - stat.y), e = exp2_fast(s - lse[r]);
        if (a.dropout.on()) {
          const int64_t m = first + r * static_cast<int64_t>(blockDim.x), n = n0 + j;
          const Philox4 bits = a.dropout.patch(w.bh, m, n);
          gz *= a.dropout.factor(bits, m, n, 1), dzv *= a.dropout.factor(bits, m, n, 0);
        }
        add_scaled(p * (gz - stat.z) + e * (dzv - eps[r]), k_tile + j * DP, dq[r]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t m = first + r * static_cast<int64_t>(blockDim.x);
    if (m < a.M) store_row<DP>(part + ((w.bh * a.plan.n_chunks + w.chunk) * a.M + m) * a.D, a.D, a.D % 4 == 0, a.scale, dq[r]);
  }
}

}  // namespace flare
