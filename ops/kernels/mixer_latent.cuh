#pragma once
/// The passes of the mixer that own latents: encode (F1), the gradient of the latents (B1) and the gradient of the queries (the
/// half of B2 that sums over tokens). Formulas: ops/kernels/flare_mixer.h.
///
/// Grid: (h and block of latents, chunk of tokens, b), h fastest, so that blocks running together read neighbouring columns of the
/// same rows. 8 warps: warps_m of them side by side over the latents, MT*16 each, the others over the tokens. Tiles of kTokens
/// tokens pass through kStages stages of shared memory by asynchronous copies; a warp takes 16 tokens at a time. A warp owns its
/// latents' queries and weighted sums in registers; warps over the same latents are merged in shared memory at the end, blocks over
/// the same latents by mixer_merge.cuh. Reads each token row once per block of latents, writes (D + 2) floats per latent and
/// chunk.
#include "ops/kernels/mixer_latent_steps.cuh"

namespace flare {

/// The block's work. Without kSlow every score is taken for safe, and the answer is false, with nothing written, where a key
/// disproves it.
template <Math X, int DP, LatentPass P, int kPoly, bool kSlow>
__device__ __forceinline__ bool latent_block(const LatentArgs<X>& a) {
  using Tile = LatentTile<X, DP, P>;
  constexpr int MT = kLatentTiles<X, DP, P>, J = DP / 8;
  extern __shared__ __align__(16) unsigned char shared[];
  Tile* tiles = reinterpret_cast<Tile*>(shared);
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  const int warps_t = kLatentThreads / 32 / a.warps_m, wm = warp % a.warps_m, wt = warp / a.warps_m;
  const auto heads = static_cast<unsigned>(a.H);  // dividing 64-bit numbers takes ten times as long
  const int h = static_cast<int>(blockIdx.x % heads), block_m = static_cast<int>(blockIdx.x / heads);
  const int chunk = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int64_t bh = b * a.H + h;
  const int m0 = (block_m * a.warps_m + wm) * (MT * 16), M = static_cast<int>(a.M);

  TokenSource<X> src{a.k.at(b, h, 0),
                     nullptr,
                     nullptr,
                     a.mask ? a.mask + b * a.N : nullptr,
                     nullptr,
                     nullptr,
                     nullptr,
                     static_cast<int>(a.k.row),
                     0,
                     0,
                     static_cast<int>(a.N)};
  if constexpr (P == LatentPass::encode) {
    src.first = a.v.at(b, h, 0), src.first_row = static_cast<int>(a.v.row);
  } else {
    src.first = a.g.at(b, h, 0), src.first_row = static_cast<int>(a.g.row), src.lse = a.lse_decode + bh * a.N;
    if constexpr (kHasRest<X>) src.rest = a.rest_decode + bh * a.N;
  }
  if constexpr (P == LatentPass::dq)
    src.second = a.v.at(b, h, 0), src.second_row = static_cast<int>(a.v.row), src.delta = a.delta + bh * a.N;
  // The blocks of a head take turns, tile by tile, so that all that runs at a time lies close together in memory.
  const int all_tiles = (src.count + a.tile_rows - 1) / a.tile_rows, n_tiles = (all_tiles - chunk + a.n_chunks - 1) / a.n_chunks;
  const int stride = a.n_chunks * a.tile_rows, first_row = chunk * a.tile_rows;

  Rows16<X, DP> q[MT];
  [[maybe_unused]] Rows16<X, DP> z[P == LatentPass::dq ? MT : 1], dz[P == LatentPass::dq ? MT : 1];
  float acc[MT][J][4], sum[MT][4], origin[MT][2], norm = 0;  // dq: sum[i] = -eps, -eps of row g, then g + 8; origin = lse
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int m = m0 + 16 * i + 8 * half + g;
      float x[DP / 4], size = 0;
      load_latent<X, DP>(x, a.q + b * a.q_batch + h * a.M * a.D, m, M, a.D, t, a.scale * kLog2e);
#pragma unroll
      for (int e = 0; e < DP / 4; ++e) size = fmaf(x[e], x[e], size);
      norm = fmaxf(norm, sqrtf(quad_sum(size)));
      pack_row(q[i], half, x);
      if constexpr (P == LatentPass::dq) {
        float y[DP / 4], eps = 0;
        load_latent<X, DP>(x, a.z + bh * a.M * a.D, m, M, a.D, t, 1.0f),
            load_latent<X, DP>(y, a.dz + bh * a.M * a.D, m, M, a.D, t, 1.0f);
#pragma unroll
        for (int e = 0; e < DP / 4; ++e) eps = fmaf(x[e], y[e], eps);
        const float lse = m < M ? in_base_2(a.lse_encode[bh * a.M + m]) : 0.0f;
        float f = kHasRest<X> && m < M ? 1.0f / a.rest_encode[bh * a.M + m] : 1.0f;  // 2^-lse is 2^-rounded / rest
        if constexpr (!kSlow) f *= exp2_unit(-lse);
#pragma unroll
        for (int e = 0; e < DP / 4; ++e) y[e] *= f;
        pack_row(z[i], half, x), pack_row(dz[i], half, y);
        sum[i][2 * half] = sum[i][2 * half + 1] = -f * quad_sum(eps);
        origin[i][half] = lse;
      }
    }
  const uint32_t nothing = static_cast<uint32_t>(a.D) >> 16, one = a.one;
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    q[i].settle(nothing);
    if constexpr (P == LatentPass::dq) z[i].settle(nothing), dz[i].settle(nothing);
  }
  // |q.k| <= |q| |k|: below this bound on |k| every score is a safe exponent.
  const float limit = a.safe / fmaxf(warp_max_of(norm), 1e-30f);
  LargestRow<X> keys;
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    if constexpr (P != LatentPass::dq) {
      origin[i][0] = origin[i][1] = kSlow ? minus_infinity() : 0.0f;
#pragma unroll
      for (int e = 0; e < 4; ++e) sum[i][e] = 0;
    }
