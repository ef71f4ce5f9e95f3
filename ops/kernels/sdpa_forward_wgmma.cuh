#pragma once
/// Softmax attention of width 64 in bf16 on the warpgroup units of sm_90a.
#include "ops/kernels/sdpa_forward.cuh"
#include "ops/kernels/sdpa_wgmma.h"
#include "ops/kernels/wgmma.cuh"

namespace flare {

inline constexpr int kWgmmaKeys = 128, kWgmmaStages = 3;
/// Stages of 128 keys and values; the queries pass through the last one first.
inline constexpr int kSdpaForwardWgmmaBytes = kWgmmaStages * 2 * kWgmmaKeys * 128;

/// A warp's part of 64 queries: 16 rows, of which a thread has two. Accumulators may be in flight.
struct ForwardStream {
  uint32_t q[4][4], weights[4][4];
  float s[32], acc[32], sum[2], origin[2];
};

/// Starts the origins at the maximum of the first step, of whose 64 keys `rest` exist.
__device__ __forceinline__ void first_origin(ForwardStream& x, int rest, float factor, int t) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float top = __int_as_float(0xff800000);
#pragma unroll
    for (int n = 0; n < 8; ++n)
#pragma unroll
      for (int e = 0; e < 2; ++e)
        if (8 * n + 2 * t + e < rest) top = fmaxf(top, factor * x.s[4 * n + 2 * r + e]);
    top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
    x.origin[r] = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
  }
}

/// The weights of one step of 64 keys, of which the first `rest` exist, from the scores in x.s. See sdpa_forward_kernel.
__device__ __forceinline__ void take_step(ForwardStream& x, const bf16* keys, int rest, float factor, int lane) {
  const int t = lane % 4;
  float added[2] = {0, 0};
#pragma unroll
  for (int i = 0; i < 32; ++i) {
    const float w = exp2_approx(fmaf(x.s[i], factor, -x.origin[i / 2 % 2]));
    x.s[i] = w, added[i / 2 % 2] += w;
  }
  const bool good = rest >= 64 && added[0] <= kOriginLimit && added[1] <= kOriginLimit;
  // Warps decide alone; the scores come again from the warp's own products.
  if (__any_sync(0xffffffffu, !good)) {
    wgmma_wait<0>();
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      float c[2][4] = {};
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        uint32_t f[1][4];
        load_b<64>(f[0], keys, n * 16, 2 * k, lane);
        mma_bf16_k16(c[0], x.q[k], f[0][0], f[0][1], c[0]);
        mma_bf16_k16(c[1], x.q[k], f[0][2], f[0][3], c[1]);
      }
#pragma unroll
      for (int e = 0; e < 8; ++e) x.s[8 * n + e] = c[e / 4][e % 4];
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = x.origin[r];
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (8 * n + 2 * t + e < rest) top = fmaxf(top, factor * x.s[4 * n + 2 * r + e]);
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
      const float shrink = top == __int_as_float(0xff800000) ? 1.0f : exp2_approx(x.origin[r] - top);
      x.origin[r] = top, x.sum[r] *= shrink, added[r] = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          const int i = 4 * n + 2 * r + e;
          x.acc[i] *= shrink;
          x.s[i] = 8 * n + 2 * t + e < rest ? exp2_approx(fmaf(x.s[i], factor, -top)) : 0.0f;
          added[r] += x.s[i];
        }
    }
  }
  x.sum[0] += added[0], x.sum[1] += added[1];
#pragma unroll
  for (int k = 0; k < 4; ++k)
#pragma unroll
    for (int i = 0; i < 4; ++i) x.weights[k][i] = pack_bf16(x.s[8 * k + 2 * i], x.s[8 * k + 2 * i + 1]);
}

