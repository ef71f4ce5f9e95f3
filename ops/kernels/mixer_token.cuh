#pragma once
/// The passes of the mixer that own tokens: decode (F2) and the gradients of keys and values (B2), in bf16 with that of the
/// queries. Formulas: ops/kernels/flare_mixer.h.
///
/// Grid: (h, share of the tokens, b), h fastest; the blocks of a head take turns, group by group, so that all that runs at a time
/// lies close together in memory. A warp owns kTokenTiles*16 tokens at a time in registers and meets the latents 16 at a time in
/// tables in shared memory, which the block copies once if all latents fit, else again for every group of tokens. Reads and writes
/// each token row once.
#include "ops/kernels/mixer_token_steps.cuh"

namespace flare {

/// y = P z and lse. 2*DP multiply-adds and one exponential per pair.
template <Math X, int DP, int kPoly, bool kSlow> __device__ __forceinline__ void decode_block(const TokenArgs<X>& a) {
  constexpr int NT = kTokenTiles<X, DP, TokenPass::decode>, J = DP / 8, W = kWords<X, DP>,
                kWarps = kTokenWarps<X, DP, TokenPass::decode>;
  constexpr int kGroup = kWarps * NT * 16, kTable = 32 * W;
  extern __shared__ __align__(16) uint32_t tables[];
  constexpr int kStage = kRingStage<X, DP, 1, NT * 16> / 4;  // words
  const int room = a.table_latents / 16, all_steps = static_cast<int>((a.M + 15) / 16);
  uint32_t *q_table = tables + kWarps * kStage, *z_table = q_table + room * kTable;
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  const int h = static_cast<int>(blockIdx.x), b = static_cast<int>(blockIdx.z);
  const int64_t bh = b * a.H + h;
  const int count = static_cast<int>(a.N), first_group = static_cast<int>(blockIdx.y) * kGroup, stride = a.n_chunks * kGroup;
  const Token<X>* k_rows = a.k.at(b, h, 0);
  Token<X>* out_rows = a.out.at(b, h, 0);
  const uint8_t* mask = a.mask ? a.mask + b * a.N : nullptr;
  float *lse_rows = a.lse_decode + bh * a.N, *rest_rows = kHasRest<X> ? a.rest_decode + bh * a.N : nullptr;
  const uint32_t nothing = static_cast<uint32_t>(a.D) >> 16, one = a.one;
  const bool once = a.table_latents >= a.M;
  const int k_row = static_cast<int>(a.k.row), out_row = static_cast<int>(a.out.row);

  // Rows of the next group are on their way while this group is worked on.
  Token<X>* ring = reinterpret_cast<Token<X>*>(tables + warp * kStage);
  uint32_t live[(NT * 16 + 31) / 32], live_next[(NT * 16 + 31) / 32];
  const auto fill = [&](int n) {
    if constexpr (kRing<X, DP>)
      fill_rows<X, DP, NT * 16>(ring, k_rows + static_cast<int64_t>(n) * k_row, k_row, live_next, a.D, lane);
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
          load_token<X, DP>(words, k_rows + static_cast<int64_t>(n0 + r + g) * k_row + t * kVec<X, DP>,
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
        __syncthreads();
        copy_tables<X, DP, 2, 32 * kWarps>(q_table, a.tables + bh * 2 * all_steps * kTable, all_steps, static_cast<int>(m0 / 16),
                                           steps, room);
        copy_async_commit();
        copy_async_wait<0>();
        __syncthreads();
      }
      if (n0 >= count) continue;
      const int tail = static_cast<int>(a.M % 16), partial = tail > 0 && m0 + a.table_latents >= a.M ? steps - 1 : -1;
#pragma unroll 1
      for (int step = 0; step < steps; ++step) {
        const Latents16<X, DP> l(q_table, z_table, step, step == partial, tail, lane);
        if constexpr (kSlow)
          decode_step_slow<X, DP, NT>(acc, sum, origin, k, l, a.dropout, bh, m0 + 16 * step, n0, lane);
        else
          decode_step<X, DP, NT, kPoly>(acc, sum, k, l, one);
      }
    }
    Token<X>* to = out_rows + static_cast<int64_t>(n0 + g) * out_row;
    const int row8 = 8 * out_row;
#pragma unroll
    for (int i = 0; i < NT; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 16 * i + 8 * half;
        const bool here = live[r / 32] >> (r % 32 + g) & 1;
        const float total = X == Math::bf16 ? sum[i][2 * half] : quad_sum(sum[i][2 * half]);
        if (!here) {
#pragma unroll
          for (int j = 0; j < J; ++j) acc[i][j][2 * half] = acc[i][j][2 * half + 1] = 0;
        }
        if (n0 + r + g < count) {
          store_token<X, DP>(to + (2 * i + half) * row8, acc[i], half, X == Math::f32 ? 1.0f / total : __fdividef(1.0f, total), a.D,
                             t);
          if (t == 0) store_lse<X>(lse_rows, rest_rows, n0 + r + g, kSlow ? origin[i][half] : 0.0f, here ? total : 0.0f);
        }
      }
  }
}
template <Math X, int DP> __device__ __noinline__ void decode_block_slow(const TokenArgs<X>& a) { decode_block<X, DP, 0, true>(a); }
template <Math X, int DP, int kPoly>
__global__ void __launch_bounds__(32 * kTokenWarps<X, DP, TokenPass::decode>, kTokenBlocks<X, DP, TokenPass::decode>)
    mixer_decode_kernel(const __grid_constant__ TokenArgs<X> a) {
  if (all_safe(a.part_bound + (blockIdx.z * a.H + blockIdx.x) * a.n_bounds, a.n_bounds, a.dropout.on()))
    decode_block<X, DP, kPoly, false>(a);
  else
    decode_block_slow<X, DP>(a);
}