#pragma unroll
    for (int j = 0; j < J; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[i][j][e] = 0;
  }
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < n_tiles) fill_tile(tiles[s], src, first_row + s * stride, a.tile_rows, a.D);
    copy_async_commit();
  }
  int stage = 0;
#pragma unroll 1
  for (int index = 0; index < n_tiles; ++index) {
    copy_async_wait<kStages - 2>();
    if constexpr (P == LatentPass::dq || kSlow) {
      __syncthreads();
    } else if (__syncthreads_or(!(keys.bound() <= limit))) {
      copy_async_wait<0>();
      __syncthreads();
      return false;
    }
    const int into = stage == 0 ? kStages - 1 : stage - 1;
    if (index + kStages - 1 < n_tiles) fill_tile(tiles[into], src, first_row + (index + kStages - 1) * stride, a.tile_rows, a.D);
    copy_async_commit();
    const Tile& tile = tiles[stage];
    stage = stage == kStages - 1 ? 0 : stage + 1;
    const int r0 = first_row + index * stride, count = min(a.tile_rows, src.count - r0);
    const auto columns = [&](int r, Cols8<X, DP>(&k)[2]) {
      read_row<X, DP>(k[0].r, tile.k + (r + g) * Tile::kKeyStride, t),
          read_row<X, DP>(k[1].r, tile.k + (r + 8 + g) * Tile::kKeyStride, t);
      if constexpr (P != LatentPass::dq) keys.see(k[0].r), keys.see(k[1].r);
      split_cols<true>(k[0]), split_cols<true>(k[1]);
    };
    const auto values = [&](int r, Values8<X>(&u)[J], bool split) {
      load_values<X, DP, Tile::kOtherStride>(u, tile.first + r * Tile::kOtherStride, lane);
#pragma unroll
      for (int j = 0; j < J; ++j)
        if (split) split_values(u[j]);
    };
    const auto minus_lse = [&](int r, float(&init)[2][4]) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const float2 l = *reinterpret_cast<const float2*>(tile.lse + r + 8 * c + 2 * t);
        init[c][0] = init[c][2] = -in_base_2(l.x), init[c][1] = init[c][3] = -in_base_2(l.y);
      }
    };
    if constexpr (P == LatentPass::dq) {
#pragma unroll 1
      for (int r = 16 * wt; r < count; r += 16 * warps_t) {
        Cols8<X, DP> k[2];
        columns(r, k);
        dq_step<X, DP, MT, kPoly, kSlow>(acc, q, z, dz, sum, origin, k, tile, a.dropout, bh, m0, r0, r, one, lane);
      }
    } else if constexpr (!kSlow) {
#pragma unroll 1
      for (int r = 16 * wt; r < count; r += 16 * warps_t) {
        Cols8<X, DP> k[2];
        Values8<X> u[J];
        columns(r, k);
        values(r, u, P == LatentPass::encode);
        if constexpr (P == LatentPass::encode) {
          encode_step<X, DP, MT, kPoly>(acc, sum, q, k, u, tile.live + r, one, t);
        } else {
          float init[2][4];
          minus_lse(r, init);
          dz_step<X, DP, MT, kPoly>(acc, q, k, u, init, tile.rest + r, one, t);
        }
      }
    } else {
#pragma unroll 1
      for (int r = 16 * wt; r < count; r += 16 * warps_t) {
        Cols8<X, DP> k[2];
        Values8<X> u[J];
        columns(r, k);
        values(r, u, true);
        if constexpr (P == LatentPass::encode) {
          encode_step_slow<X, DP, MT>(acc, sum, origin, q, k, u, tile.live + r, a.dropout, bh, m0, r0 + r, lane);
        } else {
          float init[2][4];
          minus_lse(r, init);
          dz_step_slow<X, DP, MT>(acc, q, k, u, init, tile.rest + r, a.dropout, bh, m0, r0 + r, lane);
        }
      }
    }
  }
  copy_async_wait<0>();
  if (__syncthreads_or(P != LatentPass::dq && !kSlow && !(keys.bound() <= limit))) return false;

  // Warps over the same latents add up in the order of the warps.
  constexpr int kWidth = DP + 2;
  float* merge = reinterpret_cast<float*>(shared);
  const int rows = a.warps_m * MT * 16;
