#pragma once
/// The pass of the mixer that gives the gradients of keys and values (B2), with that of the queries where there is room for its
/// sums. Formulas: ops/kernels/flare_mixer.h; how a block walks over its tokens: mixer_token_steps.cuh.
#include "ops/kernels/mixer_token_steps.cuh"

namespace flare {

/// dk, dv and, for dkv_dq, this block's part of dq. With lse and lse' of the encode and decode rows, all in powers of two:
///   P = 2^(s - lse'),  A = 2^(s - lse),  W = P (g.z - delta) + A (v.dz - eps),  dk += W q,  dv += A dz,  dq += W^T k.
/// Where every score is safe, one exponential serves both: with E = 2^s, g' = g 2^-lse', dz' = dz 2^-lse and so on,
///   W = E (g'.z + v.dz' - delta' - eps'),  A dz = E dz'.
/// What comes before after_previous() reads what was there before the tables were made: rows, statistics and bounds.
template <Math X, int DP, TokenPass P, int kPoly, bool kFast> __device__ __forceinline__ void dkv_block(const TokenArgs<X>& a) {
  constexpr int NT = kTokenTiles<X, DP, P>, J = DP / 8, W = kWords<X, DP>, kTable = 32 * kTableWords<X, DP>;
  constexpr bool kDq = P == TokenPass::dkv_dq;
  static_assert(!kDq || kTurns<X, DP>);
  const int warps = static_cast<int>(blockDim.x / 32), group_rows = warps * NT * 16;
  extern __shared__ __align__(16) uint32_t tables[];
  const int room = a.table_latents / 16, size = room * kTable;
  constexpr int kStage = kRingStage<X, DP, 4, NT * 16> / 4, kRows = NT * 16 * DP;  // words; elements of one array
  uint32_t *q_table = tables + warps * kStage, *q_values = q_table + size, *z_table = q_table + 2 * size;
  uint32_t *dz_table = q_table + 3 * size, *dz_values = q_table + 4 * size;
  float2* stats = reinterpret_cast<float2*>(q_table + 5 * size);    // general: lse, eps; fast: bits of -eps' in two parts
  float4* dq = reinterpret_cast<float4*>(stats + a.table_latents);  // [warp][step][j][lane]
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  const int h = static_cast<int>(blockIdx.x), chunk = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int64_t bh = b * a.H + h;
  const int count = static_cast<int>(a.N), first_group = chunk * group_rows, stride = a.n_chunks * group_rows;
  __shared__ HeadPointers heads;
  if (threadIdx.x == 0) {
    heads.k = a.k.at(b, h, 0), heads.v = a.v.at(b, h, 0), heads.g = a.g.at(b, h, 0), heads.y = a.y.at(b, h, 0);
    heads.dk = a.dk.at(b, h, 0), heads.dv = a.dv.at(b, h, 0);
  }
  __syncthreads();
  const auto k_rows = [&] { return head_rows<const Token<X>>(heads.k, a.k.row); };
  const auto v_rows = [&] { return head_rows<const Token<X>>(heads.v, a.v.row); };
  const auto g_rows = [&] { return head_rows<const Token<X>>(heads.g, a.g.row); };
  const auto y_rows = [&] { return head_rows<const Token<X>>(heads.y, a.y.row); };
  const uint8_t* mask = a.mask ? a.mask + b * a.N : nullptr;
  const float* lse_rows = a.lse_decode + bh * a.N;
  const uint32_t nothing = static_cast<uint32_t>(a.D) >> 16, one = a.one;
  const int latents = static_cast<int>(a.last - a.first), range_steps = (latents + 15) / 16;
  const bool once = a.table_latents >= latents, add = X != Math::bf16 && a.first > 0;
  const int all_steps = static_cast<int>((a.M + 15) / 16);
  if constexpr (kDq) {
    for (int i = static_cast<int>(threadIdx.x); i < warps * range_steps * J * 32; i += 32 * warps) dq[i] = make_float4(0, 0, 0, 0);
  }

  Token<X>* ring = reinterpret_cast<Token<X>*>(tables + warp * kStage);
  [[maybe_unused]] float* ring_lse = reinterpret_cast<float*>(ring + 4 * kRows);
  uint32_t live[(NT * 16 + 31) / 32], live_next[(NT * 16 + 31) / 32];
  const auto fill = [&](int n) {
    const auto k = k_rows(), v = v_rows(), grad = g_rows(), y = y_rows();  // all at once: each read waits
    if constexpr (kRing<X, DP>) {
      fill_rows<X, DP, NT * 16>(ring, k, n, live_next, a.D, lane);
      fill_rows<X, DP, NT * 16>(ring + kRows, v, n, live_next, a.D, lane);
      fill_rows<X, DP, NT * 16>(ring + 2 * kRows, grad, n, live_next, a.D, lane);
      fill_rows<X, DP, NT * 16>(ring + 3 * kRows, y, n, live_next, a.D, lane);
      if (lane < NT * 16) copy_async_4(ring_lse + lane, lse_rows + (n + lane < count ? n + lane : 0), n + lane < count);
    } else {
      prefetch_rows<const Token<X>, DP>(k, n, count, a.D, lane), prefetch_rows<const Token<X>, DP>(v, n, count, a.D, lane);
      prefetch_rows<const Token<X>, DP>(grad, n, count, a.D, lane), prefetch_rows<const Token<X>, DP>(y, n, count, a.D, lane);
    }
    copy_async_commit();
  };
  live_rows<NT * 16>(live_next, mask, first_group + warp * NT * 16, count, lane);
  fill(first_group + warp * NT * 16);
#pragma unroll 1
  for (int group = first_group; group < count; group += stride) {
    const int n0 = group + warp * NT * 16;
    Rows16<X, DP> k[NT], v[NT], grad[NT];
    [[maybe_unused]] Values8<X> k_values[kDq ? NT : 1][J];
    [[maybe_unused]] uint32_t extra[NT][2];  // fast: -delta' in two parts, 1, 1 in the first four columns of 8
    float dk[NT][J][4], dv[NT][J][4], lse[NT][2], delta[NT][2];
    const int first = n0 + g;
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
        const bool here = live[r / 32] >> (r % 32 + g) & 1;
        uint32_t k_words[W / 2], v_words[W / 2], g_words[W / 2], y_words[W / 2];
        if constexpr (kRing<X, DP>) {
          read_row<X, DP>(k_words, ring + (r + g) * DP, t), read_row<X, DP>(v_words, ring + kRows + (r + g) * DP, t);
          read_row<X, DP>(g_words, ring + 2 * kRows + (r + g) * DP, t),
              read_row<X, DP>(y_words, ring + 3 * kRows + (r + g) * DP, t);
        } else {
          const int n = first + r, column = t * kVec<X, DP>;
          load_token<X, DP>(k_words, k_rows().row(n) + column, here, a.D, t);
          load_token<X, DP>(v_words, v_rows().row(n) + column, here, a.D, t);
          load_token<X, DP>(g_words, g_rows().row(n) + column, here, a.D, t);
          load_token<X, DP>(y_words, y_rows().row(n) + column, here, a.D, t);
        }
        k[i].set_row(half, k_words), v[i].set_row(half, v_words), grad[i].set_row(half, g_words);
        lse[i][half] = in_base_2(kRing<X, DP> ? ring_lse[r + g] : here ? lse_rows[first + r] : 0.0f);  // 0 for padding
        float gx[DP / 4], yx[DP / 4], dot = 0;
        unpack_row<X, DP>(g_words, gx), unpack_row<X, DP>(y_words, yx);
#pragma unroll
        for (int e = 0; e < DP / 4; ++e) dot = fmaf(gx[e], yx[e], dot);
        delta[i][half] = quad_sum(dot);
        if (P == TokenPass::dkv && t == 0 && first + r < count) a.delta[bh * a.N + first + r] = delta[i][half];
        if constexpr (kHasRest<X>) {
          const float f = here ? 1.0f / a.rest_decode[bh * a.N + first + r] : 1.0f;  // see store_lse
#pragma unroll
          for (int e = 0; e < DP / 4; ++e) gx[e] *= f;
          delta[i][half] *= f;
          pack_row(grad[i], half, gx);
        }
        if constexpr (kFast) {
          const float shrink = exp2_unit(-lse[i][half]), d = -delta[i][half] * shrink, rounded = bf16_low(pack_bf16(d, 0.0f));
#pragma unroll
          for (int e = 0; e < DP / 4; ++e) gx[e] *= shrink;
          pack_row(grad[i], half, gx);
          delta[i][half] = d;
          extra[i][half] = t == 0 ? pack_bf16(d, d - rounded) : t == 1 ? 0x3f803f80u : 0u;
        }
      }
      k[i].settle(nothing), v[i].settle(nothing), grad[i].settle(nothing);
      if constexpr (kDq && X == Math::bf16) {
#pragma unroll
        for (int j = 0; j < J; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half) k_values[i][j].r[half] = transpose_8x8(k[i].word(half, j % (W / 2)));
      } else if constexpr (kDq) {
        if constexpr (kRing<X, DP>) {
          load_values<X, DP, DP>(k_values[i], ring + 16 * i * DP, lane);
        } else {
#pragma unroll
          for (int j = 0; j < J; ++j)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              const int r = 16 * i + e / 2 * 8 + 2 * t + e % 2, d = 8 * j + g;
              const bool here = (live[r / 32] >> (r % 32) & 1) && d < a.D;
              k_values[i][j].r[e] = here ? __float_as_uint(__ldg(k_rows().row(n0 + r) + d)) : 0u;
            }
        }
#pragma unroll
        for (int j = 0; j < J; ++j) split_values(k_values[i][j]);
      }
#pragma unroll
      for (int j = 0; j < J; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) dk[i][j][e] = dv[i][j][e] = 0;
    }
    __syncwarp();
    fill(n0 + stride);
    if (add) {
#pragma unroll
      for (int i = 0; i < NT; ++i) {
        prefetch_rows<Token<X>, DP>(head_rows<Token<X>>(heads.dk, a.dk.row), n0 + 16 * i, count, a.D, lane);
        prefetch_rows<Token<X>, DP>(head_rows<Token<X>>(heads.dv, a.dv.row), n0 + 16 * i, count, a.D, lane);
      }
    }
    for (int64_t m0 = a.first; m0 < a.last; m0 += a.table_latents) {
      const int steps = static_cast<int>((min(static_cast<int64_t>(a.table_latents), a.last - m0) + 15) / 16);
      if (!once || group == first_group) {
        if (group == first_group && m0 == a.first) after_previous();
        __syncthreads();
        copy_tables<X, DP, 5>(q_table, a.tables + bh * 5 * all_steps * kTable, all_steps, static_cast<int>(m0 / 16), steps, room);
        for (int i = 2 * static_cast<int>(threadIdx.x); i < 16 * steps; i += 2 * 32 * warps)
          copy_async_16(stats + i, a.stats + bh * 16 * all_steps + m0 + i, true);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
      }
      if (n0 >= count) continue;
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        Cols8<X, DP> q[2], z[2], dz[2];
        Values8<X> qv[J], dzv[J];
        read_cols<true>(q, q_table, step, lane), read_cols<false>(z, z_table, step, lane),
            read_cols<false>(dz, dz_table, step, lane);
        read_values<X, DP>(qv, q_values, step, lane), read_values<X, DP>(dzv, dz_values, step, lane);
        [[maybe_unused]] float part[J][4];
        if constexpr (kDq) {
#pragma unroll
          for (int j = 0; j < J; ++j) {
            const float4 x = dq[((warp * range_steps + step) * J + j) * 32 + lane];
            part[j][0] = x.x, part[j][1] = x.y, part[j][2] = x.z, part[j][3] = x.w;
          }
        }
        // `w` is W, x[c] its columns 8c .. 8c + 7 where it has not been packed.
        const auto finish = [&](int i, const Weights16<X>& w, const Weights16<X>& encode, float(&x)[2][4]) {
#pragma unroll
          for (int j = 0; j < J; ++j) add_weighted(dk[i][j], w, qv[j]), add_weighted(dv[i][j], encode, dzv[j]);
          if constexpr (kDq) {
            Weights16<X> turned;
            if constexpr (X == Math::bf16) {
              turned.r[0] = transpose_8x8(w.r[0]), turned.r[1] = transpose_8x8(w.r[2]);
              turned.r[2] = transpose_8x8(w.r[1]), turned.r[3] = transpose_8x8(w.r[3]);
            } else {
#pragma unroll
              for (int c = 0; c < 2; ++c) transpose_8x8(x[c][0], x[c][1]), transpose_8x8(x[c][2], x[c][3]);
              const float top[4] = {x[0][0], x[0][1], x[1][0], x[1][1]}, bottom[4] = {x[0][2], x[0][3], x[1][2], x[1][3]};
              set_weights(turned, top, bottom);
            }
#pragma unroll
            for (int j = 0; j < J; ++j) add_weighted(part[j], turned, k_values[i][j]);
          }
        };
        if constexpr (kFast) {
          [[maybe_unused]] uint32_t minus_eps_bits[2];
          [[maybe_unused]] float minus_eps[2][2];
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            if constexpr (X == Math::bf16) {
              const uint32_t bits = __float_as_uint(stats[16 * step + 8 * c + g].x);
              minus_eps_bits[c] = t == 0 ? 0x3f803f80u : t == 1 ? bits : 0u;
            } else {
              const float4 two = *reinterpret_cast<const float4*>(stats + 16 * step + 8 * c + 2 * t);
              minus_eps[c][0] = two.x, minus_eps[c][1] = two.z;
            }
          }
#pragma unroll
          for (int i = 0; i < NT; ++i) {
            Weights16<X> w, encode;
            float x[2][4];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              float s[4];
              scores<X, DP, true>(s, k[i], q[c]);
              if constexpr (X == Math::bf16) {
                const float zero[4] = {0, 0, 0, 0};
                mma_bf16_k8(x[c], extra[i][0], extra[i][1], minus_eps_bits[c], zero);
                scores<X, DP, true>(x[c], grad[i], z[c], x[c]), scores<X, DP, true>(x[c], v[i], dz[c], x[c]);
              } else {
                float y[4];
                const float minus_delta[4] = {delta[i][0], delta[i][0], delta[i][1], delta[i][1]};
                const float columns[4] = {minus_eps[c][0], minus_eps[c][1], minus_eps[c][0], minus_eps[c][1]};
                scores<X, DP, true, false>(x[c], grad[i], z[c], minus_delta), scores<X, DP, true, false>(y, v[i], dz[c], columns);
#pragma unroll
                for (int e = 0; e < 4; ++e) x[c][e] += y[e];
              }
              weigh<kPoly>(encode, w, c, s, x[c], one);
            }
            finish(i, w, encode, x);
          }
        }
        if constexpr (!kFast) {
#pragma unroll
          for (int i = 0; i < NT; ++i) {
            float w[2][4], kept[2][4];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              float s[4], x[4], y[4], decode_keep[4] = {1, 1, 1, 1}, encode_keep[4] = {1, 1, 1, 1};
              const float4 two = *reinterpret_cast<const float4*>(stats + 16 * step + 8 * c + 2 * t);
              scores<X, DP, true>(s, k[i], q[c]), scores<X, DP, true, false>(x, grad[i], z[c]),
                  scores<X, DP, true, false>(y, v[i], dz[c]);
              if (a.dropout.on()) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                  const int64_t m = m0 + 16 * step + 8 * c + 2 * t, n = n0 + 16 * i + 8 * half + g;
                  float keep[2];
                  token_keep(keep, a.dropout, bh, m, n, 0);
                  encode_keep[2 * half] = keep[0], encode_keep[2 * half + 1] = keep[1];
                  token_keep(keep, a.dropout, bh, m, n, 1);
                  decode_keep[2 * half] = keep[0], decode_keep[2 * half + 1] = keep[1];
                }
              }
