#pragma once
/// Backward of softmax attention of width 64 in bf16 on the warpgroup units of sm_90a.
#include "ops/kernels/sdpa_backward_mma.cuh"
#include "ops/kernels/sdpa_wgmma.h"
#include "ops/kernels/wgmma.cuh"

namespace flare {

/// dq of 128 queries of width 64 lies with 8 warps, 16 queries each.
struct QueryGradCutWgmma {
  static constexpr int kWidthWarps = 1, QM = 1, DN = 8;
};
/// Keys, two dS, three stages of queries and gradients (the values pass through the last one), their statistics.
inline constexpr int kSdpaBackwardWgmmaBytes = (128 * 64 + 2 * 128 * 128 + 3 * 2 * 128 * 64) * 2 + 3 * 128 * 8;

/// As sdpa_backward_kernel (grid, tickets, turns), without masks, for 128 keys a block and 128 queries a step. 2 warpgroups, each
/// owning 64 keys: their values stay in registers as A of (g.v)^T, dk and dv as results. A step runs in two halves of 64 queries:
/// scores and g.v, weights and dS, dv and dk. dS also goes to shared memory, and after the one barrier of a step each warpgroup
/// sums dq of one half over all 128 keys, behind which the first products of the next step are already queued.
__global__ void __launch_bounds__(256, 1) sdpa_backward_wgmma_kernel(SdpaBackwardArgs<bf16> a) {
#if FLARE_HAS_WGMMA
  constexpr int BQ = kWgmmaBackwardStep, BK = kWgmmaBackwardTile, kTile = 128 * 64;  // elements
  bf16* k_tile = reinterpret_cast<bf16*>(dynamic_shared());
  bf16 *ds_tiles = k_tile + kTile, *stages = ds_tiles + 4 * kTile;  // dS: [step % 2][half of the queries][key][64 queries]
  float2* stat_stages = reinterpret_cast<float2*>(stages + 6 * kTile);
  __shared__ int shared_ticket;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;

  if (threadIdx.x == 0) shared_ticket = atomicAdd(a.ticket, 1);
  __syncthreads();
  int64_t rest = shared_ticket;
  const int64_t bh = rest % a.n_bh, b = bh / a.plan.H, h = bh % a.plan.H;
  rest /= a.n_bh;
  const int64_t group = rest % a.n_groups, place = rest / a.n_groups;
  const int64_t per_group = (a.plan.n_tiles + a.n_groups - 1) / a.n_groups, tile = group * per_group + place;
  if (place >= per_group || tile >= a.plan.n_tiles) return;
  const int64_t first_key = tile * BK;
  const bool partial = first_key + BK > a.n_key;
  const int n_blocks = static_cast<int>(a.n_blocks), my_turn = static_cast<int>(place);
  int* turn = a.turn + (group * a.n_bh + bh) * a.n_blocks;
  float* dq_to = a.dq_part + (group * a.n_bh + bh) * a.n_blocks * (BQ * 64) + warp * 1024 + lane * 4;
  const float2* stats_from = reinterpret_cast<const float2*>(a.stats) + bh * a.n_blocks * BQ;

  const auto start_copy = [&](int block, int stage) {
    if (block < n_blocks) {
      bf16* p = stages + stage * 2 * kTile;
      const int64_t first = static_cast<int64_t>(block) * BQ;
      load_tile_async<64, BQ, 1, 256>(p, a.query, b, h, first, a.n_query, a.D, nullptr);
      load_tile_async<64, BQ, 1, 256>(p + kTile, a.grad, b, h, first, a.n_query, a.D, nullptr);
      if (threadIdx.x < BQ / 2)
        copy_async_16(stat_stages + stage * BQ + threadIdx.x * 2, stats_from + first + threadIdx.x * 2, true);
    }
    copy_async_commit();
  };
  bf16* v_tile = stages + 4 * kTile;
  load_tile_async<64, BK, 1, 256>(k_tile, a.key, b, h, first_key, a.n_key, a.D, nullptr);
  load_tile_async<64, BK, 1, 256>(v_tile, a.value, b, h, first_key, a.n_key, a.D, nullptr);
  start_copy(0, 0);
  start_copy(1, 1);
  copy_async_wait<1>();
  fence_for_wgmma();
  __syncthreads();
  const bf16* own_keys = k_tile + warp / 4 * 64 * 64;
  uint32_t values[4][4], weights[4][4], ds[4][4];
#pragma unroll
  for (int k = 0; k < 4; ++k) load_a<64>(values[k], v_tile, warp * 16, 2 * k, lane);
  float dk[32], dv[32], s[32], dp[32];
#pragma unroll
  for (int i = 0; i < 32; ++i) dk[i] = dv[i] = 0;

  const auto start_scores = [&](const bf16* q_tile) {  // 64 queries, and their gradients 128 rows on
    wgmma_fence();
    wgmma_64x64_shared<false, false>(s, matrix_descriptor(own_keys), matrix_descriptor(q_tile));
#pragma unroll
    for (int k = 1; k < 4; ++k)
      wgmma_64x64_shared<true, false>(s, matrix_descriptor(own_keys + 16 * k), matrix_descriptor(q_tile + 16 * k));
    wgmma_commit();
    wgmma_64x64<false, false>(dp, values[0], matrix_descriptor(q_tile + kTile));
#pragma unroll
    for (int k = 1; k < 4; ++k) wgmma_64x64<true, false>(dp, values[k], matrix_descriptor(q_tile + kTile + 16 * k));
    wgmma_commit();
  };
  // From the scores, with g.v perhaps still in flight, to dv and dk in flight.
  const auto take_half = [&](const bf16* q_tile, const float2* stats, bf16* ds_tile) {
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float lse0 = stats[8 * n + 2 * t].x, lse1 = stats[8 * n + 2 * t + 1].x;
#pragma unroll
      for (int e = 0; e < 4; ++e) s[4 * n + e] = exp2_approx(fmaf(s[4 * n + e], a.factor, e & 1 ? -lse1 : -lse0));
    }
    if (partial) {  // keys past the end weigh nothing
#pragma unroll
      for (int i = 0; i < 32; ++i)
        if (first_key + warp * 16 + (i / 2 % 2) * 8 + g >= a.n_key) s[i] = 0;
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) weights[k][i] = pack_bf16(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_64x64<true, true>(dv, weights[k], matrix_descriptor(q_tile + kTile + 16 * 64 * k));
    wgmma_commit();
    wgmma_wait<1>();
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float delta0 = stats[8 * n + 2 * t].y, delta1 = stats[8 * n + 2 * t + 1].y;
#pragma unroll
      for (int e = 0; e < 4; ++e) dp[4 * n + e] = s[4 * n + e] * (dp[4 * n + e] - (e & 1 ? delta1 : delta0));
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        ds[k][i] = pack_bf16(dp[8 * k + 2 * i], dp[8 * k + 2 * i + 1]);
        *reinterpret_cast<uint32_t*>(ds_tile + tile_offset<64>(warp * 16 + (i & 1) * 8 + g, 2 * k + i / 2) + 2 * t) = ds[k][i];
      }
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_64x64<true, true>(dk, ds[k], matrix_descriptor(q_tile + 16 * 64 * k));
    wgmma_commit();
  };