#pragma unroll
  for (int i = 0; i < MT; ++i)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float* row = merge + (wt * rows + (wm * MT + i) * 16 + 8 * half + g) * kWidth;
#pragma unroll
      for (int j = 0; j < J; ++j) row[8 * j + 2 * t] = acc[i][j][2 * half], row[8 * j + 2 * t + 1] = acc[i][j][2 * half + 1];
      if constexpr (P == LatentPass::encode) {
        const float own = X == Math::bf16 ? sum[i][2 * half] : quad_sum(sum[i][2 * half]);
        if (t == 0) row[DP] = origin[i][half], row[DP + 1] = own;
      }
    }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.x); i < rows * DP; i += kLatentThreads) {
    const int r = i / DP, d = i % DP, m = block_m * rows + r;
    if (m >= M || d >= a.D) continue;
    const int64_t part_row = (bh * a.n_chunks + chunk) * a.M + m;
    float total = 0;
    if constexpr (P == LatentPass::encode) {
      float top = minus_infinity(), weights = 0;
      for (int w = 0; w < warps_t; ++w) top = fmaxf(top, merge[(w * rows + r) * kWidth + DP]);
      const float from = top == minus_infinity() ? 0.0f : top;
      for (int w = 0; w < warps_t; ++w) {
        const float* row = merge + (w * rows + r) * kWidth;
        const float shrink = kSlow ? exp2f(row[DP] - from) : 1.0f;
        total = fmaf(shrink, row[d], total), weights = fmaf(shrink, row[DP + 1], weights);
      }
      if (a.part_stats) {
        if (d == 0) a.part_stats[2 * part_row] = weights > 0 ? from : minus_infinity(), a.part_stats[2 * part_row + 1] = weights;
      } else {
        total = weights > 0 ? total / weights : 0.0f;
        if (d == 0) store_lse<X>(a.lse_out, a.rest_out, part_row, from, weights);
      }
    } else {
      for (int w = 0; w < warps_t; ++w) total += merge[(w * rows + r) * kWidth + d];
    }
    a.part[part_row * a.D + d] = total;
  }
  if constexpr (P != LatentPass::dq) {
    __syncthreads();
    const float bound = warp_max_of(keys.bound()) * warp_max_of(norm);
    if (lane == 0) merge[warp] = bound;
    __syncthreads();
    if (warp == 0) {
      const float top = warp_max_of(merge[lane % (kLatentThreads / 32)]);
      if (lane == 0) a.part_bound[(bh * a.n_chunks + chunk) * a.n_blocks_m + block_m] = top;
    }
  }
  return true;
}
/// A call, so that the rare case does not take registers from the common one.
template <Math X, int DP, LatentPass P> __device__ __noinline__ void latent_block_slow(const LatentArgs<X>& a) {
  latent_block<X, DP, P, 0, true>(a);
}
template <Math X, int DP, LatentPass P, int kPoly>
__global__ void __launch_bounds__(kLatentThreads, kLatentBlocks<X, DP, P>)
    latent_pass_kernel(const __grid_constant__ LatentArgs<X> a) {
  after_previous();
  if constexpr (P == LatentPass::dq) {
    const int64_t bh = blockIdx.z * a.H + blockIdx.x % static_cast<unsigned>(a.H);
    if (all_safe(a.part_bound + bh * a.n_bounds, a.n_bounds, a.safe, a.dropout.on()))
      latent_block<X, DP, P, kPoly, false>(a);
    else
      latent_block_slow<X, DP, P>(a);
  } else {
    if (a.dropout.on() || !latent_block<X, DP, P, kPoly, false>(a)) latent_block_slow<X, DP, P>(a);
  }
}

}  // namespace flare