/// dk, dv and, for dkv_dq, this block's part of dq. With lse and lse' of the encode and decode rows, all in powers of two:
///   P = 2^(s - lse'),  A = 2^(s - lse),  W = P (g.z - delta) + A (v.dz - eps),  dk += W q,  dv += A dz,  dq += W^T k.
/// Where every score is safe, one exponential serves both: with E = 2^s, g' = g 2^-lse', dz' = dz 2^-lse and so on,
///   W = E (g'.z + v.dz' - delta' - eps'),  A dz = E dz'.
template <Math X, int DP, TokenPass P, int kPoly, bool kFast> __device__ __forceinline__ void dkv_block(const TokenArgs<X>& a) {
  constexpr int NT = kTokenTiles<X, DP, P>, J = DP / 8, W = kWords<X, DP>, kWarps = kTokenWarps<X, DP, P>;
  constexpr int kGroup = kWarps * NT * 16;
  constexpr bool kDq = P == TokenPass::dkv_dq;
  static_assert(!kDq || X == Math::bf16, "fragments of W are transposed in 16-bit elements only");
  extern __shared__ __align__(16) uint32_t tables[];
  const int room = a.table_latents / 16, size = room * 32 * W;
  constexpr int kStage = kRingStage<X, DP, 4, NT * 16> / 4, kRows = NT * 16 * DP;  // words; elements of one array
  uint32_t *q_table = tables + kWarps * kStage, *q_values = q_table + size, *z_table = q_table + 2 * size;
  uint32_t *dz_table = q_table + 3 * size, *dz_values = q_table + 4 * size;
  float2* stats = reinterpret_cast<float2*>(q_table + 5 * size);    // general: lse, eps; fast: bits of -eps' in two parts
  float4* dq = reinterpret_cast<float4*>(stats + a.table_latents);  // [warp][step][j][lane]
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  const int h = static_cast<int>(blockIdx.x), chunk = static_cast<int>(blockIdx.y), b = static_cast<int>(blockIdx.z);
  const int64_t bh = b * a.H + h;
  const int count = static_cast<int>(a.N), first_group = chunk * kGroup, stride = a.n_chunks * kGroup;
  const Token<X>*k_rows = a.k.at(b, h, 0), *v_rows = a.v.at(b, h, 0), *g_rows = a.g.at(b, h, 0), *y_rows = a.y.at(b, h, 0);
  Token<X>*dk_rows = a.dk.at(b, h, 0), *dv_rows = a.dv.at(b, h, 0);
  const uint8_t* mask = a.mask ? a.mask + b * a.N : nullptr;
  const float* lse_rows = a.lse_decode + bh * a.N;
  const uint32_t nothing = static_cast<uint32_t>(a.D) >> 16, one = a.one;
  const bool once = a.table_latents >= a.M;
  const int k_row = static_cast<int>(a.k.row), v_row = static_cast<int>(a.v.row), g_row = static_cast<int>(a.g.row);
  const int y_row = static_cast<int>(a.y.row), dk_row = static_cast<int>(a.dk.row), dv_row = static_cast<int>(a.dv.row);
  const int all_steps = static_cast<int>((a.M + 15) / 16);
  if constexpr (kDq) {
    for (int i = static_cast<int>(threadIdx.x); i < kWarps * all_steps * J * 32; i += 32 * kWarps) dq[i] = make_float4(0, 0, 0, 0);
  }

  Token<X>* ring = reinterpret_cast<Token<X>*>(tables + warp * kStage);
  [[maybe_unused]] float* ring_lse = reinterpret_cast<float*>(ring + 4 * kRows);
  uint32_t live[(NT * 16 + 31) / 32], live_next[(NT * 16 + 31) / 32];
  const auto fill = [&](int n) {
    if constexpr (kRing<X, DP>) {
      fill_rows<X, DP, NT * 16>(ring, k_rows + static_cast<int64_t>(n) * k_row, k_row, live_next, a.D, lane);
      fill_rows<X, DP, NT * 16>(ring + kRows, v_rows + static_cast<int64_t>(n) * v_row, v_row, live_next, a.D, lane);
      fill_rows<X, DP, NT * 16>(ring + 2 * kRows, g_rows + static_cast<int64_t>(n) * g_row, g_row, live_next, a.D, lane);
      fill_rows<X, DP, NT * 16>(ring + 3 * kRows, y_rows + static_cast<int64_t>(n) * y_row, y_row, live_next, a.D, lane);
      if (lane < NT * 16) copy_async_4(ring_lse + lane, lse_rows + (n + lane < count ? n + lane : 0), n + lane < count);
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
          const int64_t n = first + r, column = t * kVec<X, DP>;
          load_token<X, DP>(k_words, k_rows + n * k_row + column, here, a.D, t);
          load_token<X, DP>(v_words, v_rows + n * v_row + column, here, a.D, t);
          load_token<X, DP>(g_words, g_rows + n * g_row + column, here, a.D, t);
          load_token<X, DP>(y_words, y_rows + n * y_row + column, here, a.D, t);
        }
        k[i].set_row(half, k_words), v[i].set_row(half, v_words), grad[i].set_row(half, g_words);
        lse[i][half] = !here ? 0.0f : kLog2e * (kRing<X, DP> ? ring_lse[r + g] : lse_rows[first + r]);
        float gx[DP / 4], yx[DP / 4], dot = 0;
        unpack_row<X, DP>(g_words, gx), unpack_row<X, DP>(y_words, yx);
#pragma unroll
        for (int e = 0; e < DP / 4; ++e) dot = fmaf(gx[e], yx[e], dot);
        delta[i][half] = quad_sum(dot);
        if (a.delta && t == 0 && first + r < count) a.delta[bh * a.N + first + r] = delta[i][half];
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
          extra[i][half] = t == 0 ? pack_bf16(d, d - rounded) : t == 1 ? 0x3f803f80u : 0u;
        }
      }
      k[i].settle(nothing), v[i].settle(nothing), grad[i].settle(nothing);
      if constexpr (kDq) {
#pragma unroll
        for (int j = 0; j < J; ++j)
#pragma unroll
          for (int half = 0; half < 2; ++half) k_values[i][j].r[half] = transpose_8x8(k[i].word(half, j % (W / 2)));
      }