#pragma unroll
              for (int e = 0; e < 4; ++e) {
                // A weight of a real token and a real latent is at most 1. Padding of either has score 0, which may lie far above
                // every real one: without the bound its weight would be infinite, and infinity times its row, 0, no number.
                const float p = exp2_unit(fminf(s[e] - lse[i][e / 2], 1.0f));
                const float encode = exp2_unit(fminf(s[e] - (e % 2 ? two.z : two.x), 1.0f));
                w[c][e] =
                    p * (x[e] * decode_keep[e] - delta[i][e / 2]) + encode * (y[e] * encode_keep[e] - (e % 2 ? two.w : two.y));
                kept[c][e] = encode * encode_keep[e];
              }
            }
            Weights16<X> weights, encode;
            set_weights(weights, w[0], w[1]), set_weights(encode, kept[0], kept[1]);
            finish(i, weights, encode, w);
          }
        }
        if constexpr (kDq) {
#pragma unroll
          for (int j = 0; j < J; ++j)
            dq[((warp * range_steps + step) * J + j) * 32 + lane] = make_float4(part[j][0], part[j][1], part[j][2], part[j][3]);
        }
      }
    }
    const auto dk_rows = head_rows<Token<X>>(heads.dk, a.dk.row), dv_rows = head_rows<Token<X>>(heads.dv, a.dv.row);
