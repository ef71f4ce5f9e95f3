#pragma once
/// Latents in the order in which the token passes read them, so that a block fills its shared memory with plain copies; merged
/// before, where they come in parts.
#include "ops/kernels/mixer_merge.cuh"
#include "ops/kernels/mixer_token_steps.cuh"

namespace flare {

template <bool kMerges> inline constexpr int kPackThreads = kMerges ? 512 : 256;
struct PackArgs {
  MergeArgs merge;           // where the kernel merges: of z (decode) or dz (dkv)
  const float* q = nullptr;  // packed [M,D] per head
  int64_t q_batch = 0;
  const float *z = nullptr, *dz = nullptr, *lse_encode = nullptr;  // [B,H,M,D], [B,H,M,D], [B,H,M]
  const float* rest_encode = nullptr;                              // f32: [B,H,M]
  const float* part_bound = nullptr;                               // [B,H,n_bounds]
  uint32_t* tables = nullptr;                                      // [B,H][table][M/16][32 lanes * kWords]
  float2* stats = nullptr;                                         // [B,H][M rounded up to 16]
  int64_t M = 0;
  int H = 1, D = 0, n_bounds = 1;
  bool dropout = false;
  float scale = 1, safe = 0;  // safe_score(N)
};

/// Tables of one head. decode: scores of q, values of z. dkv: scores and values of q, scores of z, scores and values of dz; stats
/// are (lse, eps = dz.z) of each latent in powers of two. Where every score is safe, dz carries 2^-lse and stats hold -eps 2^-lse
/// (in bf16 the bits of two parts of it), as the fast path of mixer_dkv_kernel wants them. q carries scale, for scores
/// times log2(e).
/// Grid: (blocks of 16 latents, h, b). A thread merges an element or two, if z or dz comes in parts, then makes a few words.
template <Math X, int DP, TokenPass P, bool kMerges>
__global__ void __launch_bounds__(kPackThreads<kMerges>) pack_latents_kernel(const PackArgs a) {
  after_previous();
  constexpr int W = kWords<X, DP>, K = W / (DP / 8), kWide = kTableWords<X, DP>, kStep = 32 * kWide;
  const int step = static_cast<int>(blockIdx.x), steps = static_cast<int>(gridDim.x), h = static_cast<int>(blockIdx.y);
  const int64_t bh = static_cast<int64_t>(blockIdx.z) * a.H + h, head = bh * a.M * a.D;
  const float *q = a.q + blockIdx.z * a.q_batch + h * a.M * a.D, *z = a.z + head,
              *dz = P == TokenPass::decode ? nullptr : a.dz + head;
  constexpr int kThreads = kPackThreads<kMerges>, kElements = kMerges ? 16 * DP : 1;
  constexpr int kLanes = kThreads > kElements ? kThreads / kElements : 1;
  __shared__ float merged[kMerges ? 16 : 1][DP];  // z or dz
  if constexpr (kMerges) {
    __shared__ MergedPart parts[kLanes * kElements];
    for (int i = static_cast<int>(threadIdx.x); i < kLanes * kElements; i += kThreads) {
      const int64_t m = 16 * step + i % kElements / DP;
      const int d = i % DP;
      parts[i] = m < a.M && d < a.D ? merge_parts(a.merge, bh, m, d, i / kElements, kLanes) : no_part();
    }
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < kElements; i += kThreads) {
      const int64_t m = 16 * step + i / DP;
      const int d = i % DP;
      merged[i / DP][d] =
          merge_lanes(a.merge, bh, m, d, kLanes, m < a.M && d < a.D, [&](int l) { return parts[l * kElements + i]; });
    }
    __syncthreads();
  }
  const auto own = [&](int64_t m, int d) {
    if constexpr (kMerges)
      return merged[m - 16 * step][d];
    else
      return (P == TokenPass::decode ? z : dz)[m * a.D + d];
  };
  const bool fast = P != TokenPass::decode && all_safe(a.part_bound + bh * a.n_bounds, a.n_bounds, a.safe, a.dropout);
  const auto at = [&](int table, int64_t m, int d) {
    if (m >= a.M || d >= a.D) return 0.0f;
    if (P == TokenPass::decode) return table == 0 ? a.scale * kLog2e * q[m * a.D + d] : own(m, d);
    if (table <= 1) return a.scale * (table == 0 ? kLog2e : 1.0f) * q[m * a.D + d];
    if (table == 2) return z[m * a.D + d];
    const float x = kHasRest<X> ? own(m, d) / a.rest_encode[bh * a.M + m] : own(m, d);
    return fast ? x * exp2f(-in_base_2(a.lse_encode[bh * a.M + m])) : x;
  };
  uint32_t* out = a.tables + bh * kTables<P> * steps * kStep;
  for (int i = static_cast<int>(threadIdx.x); i < kTables<P> * 32 * W; i += kThreads) {
    const int table = i / (32 * W), w = i % W, lane = i / W % 32, g = lane / 4, t = lane % 4;
    const bool values = P == TokenPass::decode ? table == 1 : table == 1 || table == 4;
    float x0, x1 = 0;
    if (values) {
      const int j = w / K, r = w % K, d = value_dim<DP>(j, g);
      const int64_t m = 16 * step + 2 * t;
      x0 = at(table, X == Math::bf16 ? m + 8 * r : m + r / 2 * 8 + r % 2, d);
      if (X == Math::bf16) x1 = at(table, m + 8 * r + 1, d);
    } else {
      const int64_t m = 16 * step + 8 * (w / (W / 2)) + g;
      const int e = w % (W / 2);
      x0 = at(table, m, element_dim<X, DP>(t, X == Math::bf16 ? 2 * e : e));
      if (X == Math::bf16) x1 = at(table, m, element_dim<X, DP>(t, 2 * e + 1));
    }
    uint32_t* to = out + (table * steps + step) * kStep;
    uint32_t word = X == Math::bf16 ? pack_bf16(x0, x1) : __float_as_uint(x0);
    if constexpr (kSplitTables<X, DP>) split_tf32(word, word, to[table_word<kWide>(0, lane, W + w)]);
    to[table_word<kWide>(0, lane, w)] = word;
  }
  if (P != TokenPass::decode && threadIdx.x < 16) {
    const int64_t m = 16 * step + threadIdx.x;
    const float lse = m < a.M ? in_base_2(a.lse_encode[bh * a.M + m]) : 0.0f;
    float eps = 0;
    for (int d = 0; m < a.M && d < a.D; ++d) eps = fmaf(z[m * a.D + d], own(m, d), eps);
    if constexpr (kHasRest<X>) eps = m < a.M ? eps / a.rest_encode[bh * a.M + m] : 0.0f;
    const float e = -eps * exp2f(-lse), rounded = bf16_low(pack_bf16(e, 0.0f));
    const float fast_eps = X == Math::bf16 ? __uint_as_float(pack_bf16(e, e - rounded)) : e;
    a.stats[bh * steps * 16 + m] = fast ? make_float2(fast_eps, 0.0f) : make_float2(lse, eps);
  }
}

}  // namespace flare
