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

/// A sum over some parts of one element of a latent: the element of the weighted sum, the origin of its weights (-infinity: no
/// part yet) and the sum of the weights. Plain sums have neither.
struct MergedPart {
  float total, origin, weight;
};
__device__ __forceinline__ MergedPart no_part() { return {0, minus_infinity(), 0}; }
/// Every lanes-th part from `lane` on, of column d of latent m; coalesced over latents and columns.
__device__ __forceinline__ MergedPart merge_parts(const MergeArgs& a, int64_t group, int64_t m, int d, int lane, int lanes) {
  MergedPart of = no_part();
  const int n_parts = a.n_sum * a.n_chunks;
  if (a.stats) {
    // One group of parts: encode never sums over the batch.
    int64_t at = (group * a.n_chunks + lane) * a.M + m;
#pragma unroll 4
    for (int p = lane; p < n_parts; p += lanes, at += lanes * a.M) {
      const float2 theirs = *reinterpret_cast<const float2*>(a.stats + 2 * at);
      const float part = a.part[at * a.D + d];
      if (theirs.x != of.origin) {
        const float most = fmaxf(of.origin, theirs.x), from = most == minus_infinity() ? 0.0f : most;
        const float keep = exp2f(of.origin - from), add = exp2f(theirs.x - from);
        of = {keep * of.total + add * part, most, keep * of.weight + add * theirs.y};
      } else {
        of.total += part, of.weight += theirs.y;
      }
    }
  } else {
    const int64_t across = (a.groups - 1) * a.n_chunks * a.M;  // from the last chunk of a sample to the first of the next
    int64_t at = group * a.n_chunks * a.M + m + lane * a.M + lane / a.n_chunks * across;
#pragma unroll 4
    for (int p = lane; p < n_parts; p += lanes) {
      of.total += a.part[at * a.D + d];
      at += lanes * a.M;
      if (a.n_sum > 1) at += ((p + lanes) / a.n_chunks - p / a.n_chunks) * across;
    }
  }
  return of;
}
/// The sum of the lanes' parts in order, of_lane(l), written where the merge goes; 0, and nothing written, unless the latent and
/// column are `live`.
template <class F>
__device__ __forceinline__ float merge_lanes(const MergeArgs& a, int64_t group, int64_t m, int d, int lanes, bool live,
                                             const F& of_lane) {
  float most = minus_infinity(), total = 0, weight = 0;
  for (int l = 0; l < lanes; ++l) most = fmaxf(most, of_lane(l).origin);
  const float from = most == minus_infinity() ? 0.0f : most;
  for (int l = 0; l < lanes; ++l) {
    const MergedPart part = of_lane(l);
    const float shrink = a.stats ? exp2f(part.origin - from) : 1.0f;
    total += shrink * part.total, weight += shrink * part.weight;
  }
  if (!live) return 0;
  const int64_t row = group * a.M + m;
  total = !a.stats ? a.factor * total : weight > 0 ? total / weight : 0.0f;
  a.out[row * a.D + d] = total;
  if (a.stats && d == 0) {
    if (a.rest)
      store_lse<Math::f32>(a.lse, a.rest, row, from, weight);
    else
      store_lse<Math::bf16>(a.lse, nullptr, row, from, weight);
  }
  return total;
}

/// Grid: (blocks of latents, groups). A latent has lanes*DP threads. Reads the parts once. (Where the sums are packed next,
/// pack_latents_kernel merges.)
template <int DP> __global__ void __launch_bounds__(kMergeThreads) merge_latents_kernel(const MergeArgs a) {
  after_previous();
  __shared__ MergedPart parts[kMergeThreads];
  const int t = static_cast<int>(threadIdx.x), d = t % DP, lane = t / DP % a.lanes, local = t / DP / a.lanes;
  const int rows = kMergeThreads / DP / a.lanes;
  const int64_t group = blockIdx.y, m = static_cast<int64_t>(blockIdx.x) * rows + local;
  const bool live = m < a.M && d < a.D;
  parts[t] = live ? merge_parts(a, group, m, d, lane, a.lanes) : no_part();
  __syncthreads();
  if (lane == 0) merge_lanes(a, group, m, d, a.lanes, live, [&](int l) { return parts[t + l * DP]; });
}

}  // namespace flare