#pragma unroll
    for (int i = 0; i < NT; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 16 * i + 8 * half, n = first + r;
        if (n >= count) continue;
        const bool here = live[r / 32] >> (r % 32 + g) & 1;
        store_token<X, DP>(dk_rows.row(n), dk[i], half, 1.0f, here, a.D, t, add);
        store_token<X, DP>(dv_rows.row(n), dv[i], half, 1.0f, here, a.D, t, add);
      }
  }
  if constexpr (kDq) {
    __syncthreads();
    const float* sums = reinterpret_cast<const float*>(dq);
    for (int i = static_cast<int>(threadIdx.x); i < range_steps * J * 128; i += 32 * warps) {
      const int e = i % 4, at = i / 4 % 32, j = i / 128 % J, step = i / 128 / J, c = 2 * (at % 4) + e % 2;
      const int64_t m = a.first + 16 * step + at / 4 + 8 * (e / 2);
      const int d = X == Math::bf16 && DP > 8 ? element_dim<X, DP>(c / 2, j / 2 * 4 + j % 2 * 2 + c % 2) : 8 * j + c;
      float total = 0;
      for (int w = 0; w < warps; ++w) total += sums[((w * range_steps + step) * J + j) * 128 + 4 * at + e];
      if (m < a.last && d < a.D) a.part[((bh * a.n_chunks + chunk) * a.M + m) * a.D + d] = total;
    }
  }
}
template <Math X, int DP, TokenPass P> __device__ __noinline__ void dkv_block_slow(const TokenArgs<X>& a) {
  dkv_block<X, DP, P, 0, false>(a);
}
template <Math X, int DP, TokenPass P, int kPoly>
__global__ void __launch_bounds__(32 * kTokenWarps<X, DP, P>, kTokenBlocks<X, DP, P>)
    mixer_dkv_kernel(const __grid_constant__ TokenArgs<X> a) {
  if constexpr (P == TokenPass::dkv) after_previous();  // it writes delta early
  if (all_safe(a.part_bound + (blockIdx.z * a.H + blockIdx.x) * a.n_bounds, a.n_bounds, a.safe, a.dropout.on()))
    dkv_block<X, DP, P, kPoly, true>(a);
  else
    dkv_block_slow<X, DP, P>(a);
}

}  // namespace flare