/// Grid: (b, h, tile of 256 queries). 2 warpgroups with two streams of 64 queries each: while a stream's exponentials are computed,
/// the products of the other run. Per step of 64 keys a stream waits for its scores, makes the weights, and starts the sum over the
/// values and the scores of the next step. Tiles of 128 keys and values in three stages of asynchronous copies, one barrier a tile.
/// Queries, weights and sums stay in registers. Origins as in sdpa_forward_kernel. No masks.
__global__ void __launch_bounds__(256, 1) sdpa_forward_wgmma_kernel(SdpaForwardArgs<bf16> a) {
#if FLARE_HAS_WGMMA
  constexpr int kTile = kWgmmaKeys * 64, kStage = 2 * kTile;
  bf16* shared = reinterpret_cast<bf16*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const int64_t tile = blockIdx.x % a.plan.n_tiles, bh = blockIdx.x / a.plan.n_tiles, b = bh / a.plan.H, h = bh % a.plan.H;

  const auto start_copy = [&](int64_t first, int stage) {
    if (first < a.n_key) {
      load_tile_async<64, kWgmmaKeys, 1, 256>(shared + stage * kStage, a.key, b, h, first, a.n_key, a.D, nullptr);
      load_tile_async<64, kWgmmaKeys, 1, 256>(shared + stage * kStage + kTile, a.value, b, h, first, a.n_key, a.D, nullptr);
    }
    copy_async_commit();
  };
  bf16* q_tile = shared + 2 * kStage;
  load_tile_async<64, kWgmmaForwardTile, 1, 256>(q_tile, a.query, b, h, tile * kWgmmaForwardTile, a.n_query, a.D, nullptr);
  start_copy(0, 0);
  start_copy(kWgmmaKeys, 1);
  copy_async_wait<1>();
  fence_for_wgmma();
  __syncthreads();
  ForwardStream x, y;  // queries warp * 16 to + 15, and 128 more
  const auto prepare = [&](ForwardStream& z, int row0) {
#pragma unroll
    for (int k = 0; k < 4; ++k) load_a<64>(z.q[k], q_tile, row0, 2 * k, lane);
#pragma unroll
    for (int i = 0; i < 32; ++i) z.acc[i] = 0;
    z.sum[0] = z.sum[1] = 0;
  };
  prepare(x, warp * 16);
  prepare(y, warp * 16 + 128);
  const auto scores = [&](ForwardStream& z, const bf16* keys) {
    wgmma_64x64<false, false>(z.s, z.q[0], matrix_descriptor(keys));
#pragma unroll
    for (int k = 1; k < 4; ++k) wgmma_64x64<true, false>(z.s, z.q[k], matrix_descriptor(keys + 16 * k));
  };
  const auto add_values = [&](ForwardStream& z, const bf16* values) {
#pragma unroll
    for (int k = 0; k < 4; ++k) wgmma_64x64<true, true>(z.acc, z.weights[k], matrix_descriptor(values + 16 * 64 * k));
  };
  wgmma_fence();
  scores(x, shared);
  scores(y, shared);
  wgmma_commit();
  wgmma_wait<0>();
  const int at_first = static_cast<int>(min(int64_t{64}, a.n_key));
  first_origin(x, at_first, a.factor, t);
  first_origin(y, at_first, a.factor, t);

  const int n_steps = static_cast<int>((a.n_key + 63) / 64);
  const bf16 *keys = shared, *next = shared;
  for (int step = 0; step < n_steps; ++step) {
    if (step % 2 == 0) {  // a new tile: the one after it must have come; the one after that goes where the last was
      copy_async_wait<0>();
      fence_for_wgmma();
      __syncthreads();
      start_copy((static_cast<int64_t>(step) / 2 + 2) * kWgmmaKeys, (step / 2 + 2) % kWgmmaStages);
      next = keys + 64 * 64;
    } else {
      next = shared + (step / 2 + 1) % kWgmmaStages * kStage;
    }
    const int rest = static_cast<int>(min(int64_t{64}, a.n_key - int64_t{64} * step));
    // Here the scores of x are there. Nothing stays in flight from one turn of the loop to the next: the compiler could not follow
    // it.
    wgmma_fence();
    scores(y, keys);
    wgmma_commit();
    take_step(x, keys, rest, a.factor, lane);
    wgmma_fence();
    add_values(x, keys + kTile);
    wgmma_commit();
    scores(x, next);
    wgmma_commit();
    wgmma_wait<2>();
    take_step(y, keys, rest, a.factor, lane);
    wgmma_fence();
    add_values(y, keys + kTile);
    wgmma_commit();
    wgmma_wait<0>();
    keys = next;
  }

  const auto finish = [&](const ForwardStream& z, int row0) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = z.sum[r];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const int64_t i = tile * kWgmmaForwardTile + row0 + r * 8 + g;
      const bool live = i < a.n_query;
      const float weight = total != 0 ? 1.0f / total : 0.0f;
      uint32_t pairs[8], rests[8];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        const float o0 = z.acc[4 * n + 2 * r] * weight, o1 = z.acc[4 * n + 2 * r + 1] * weight;
        pairs[n] = pack_bf16(o0, o1);
        rests[n] = pack_bf16(o0 - bf16_low(pairs[n]), o1 - bf16_high(pairs[n]));
      }
      store_row64(a.out.at(b, h, i), a.D, pairs, t, live);
      if (a.rest) store_row64(a.rest + (bh * a.n_query + i) * a.D, a.D, rests, t, live);
      if (live && t == 0) store_query(a, bh * a.n_query + i, z.origin[r], total);
    }
  };
  finish(x, warp * 16);
  finish(y, warp * 16 + 128);
#endif
}

}  // namespace flare