#pragma unroll
      for (int j = 0; j < J; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) dk[i][j][e] = dv[i][j][e] = 0;
    }
    __syncwarp();
    fill(n0 + stride);
    for (int64_t m0 = 0; m0 < a.M; m0 += a.table_latents) {
      const int steps = static_cast<int>((min(static_cast<int64_t>(a.table_latents), a.M - m0) + 15) / 16);
      if (!once || group == first_group) {
        __syncthreads();
        copy_tables<X, DP, 5, 32 * kWarps>(q_table, a.tables + bh * 5 * all_steps * 32 * W, all_steps, static_cast<int>(m0 / 16),
                                           steps, room);
        for (int i = 2 * static_cast<int>(threadIdx.x); i < 16 * steps; i += 2 * 32 * kWarps)
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
        read_cols<X, DP>(q, q_table, step, lane), read_cols<X, DP>(z, z_table, step, lane),
            read_cols<X, DP>(dz, dz_table, step, lane);
        read_values<X, DP>(qv, q_values, step, lane), read_values<X, DP>(dzv, dz_values, step, lane);
        [[maybe_unused]] float part[J][4];
        if constexpr (kDq) {
#pragma unroll
          for (int j = 0; j < J; ++j) {
            const float4 x = dq[((warp * all_steps + step) * J + j) * 32 + lane];
            part[j][0] = x.x, part[j][1] = x.y, part[j][2] = x.z, part[j][3] = x.w;
          }
        }
        const auto finish = [&](int i, const Weights16<X>& w, const Weights16<X>& encode) {
#pragma unroll
          for (int j = 0; j < J; ++j) add_weighted(dk[i][j], w, qv[j]), add_weighted(dv[i][j], encode, dzv[j]);
          if constexpr (kDq) {
            Weights16<X> turned;
            turned.r[0] = transpose_8x8(w.r[0]), turned.r[1] = transpose_8x8(w.r[2]);
            turned.r[2] = transpose_8x8(w.r[1]), turned.r[3] = transpose_8x8(w.r[3]);
#pragma unroll
            for (int j = 0; j < J; ++j) add_weighted(part[j], turned, k_values[i][j]);
          }
        };
        if constexpr (kFast) {
          {
            uint32_t minus_eps[2];
#pragma unroll
            for (int c = 0; c < 2; ++c) {
              const uint32_t bits = __float_as_uint(stats[16 * step + 8 * c + g].x);
              minus_eps[c] = t == 0 ? 0x3f803f80u : t == 1 ? bits : 0u;
            }
#pragma unroll
            for (int i = 0; i < NT; ++i) {
              Weights16<X> w, encode;
#pragma unroll
              for (int c = 0; c < 2; ++c) {
                float s[4], x[4];
                scores(s, k[i], q[c]);
                const float zero[4] = {0, 0, 0, 0};
                mma_bf16_k8(x, extra[i][0], extra[i][1], minus_eps[c], zero);
                scores(x, grad[i], z[c], x), scores(x, v[i], dz[c], x);
                if (c < kPoly) {
                  encode.r[2 * c] = exp2_poly_bf16x2(s[0], s[1], one), encode.r[2 * c + 1] = exp2_poly_bf16x2(s[2], s[3], one);
                  w.r[2 * c] = fma_bf16x2(encode.r[2 * c], pack_bf16(x[0], x[1]), 0x80008000u);
                  w.r[2 * c + 1] = fma_bf16x2(encode.r[2 * c + 1], pack_bf16(x[2], x[3]), 0x80008000u);
                } else {
#pragma unroll
                  for (int e = 0; e < 4; ++e) s[e] = exp2_unit(s[e]), x[e] *= s[e];
                  encode.r[2 * c] = pack_bf16(s[0], s[1]), encode.r[2 * c + 1] = pack_bf16(s[2], s[3]);
                  w.r[2 * c] = pack_bf16(x[0], x[1]), w.r[2 * c + 1] = pack_bf16(x[2], x[3]);
                }
              }
              finish(i, w, encode);
            }
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
              scores(s, k[i], q[c]), scores(x, grad[i], z[c]), scores(y, v[i], dz[c]);
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
                const float p = exp2_unit(s[e] - lse[i][e / 2]), encode = exp2_unit(s[e] - (e % 2 ? two.z : two.x));
                w[c][e] =
                    p * (x[e] * decode_keep[e] - delta[i][e / 2]) + encode * (y[e] * encode_keep[e] - (e % 2 ? two.w : two.y));
                kept[c][e] = encode * encode_keep[e];
              }
            }
            Weights16<X> weights, encode;
            set_weights(weights, w[0], w[1]), set_weights(encode, kept[0], kept[1]);
            finish(i, weights, encode);
          }
        }
        if constexpr (kDq) {
#pragma unroll
          for (int j = 0; j < J; ++j)
            dq[((warp * all_steps + step) * J + j) * 32 + lane] = make_float4(part[j][0], part[j][1], part[j][2], part[j][3]);
        }
      }
    }
    Token<X>*to_k = dk_rows + static_cast<int64_t>(first) * dk_row, *to_v = dv_rows + static_cast<int64_t>(first) * dv_row;
    const int dk8 = 8 * dk_row, dv8 = 8 * dv_row;
