#pragma once
/// The pass of the mixer that turns latents into tokens: decode (F2). Formulas: ops/kernels/flare_mixer.h; how a block walks over
/// its tokens: mixer_token_steps.cuh.
#include <type_traits>

#include "ops/kernels/mixer_token_steps.cuh"

namespace flare {

/// y = P z and lse. 2*DP multiply-adds and one exponential per pair. What comes before after_previous() reads keys and bounds
/// alone: two launches back, encode waited for the one and made the other.
template <Math X, int DP, int kPoly, bool kSlow> __device__ __forceinline__ void decode_block(const TokenArgs<X>& a) {
  constexpr int NT = kTokenTiles<X, DP, TokenPass::decode>, J = DP / 8, W = kWords<X, DP>, kTable = 32 * kTableWords<X, DP>;
  const int warps = static_cast<int>(blockDim.x / 32), group_rows = warps * NT * 16;
  extern __shared__ __align__(16) uint32_t tables[];
  constexpr int kStage = kRingStage<X, DP, 1, NT * 16> / 4;  // words
  const int room = a.table_latents / 16, all_steps = static_cast<int>((a.M + 15) / 16);
  uint32_t *q_table = tables + warps * kStage, *z_table = q_table + room * kTable;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  const int h = static_cast<int>(blockIdx.x), b = static_cast<int>(blockIdx.z);
  const int64_t bh = b * a.H + h;
  const int count = static_cast<int>(a.N), first_group = static_cast<int>(blockIdx.y) * group_rows,
            stride = a.n_chunks * group_rows;
  __shared__ HeadPointers heads;
  if (threadIdx.x == 0) heads.k = a.k.at(b, h, 0), heads.out = a.out.at(b, h, 0);
  __syncthreads();
  const uint8_t* mask = a.mask ? a.mask + b * a.N : nullptr;
  float *lse_rows = a.lse_decode + bh * a.N, *rest_rows = kHasRest<X> ? a.rest_decode + bh * a.N : nullptr;
  const uint32_t nothing = static_cast<uint32_t>(a.D) >> 16, one = a.one;
  const bool once = a.table_latents >= a.M;
  const int tail = static_cast<int>(a.M % 16);

  // Rows of the next group are on their way while this group is worked on.
  Token<X>* ring = reinterpret_cast<Token<X>*>(tables + warp * kStage);
  uint32_t live[(NT * 16 + 31) / 32], live_next[(NT * 16 + 31) / 32];
  const auto fill = [&](int n) {
    if constexpr (kRing<X, DP>)
      fill_rows<X, DP, NT * 16>(ring, head_rows<const Token<X>>(heads.k, a.k.row), n, live_next, a.D, lane);
    copy_async_commit();
  };
  live_rows<NT * 16>(live_next, mask, first_group + warp * NT * 16, count, lane);
  fill(first_group + warp * NT * 16);
#pragma unroll 1
  for (int group = first_group; group < count; group += stride) {
    const int n0 = group + warp * NT * 16;
    Rows16<X, DP> k[NT];
    float acc[NT][J][4], sum[NT][4], origin[kSlow ? NT : 1][2];
#pragma unroll
    for (int i = 0; i < (NT * 16 + 31) / 32; ++i) live[i] = live_next[i];
    live_rows<NT * 16>(live_next, mask, n0 + stride, count, lane);
    copy_async_wait<0>();
    __syncwarp();
#pragma unroll
    for (int i = 0; i < NT; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 16 * i + 8 * half;
        uint32_t words[W / 2];
        if constexpr (kRing<X, DP>)
          read_row<X, DP>(words, ring + (r + g) * DP, t);
        else
          load_token<X, DP>(words, head_rows<const Token<X>>(heads.k, a.k.row).row(n0 + r + g) + t * kVec<X, DP>,
                            live[r / 32] >> (r % 32 + g) & 1, a.D, t);
        k[i].set_row(half, words);
        if constexpr (kSlow) origin[i][half] = minus_infinity();
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][e] = 0;
#pragma unroll
      for (int j = 0; j < J; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) acc[i][j][e] = 0;
    }
    __syncwarp();
    fill(n0 + stride);
#pragma unroll
    for (int i = 0; i < NT; ++i) k[i].settle(nothing);
    for (int64_t m0 = 0; m0 < a.M; m0 += a.table_latents) {
      const int steps = static_cast<int>((min(static_cast<int64_t>(a.table_latents), a.M - m0) + 15) / 16);
      if (!once || group == first_group) {
        if (group == first_group && m0 == 0) after_previous();
        __syncthreads();
        copy_tables<X, DP, 2>(q_table, a.tables + bh * 2 * all_steps * kTable, all_steps, static_cast<int>(m0 / 16), steps, room);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
      }
      if (n0 >= count) continue;
      const auto meet = [&](int step, auto partial) {
        const auto l = read_latents<decltype(partial)::value, X, DP>(q_table, z_table, step, tail, lane);
        if constexpr (kSlow)
          decode_step_slow<X, DP, NT>(acc, sum, origin, k, l, a.dropout, bh, m0 + 16 * step, n0, lane);
        else
          decode_step<X, DP, NT, kPoly>(acc, sum, k, l, one);
      };
      const int full = tail > 0 && m0 + a.table_latents >= a.M ? steps - 1 : steps;
#pragma unroll 1
      for (int step = 0; step < full; ++step) meet(step, std::false_type{});
      if (full < steps) meet(full, std::true_type{});
    }
    const auto out = head_rows<Token<X>>(heads.out, a.out.row);
    float own_total = 0, own_origin = 0;  // the four threads of a row store one lse each, of rows g + 8t
#pragma unroll
    for (int i = 0; i < NT; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 16 * i + 8 * half, n = n0 + r + g;
        const bool here = live[r / 32] >> (r % 32 + g) & 1;
        const float total = X == Math::bf16 ? sum[i][2 * half] : quad_sum(sum[i][2 * half]);
        if (t == r / 8) own_total = here ? total : 0.0f, own_origin = kSlow ? origin[i][half] : 0.0f;
        if (n < count)
          store_token<X, DP>(out.row(n), acc[i], half, X == Math::f32 ? 1.0f / total : __fdividef(1.0f, total), here, a.D, t);
      }
    static_assert(NT <= 2);
    if (t < 2 * NT && n0 + 8 * t + g < count) store_lse<X>(lse_rows, rest_rows, n0 + 8 * t + g, own_origin, own_total);
  }
}
template <Math X, int DP> __device__ __noinline__ void decode_block_slow(const TokenArgs<X>& a) { decode_block<X, DP, 0, true>(a); }
template <Math X, int DP, int kPoly>
__global__ void __launch_bounds__(32 * kTokenWarps<X, DP, TokenPass::decode>, kTokenBlocks<X, DP, TokenPass::decode>)
    mixer_decode_kernel(const __grid_constant__ TokenArgs<X> a) {
  if (all_safe(a.part_bound + (blockIdx.z * a.H + blockIdx.x) * a.n_bounds, a.n_bounds, a.safe, a.dropout.on()))
    decode_block<X, DP, kPoly, false>(a);
  else
    decode_block_slow<X, DP>(a);
}

}  // namespace flare
