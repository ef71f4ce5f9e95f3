#pragma once
/// Backward of softmax attention on the GPU: with P = softmax of the scores, r the dropout factors, g the gradient of the result,
///   delta_i = g_i . out_i,  W_ij = P_ij (r_ij g_i . v_j - delta_i),  dq = s W k,  dk = s W^T q,  dv = (P r)^T g.
#include "ops/kernels/attention.cuh"

namespace flare {

template <class T> struct SdpaGradKernelArgs {
  DeviceRows<const T> query, key, value, grad;  // grad: rows of g [B,H,n_query,D]
  const float *lse, *delta;                     // [B,H,n_query]
  const uint8_t* key_mask;
  int64_t n_query, n_key;
  int D;
  float scale;
  AttentionDropout dropout;
  Plan plan;
};

/// dq. Grid: (b, h, tile of blockDim*R queries, chunk of keys). A thread owns R queries: q, g and dq in registers; k and v pass
/// through 2*32*DP floats of shared memory. 3*DP FMAs and one exponential per pair. Writes part [b,h][chunk][query][D].
template <class T, int DP, int R>
__global__ void __launch_bounds__(kMaxThreads) sdpa_dq_kernel(SdpaGradKernelArgs<T> a, float* part) {
  __shared__ __align__(16) float k_tile[kTileRows<DP> * DP], v_tile[kTileRows<DP> * DP], bias[kTileRows<DP>];
  const Work w = work_of(a.plan);
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = w.tile * blockDim.x * R + t;
  float q[R][DP], g[R][DP], dq[R][DP], lse[R], delta[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = first + r * static_cast<int64_t>(blockDim.x);
    const bool live = i < a.n_query;
    load_row<DP>(a.query.rows.at(w.b, w.h, live ? i : 0), a.D, a.query.vec, a.scale * kLog2e, live, q[r]);
    load_row<DP>(a.grad.rows.at(w.b, w.h, live ? i : 0), a.D, a.grad.vec, 1.0f, live, g[r]);
    lse[r] = live ? kLog2e * a.lse[w.bh * a.n_query + i] : 0.0f;
    delta[r] = live ? a.delta[w.bh * a.n_query + i] : 0.0f;
#pragma unroll
    for (int d = 0; d < DP; ++d) dq[r][d] = 0;
  }
  const uint8_t* mask = a.key_mask ? a.key_mask + w.b * a.n_key : nullptr;
  const int64_t begin = w.chunk * a.plan.chunk, end = min(a.n_key, begin + a.plan.chunk);
  for (int64_t j0 = begin; j0 < end; j0 += kTileRows<DP>) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTileRows<DP>), end - j0));
    const bool mine = t < count && (!mask || mask[j0 + t]);
    if (!__syncthreads_or(mine)) continue;
    load_tile<DP>(a.key, w.b, w.h, j0, count, a.D, 1.0f, mask, k_tile);
    load_tile<DP>(a.value, w.b, w.h, j0, count, a.D, 1.0f, mask, v_tile);
    if (t < kTileRows<DP>) bias[t] = mine ? 0.0f : minus_infinity();
    __syncthreads();
#pragma unroll 2
    for (int j = 0; j < count; ++j) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        const float p = exp2_fast(dot(q[r], k_tile + j * DP, bias[j]) - lse[r]);
        float gv = dot(g[r], v_tile + j * DP, 0.0f);
        if (a.dropout.on()) {
          const int64_t i = first + r * static_cast<int64_t>(blockDim.x), c = j0 + j;
          gv *= a.dropout.factor(a.dropout.patch(w.bh, i, c), i, c, 0);
        }
        add_scaled(p * (gv - delta[r]), k_tile + j * DP, dq[r]);
      }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = first + r * static_cast<int64_t>(blockDim.x);
    if (i < a.n_query)
      store_row<DP>(part + ((w.bh * a.plan.n_chunks + w.chunk) * a.n_query + i) * a.D, a.D, a.D % 4 == 0, a.scale, dq[r]);
  }
}

/// dk, dv. Grid: (b, h, tile of blockDim keys, chunk of queries). A thread owns a key: k, v, dk, dv in registers; q and g pass
/// through 2*32*DP floats of shared memory. 4*DP FMAs and one exponential per pair. Writes parts [b,h][chunk][key][D].
template <class T, int DP>
__global__ void __launch_bounds__(kMaxThreads) sdpa_dkv_kernel(SdpaGradKernelArgs<T> a, float* dk_part, float* dv_part) {
  __shared__ __align__(16) float q_tile[kTileRows<DP> * DP], g_tile[kTileRows<DP> * DP];
  __shared__ float2 stats[kTileRows<DP>];  // lse (powers of two), delta
  const Work w = work_of(a.plan);
  const int t = static_cast<int>(threadIdx.x);
  const int64_t i = w.tile * blockDim.x + t;
  const bool live = i < a.n_key && (!a.key_mask || a.key_mask[w.b * a.n_key + i]);
  float k[DP], v[DP], dk[DP], dv[DP];
  load_row<DP>(a.key.rows.at(w.b, w.h, live ? i : 0), a.D, a.key.vec, 1.0f, live, k);
  load_row<DP>(a.value.rows.at(w.b, w.h, live ? i : 0), a.D, a.value.vec, 1.0f, live, v);
#pragma unroll
  for (int d = 0; d < DP; ++d) dk[d] = dv[d] = 0;
  const int64_t begin = w.chunk * a.plan.chunk, end = min(a.n_query, begin + a.plan.chunk);
  if (__syncthreads_or(live)) {
    for (int64_t j0 = begin; j0 < end; j0 += kTileRows<DP>) {
      const int count = static_cast<int>(min(static_cast<int64_t>(kTileRows<DP>), end - j0));
      load_tile<DP>(a.query, w.b, w.h, j0, count, a.D, a.scale * kLog2e, nullptr, q_tile);
      load_tile<DP>(a.grad, w.b, w.h, j0, count, a.D, 1.0f, nullptr, g_tile);
      if (t < count) stats[t] = make_float2(kLog2e * a.lse[w.bh * a.n_query + j0 + t], a.delta[w.bh * a.n_query + j0 + t]);
      __syncthreads();
      if (live) {
#pragma unroll 2
        for (int j = 0; j < count; ++j) {
          const float p = exp2_fast(dot(k, q_tile + j * DP, -stats[j].x));
          float gv = dot(v, g_tile + j * DP, 0.0f), kept = p;
          if (a.dropout.on()) {
            const float r = a.dropout.factor(a.dropout.patch(w.bh, j0 + j, i), j0 + j, i, 0);
            gv *= r, kept *= r;
          }
          add_scaled(p * (gv - stats[j].y), q_tile + j * DP, dk);
          add_scaled(kept, g_tile + j * DP, dv);
        }
      }
      __syncthreads();
    }
  }
  if (i >= a.n_key) return;
  const int64_t row = (w.bh * a.plan.n_chunks + w.chunk) * a.n_key + i;
  store_row<DP>(dk_part + row * a.D, a.D, a.D % 4 == 0, kLn2, dk);  // q carried scale * log2(e)
  store_row<DP>(dv_part + row * a.D, a.D, a.D % 4 == 0, 1.0f, dv);
}

}  // namespace flare
