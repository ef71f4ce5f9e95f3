#pragma once
/// The one merge of the mixer: parts over chunks of tokens become z, dz or dq. A part is a weighted sum with an origin and the sum
/// of its weights, as in log-sum-exp; parts of other ranks have the same form.
#include "ops/kernels/mixer_fragments.cuh"

namespace flare {

inline constexpr int kMergeThreads = 256;
struct MergeArgs {
  const float* part = nullptr;   // [n_sum][groups][chunk][M,D]; groups are (b,h), or h where dq is summed over the batch
  const float* stats = nullptr;  // encode: [B,H,chunk,M,2] = origin, sum of weights (powers of two); null: plain sums
  float *out = nullptr, *lse = nullptr, *rest = nullptr;  // [groups,M,D]; encode: [groups,M], rest in f32 only
  int64_t groups = 1, M = 0;
  int n_sum = 1, n_chunks = 1, D = 0, lanes = 1;  // lanes: threads that share the parts of one element
  float factor = 1;                               // of plain sums
};

/// Grid: (blocks of latents, groups). A latent has lanes*DP threads: a thread per column adds every lanes-th part, then the lanes
/// add up in order. Reads the parts once, coalesced over latents and columns.
template <int DP> __global__ void __launch_bounds__(kMergeThreads) merge_latents_kernel(const MergeArgs a) {
  __shared__ float totals[kMergeThreads], origins[kMergeThreads], weights[kMergeThreads];
  const int t = static_cast<int>(threadIdx.x), d = t % DP, lane = t / DP % a.lanes, local = t / DP / a.lanes;
  const int rows = kMergeThreads / DP / a.lanes;
  const int64_t bh = blockIdx.y, m = static_cast<int64_t>(blockIdx.x) * rows + local;
  const bool live = m < a.M && d < a.D;
  float total = 0, origin = minus_infinity(), weight = 0;
  if (live) {
    const int n_parts = a.n_sum * a.n_chunks;
    if (a.stats) {
      // One group of parts: encode never sums over the batch.
      int64_t at = (bh * a.n_chunks + lane) * a.M + m;
      for (int p = lane; p < n_parts; p += a.lanes, at += a.lanes * a.M) {
        const float2 theirs = *reinterpret_cast<const float2*>(a.stats + 2 * at);
        const float part = a.part[at * a.D + d];
        if (theirs.x != origin) {
          const float most = fmaxf(origin, theirs.x), from = most == minus_infinity() ? 0.0f : most, keep = exp2f(origin - from);
          const float add = exp2f(theirs.x - from);
          total = keep * total + add * part, weight = keep * weight + add * theirs.y, origin = most;
        } else {
          total += part, weight += theirs.y;
        }
      }
    } else {
      const int64_t across = (a.groups - 1) * a.n_chunks * a.M;  // from the last chunk of a sample to the first of the next
      int64_t at = bh * a.n_chunks * a.M + m + lane * a.M + lane / a.n_chunks * across;
#pragma unroll 4
      for (int p = lane; p < n_parts; p += a.lanes) {
        total += a.part[at * a.D + d];
        at += a.lanes * a.M;
        if (a.n_sum > 1) at += ((p + a.lanes) / a.n_chunks - p / a.n_chunks) * across;
      }
    }
  }
  totals[t] = total, origins[t] = origin, weights[t] = weight;
  __syncthreads();
  if (lane == 0) {
    float most = minus_infinity();
    for (int l = 0; l < a.lanes; ++l) most = fmaxf(most, origins[t + l * DP]);
    const float from = most == minus_infinity() ? 0.0f : most;
    total = weight = 0;
    for (int l = 0; l < a.lanes; ++l) {
      const float shrink = a.stats ? exp2f(origins[t + l * DP] - from) : 1.0f;
      total += shrink * totals[t + l * DP], weight += shrink * weights[t + l * DP];
    }
    const int64_t row = bh * a.M + m;
    total = !a.stats ? a.factor * total : weight > 0 ? total / weight : 0.0f;
    if (live) a.out[row * a.D + d] = total;
    if (a.stats && live && d == 0) {
      if (a.rest)
        store_lse<Math::f32>(a.lse, a.rest, row, from, weight);
      else
        store_lse<Math::bf16>(a.lse, nullptr, row, from, weight);
    }
  }
}

}  // namespace flare