#pragma unroll
    for (int i = 0; i < NT; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int r = 16 * i + 8 * half;
        if (first + r >= count) continue;
        if (!(live[r / 32] >> (r % 32 + g) & 1)) {
#pragma unroll
          for (int j = 0; j < J; ++j) dk[i][j][2 * half] = dk[i][j][2 * half + 1] = dv[i][j][2 * half] = dv[i][j][2 * half + 1] = 0;
        }
        store_token<X, DP>(to_k + (2 * i + half) * dk8, dk[i], half, kLn2, a.D, t);  // q carried scale * log2(e)
        store_token<X, DP>(to_v + (2 * i + half) * dv8, dv[i], half, 1.0f, a.D, t);
      }
  }
  if constexpr (kDq) {
    __syncthreads();
    const float* sums = reinterpret_cast<const float*>(dq);
    for (int i = static_cast<int>(threadIdx.x); i < all_steps * J * 128; i += 32 * kWarps) {
      const int e = i % 4, at = i / 4 % 32, j = i / 128 % J, step = i / 128 / J, c = 2 * (at % 4) + e % 2;
      const int64_t m = 16 * step + at / 4 + 8 * (e / 2);
      const int d = DP == 8 ? c : element_dim<X, DP>(c / 2, j / 2 * 4 + j % 2 * 2 + c % 2);
      float total = 0;
      for (int w = 0; w < kWarps; ++w) total += sums[((w * all_steps + step) * J + j) * 128 + 4 * at + e];
      if (m < a.M && d < a.D) a.part[((bh * a.n_chunks + chunk) * a.M + m) * a.D + d] = total;
    }
  }
}
template <Math X, int DP, TokenPass P> __device__ __noinline__ void dkv_block_slow(const TokenArgs<X>& a) {
  dkv_block<X, DP, P, 0, false>(a);
}
template <Math X, int DP, TokenPass P, int kPoly>
__global__ void __launch_bounds__(32 * kTokenWarps<X, DP, P>, kTokenBlocks<X, DP, P>)
    mixer_dkv_kernel(const __grid_constant__ TokenArgs<X> a) {
  if constexpr (X == Math::bf16) {
    if (all_safe(a.part_bound + (blockIdx.z * a.H + blockIdx.x) * a.n_bounds, a.n_bounds, a.dropout.on()))
      dkv_block<X, DP, P, kPoly, true>(a);
    else
      dkv_block_slow<X, DP, P>(a);
  } else {
    dkv_block<X, DP, P, kPoly, false>(a);
  }
}

}  // namespace flare