  start_scores(stages);
  wgmma_wait<0>();
  int stage = 0;
#pragma unroll 1
  for (int block = 0; block < n_blocks; ++block) {
    const int stage1 = stage == 2 ? 0 : stage + 1, stage2 = stage1 == 2 ? 0 : stage1 + 1;
    const bf16* q_tile = stages + stage * 2 * kTile;
    const float2* stats = stat_stages + stage * BQ;
    bf16* ds_tile = ds_tiles + (block & 1) * 2 * kTile;
    take_half(q_tile, stats, ds_tile);
    start_scores(q_tile + 64 * 64);
    int seen = my_turn;
    if (threadIdx.x == 0 && my_turn != 0) seen = load_acquire(turn + block);
    wgmma_wait<1>();
    take_half(q_tile + 64 * 64, stats + 64, ds_tile + kTile);
    copy_async_wait<0>();
    fence_for_wgmma();
    while (seen != my_turn) seen = load_acquire(turn + block);
    // Everybody's dS and the next stage are there, everybody's reads of the last stage and of the other dS are done, and the turn
    // has come.
    __syncthreads();
    start_copy(block + 2, stage2);
    float dq[32];
    wgmma_fence();
    const bf16* ds_half = ds_tile + warp / 4 * kTile;
    wgmma_64x64_shared<false, true>(dq, matrix_descriptor(ds_half), matrix_descriptor(k_tile));
#pragma unroll
    for (int k = 1; k < 8; ++k)
      wgmma_64x64_shared<true, true>(dq, matrix_descriptor(ds_half + 16 * 64 * k), matrix_descriptor(k_tile + 16 * 64 * k));
    wgmma_commit();
    start_scores(stages + stage1 * 2 * kTile);  // after the last block: of old rows, never used
    if (threadIdx.x == 0 && block != 0) store_release(turn + block - 1, my_turn + 1);
    wgmma_wait<2>();
    float* to = dq_to + static_cast<int64_t>(block) * (BQ * 64);
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      const float x[4] = {dq[4 * n], dq[4 * n + 1], dq[4 * n + 2], dq[4 * n + 3]};
      if (my_turn == 0)
        *reinterpret_cast<float4*>(to + n * 128) = make_float4(x[0], x[1], x[2], x[3]);
      else
        reduce_add4(to + n * 128, x);
    }
    wgmma_wait<0>();  // nothing stays in flight from one turn of the loop to the next: the compiler could not follow it
    stage = stage1;
  }
  __syncthreads();
  if (threadIdx.x == 0) store_release(turn + n_blocks - 1, my_turn + 1);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t i = first_key + warp * 16 + r * 8 + g;
    uint32_t k_pairs[8], v_pairs[8];
#pragma unroll
    for (int n = 0; n < 8; ++n) {
      k_pairs[n] = pack_bf16(a.scale * dk[4 * n + 2 * r], a.scale * dk[4 * n + 2 * r + 1]);
      v_pairs[n] = pack_bf16(dv[4 * n + 2 * r], dv[4 * n + 2 * r + 1]);
    }
    store_row64(a.dk.at(b, h, i), a.D, k_pairs, t, i < a.n_key);
    store_row64(a.dv.at(b, h, i), a.D, v_pairs, t, i < a.n_key);
  }
#endif
}

}  // namespace flare
