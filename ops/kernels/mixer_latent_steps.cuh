#pragma once
/// Arguments, tiles and steps of the passes in mixer_latent.cuh: what a warp does with its latents and 16 tokens.
#include "ops/kernels/attention.cuh"
#include "ops/kernels/mixer_fragments.cuh"

namespace flare {

enum class LatentPass { encode, dz, dq };

template <Math X> struct LatentArgs {
  using T = Token<X>;
  const float* q = nullptr;  // packed [M,D] per head
  int64_t q_batch = 0;
  Rows<const T> k, v, g;
  const uint8_t* mask = nullptr;                               // [B,N]
  const float *z = nullptr, *dz = nullptr;                     // [B,H,M,D]
  const float *lse_encode = nullptr, *lse_decode = nullptr;    // [B,H,M], [B,H,N]
  const float* delta = nullptr;                                // [B,H,N]
  float* part = nullptr;                                       // [B,H,chunk,M,D]
  float* part_stats = nullptr;                                 // encode: [B,H,chunk,M,2] = origin, sum; null with one chunk
  const float *rest_encode = nullptr, *rest_decode = nullptr;  // f32: [B,H,M], [B,H,N]; see MixerArgs
  float* rest_out = nullptr;                                   // f32 encode with one chunk
  float* lse_out = nullptr;                                    // encode with one chunk: part is z and this [B,H,M]
  float* part_bound = nullptr;                                 // [B,H,chunk,block of latents]: no |score| is larger; dq reads it
  int64_t H = 1, M = 0, N = 0, n_blocks_m = 1;
  int n_bounds = 1;                 // dq: of part_bound, per head
  int n_chunks = 1, tile_rows = 0;  // blocks that share a head's tokens, and how many tokens they take at a time
  int D = 0, warps_m = 1;
  float scale = 1, safe = 0;   // safe_score(N)
  uint32_t one = 0x3f803f80u;  // twice 1.0 in bf16, for exp2_poly_bf16x2
  AttentionDropout dropout;
};

inline constexpr int kLatentThreads = 256, kStages = 3;
/// 16-row tiles of latents a warp owns, and blocks of 8 warps that share a multiprocessor: bounded by registers, chosen by
/// measurement.
template <Math X, int DP, LatentPass P>
inline constexpr int kLatentTiles = P == LatentPass::dq ? ((X == Math::bf16 && DP <= 32) || DP <= 16 ? 2 : 1)
                                    : X == Math::bf16   ? (DP <= 16 ? 4 : 2)
                                                        : (DP <= 32 ? 2 : 1);
template <Math X, int DP, LatentPass P>
inline constexpr int kLatentBlocks = (DP <= 16 && (X == Math::bf16 || P != LatentPass::dq)) ||
                                             (X == Math::bf16 && DP == 32 && P != LatentPass::dq)
                                         ? 2
                                         : 1;
template <Math X, int DP> inline constexpr int kTokens = DP <= 16 ? (X == Math::bf16 ? 256 : 128) : (DP <= 32 ? 128 : 64);
/// Elements from one row of a tile to the next. Rows read as values are padded so that eight of them fall in different banks.
template <Math X, int DP, bool kValues>
inline constexpr int kRowStride = DP + (!kValues          ? 0
                                        : X == Math::bf16 ? (DP == 8 ? 0 : 8)
                                                          : 4);

template <Math X, int DP, LatentPass P> struct LatentTile {
  using T = Token<X>;
  static constexpr int kRowsOf = kTokens<X, DP>, kKeyStride = kRowStride<X, DP, P == LatentPass::dq>;
  static constexpr int kOtherStride = kRowStride<X, DP, P != LatentPass::dq>;
  T k[kRowsOf * kKeyStride];
  T first[kRowsOf * kOtherStride];                             // encode: v; dz, dq: g
  T second[P == LatentPass::dq ? kRowsOf * kOtherStride : 8];  // dq: v
  T live[P == LatentPass::encode ? kRowsOf : 8];
  float lse[P != LatentPass::encode ? kRowsOf : 4];
  float delta[P == LatentPass::dq ? kRowsOf : 4];
  float rest[P != LatentPass::encode && kHasRest<X> ? kRowsOf : 4];
};

/// The head's tokens of one block: pointers to the first row, and how many there are.
template <Math X> struct TokenSource {
  const Token<X>*k, *first, *second;
  const uint8_t* mask;
  const float *lse, *delta, *rest;
  int k_row, first_row, second_row, count;  // row strides in elements
};
/// Starts the copy of kTokens rows from row r0 on; rows beyond the last and masked ones become zeros.
template <Math X, int DP, LatentPass P>
__device__ __forceinline__ void fill_tile(LatentTile<X, DP, P>& tile, const TokenSource<X>& src, int r0, int rows, int D) {
  using T = Token<X>;
  using Tile = LatentTile<X, DP, P>;
  constexpr int kUnit = 16 / static_cast<int>(sizeof(T)), kUnits = DP / kUnit, kRowsAtOnce = kLatentThreads / kUnits;
  const int d = static_cast<int>(threadIdx.x) % kUnits * kUnit, first = static_cast<int>(threadIdx.x) / kUnits;
#pragma unroll
  for (int i = 0; i < (Tile::kRowsOf + kRowsAtOnce - 1) / kRowsAtOnce; ++i) {
    const int r = first + i * kRowsAtOnce, n = min(r0 + r, src.count - 1);
    if (Tile::kRowsOf % kRowsAtOnce != 0 && r >= Tile::kRowsOf) break;
    const bool live = r < rows && r0 + r < src.count && (!src.mask || src.mask[n]);
    const auto fetch = [&](T* to, const T* rows, int stride) {
      copy_async_16(to + d, rows + static_cast<int64_t>(n) * stride + (d < D ? d : 0), live && d < D);
    };
    fetch(tile.k + r * Tile::kKeyStride, src.k, src.k_row);
    fetch(tile.first + r * Tile::kOtherStride, src.first, src.first_row);
    if constexpr (P == LatentPass::dq) fetch(tile.second + r * Tile::kOtherStride, src.second, src.second_row);
    if (d == 0) {
      if constexpr (P == LatentPass::encode) tile.live[r] = live ? T(1.0f) : T(0.0f);
      if constexpr (P != LatentPass::encode) copy_async_4(tile.lse + r, src.lse + n, live);
      if constexpr (P == LatentPass::dq) copy_async_4(tile.delta + r, src.delta + n, live);
      if constexpr (P != LatentPass::encode && kHasRest<X>) copy_async_4(tile.rest + r, src.rest + n, live);
    }
  }
}

/// 16 rows of a tile as values, columns 8j .. 8j + 7 in v[j].
template <Math X, int DP, int kStride>
__device__ __forceinline__ void load_values(Values8<X> (&v)[DP / 8], const Token<X>* rows, int lane) {
  if constexpr (X == Math::bf16) {
    const Token<X>* p = rows + (lane % 16) * kStride + lane / 16 * 8;
    if constexpr (DP == 8) {
      ldmatrix_x2_trans(v[0].r[0], v[0].r[1], rows + (lane % 16) * kStride);
    } else {
#pragma unroll
      for (int j = 0; j < DP / 8; j += 2) {
        uint32_t r[4];
        ldmatrix_x4_trans(r, p + 8 * j);
        v[j].r[0] = r[0], v[j].r[1] = r[1], v[j + 1].r[0] = r[2], v[j + 1].r[1] = r[3];
      }
    }
  } else {
    const int g = lane / 4, t = lane % 4;
#pragma unroll
    for (int j = 0; j < DP / 8; ++j)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        v[j].r[i] = __float_as_uint(static_cast<float>(rows[(i / 2 * 8 + 2 * t + i % 2) * kStride + 8 * j + g]));
  }
}
/// A row of a packed f32 matrix [M,D] as this thread's share, times factor; zero beyond M and D.
template <Math X, int DP>
__device__ __forceinline__ void load_latent(float (&x)[DP / 4], const float* rows, int64_t m, int64_t M, int D, int t,
                                            float factor) {
#pragma unroll
  for (int e = 0; e < DP / 4; ++e) {
    const int d = element_dim<X, DP>(t, e);
    x[e] = m < M && d < D ? factor * rows[m * D + d] : 0.0f;
  }
}

/// Encode, 16 tokens, every score safe: z += 2^s v and sum += 2^s with origin 0. `live` is 1 for a token and 0 for padding.
template <Math X, int DP, int MT, int kPoly>
__device__ __forceinline__ void encode_step(float (&acc)[MT][DP / 8][4], float (&sum)[MT][4], const Rows16<X, DP> (&q)[MT],
                                            const Cols8<X, DP> (&k)[2], const Values8<X> (&v)[DP / 8], const Token<X>* live,
                                            uint32_t one, int t) {
  if constexpr (X == Math::bf16) {
    Values8<X> ones;
    ones.r[0] = *reinterpret_cast<const uint32_t*>(live + 2 * t), ones.r[1] = *reinterpret_cast<const uint32_t*>(live + 8 + 2 * t);
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      float s[2][4];
      Weights16<X> w;
      scores<X, DP, false>(s[0], q[i], k[0]), scores<X, DP, false>(s[1], q[i], k[1]);
      exp2_weights<kPoly>(w, s[0], s[1], one);
      add_weighted(sum[i], w, ones);
#pragma unroll
      for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], w, v[j]);
    }
  } else {
    const float l[4] = {live[2 * t], live[2 * t + 1], live[8 + 2 * t], live[8 + 2 * t + 1]};
#pragma unroll
    for (int i = 0; i < MT; ++i) {
      float s[2][4];
      Weights16<X> w;
      scores<X, DP, false>(s[0], q[i], k[0]), scores<X, DP, false>(s[1], q[i], k[1]);
#pragma unroll
      for (int e = 0; e < 4; ++e) s[0][e] = exp2_unit(s[0][e]), s[1][e] = exp2_unit(s[1][e]);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        sum[i][2 * half] +=
            fmaf(s[0][2 * half], l[0], s[0][2 * half + 1] * l[1]) + fmaf(s[1][2 * half], l[2], s[1][2 * half + 1] * l[3]);
      set_weights(w, s[0], s[1]);
#pragma unroll
      for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], w, v[j]);
    }
  }
}

/// Inverted dropout of the weights of rows (latents) m + g, m + g + 8 and columns (tokens) n + 2t, + 1, + 8, + 9.
__device__ __forceinline__ void drop_latent_rows(float (&s)[2][4], const AttentionDropout& dropout, int64_t bh, int64_t m,
                                                 int64_t n, int lane, int half) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int c = 0; c < 2; ++c)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int64_t row = m + 8 * r + g, col = n + 8 * c + 2 * t;
      const Philox4 bits = dropout.patch(bh, row, col);
#pragma unroll
      for (int e = 0; e < 2; ++e) s[c][2 * r + e] *= dropout.factor(bits, row, col + e, half);
    }
}

/// Encode, 16 tokens, any scores: the origin of each row follows the largest score seen.
template <Math X, int DP, int MT>
__device__ __forceinline__ void encode_step_slow(float (&acc)[MT][DP / 8][4], float (&sum)[MT][4], float (&origin)[MT][2],
                                                 const Rows16<X, DP> (&q)[MT], const Cols8<X, DP> (&k)[2],
                                                 const Values8<X> (&v)[DP / 8], const Token<X>* live,
                                                 const AttentionDropout& dropout, int64_t bh, int64_t m0, int64_t n, int lane) {
  const int t = lane % 4;
  const float l[4] = {live[2 * t], live[2 * t + 1], live[8 + 2 * t], live[8 + 2 * t + 1]};
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    float s[2][4];
    Weights16<X> w;
    scores<X, DP, false>(s[0], q[i], k[0]), scores<X, DP, false>(s[1], q[i], k[1]);
#pragma unroll
    for (int half = 0; half < 2; ++half) follow_largest(s, half, l, origin[i][half], sum[i], acc[i]);
    set_weights(w, s[0], s[1]);
    if constexpr (X == Math::bf16) {
      Values8<X> ones;
      ones.r[0] = ones.r[1] = 0x3f803f80u;
      add_weighted(sum[i], w, ones);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        sum[i][2 * half] += (s[0][2 * half] + s[0][2 * half + 1]) + (s[1][2 * half] + s[1][2 * half + 1]);
    }
    if (dropout.on()) {
      drop_latent_rows(s, dropout, bh, m0 + 16 * i, n, lane, 0);
      set_weights(w, s[0], s[1]);
    }
#pragma unroll
    for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], w, v[j]);
  }
}

/// What is left of 2^-lse of columns 2t, 2t + 1, 2t + 8, 2t + 9 after rounding lse: 1 except in f32. Padding has 0 there, and
/// weight 0.
template <Math X> __device__ __forceinline__ void column_factors(float (&f)[4], const float* rest, int t) {
#pragma unroll
  for (int c = 0; c < 4; ++c) f[c] = kHasRest<X> ? __fdividef(1.0f, fmaxf(rest[c / 2 * 8 + 2 * t + c % 2], 1e-30f)) : 1.0f;
}
/// Gradient of the latents, 16 tokens, every score safe: dz += 2^(s - lse) g. init holds -lse of each column; in f32 it goes into
/// g, exactly.
template <Math X, int DP, int MT, int kPoly>
__device__ __forceinline__ void dz_step(float (&acc)[MT][DP / 8][4], const Rows16<X, DP> (&q)[MT], const Cols8<X, DP> (&k)[2],
                                        Values8<X> (&g)[DP / 8], const float (&init)[2][4], const float* rest, uint32_t one,
                                        int t) {
  if constexpr (X != Math::bf16) {
    float f[4];
    column_factors<X>(f, rest, t);
#pragma unroll
    for (int c = 0; c < 4; ++c) f[c] *= exp2_unit(init[c / 2][c % 2]);
#pragma unroll
    for (int j = 0; j < DP / 8; ++j) {
#pragma unroll
      for (int c = 0; c < 4; ++c) g[j].r[c] = __float_as_uint(f[c] * __uint_as_float(g[j].r[c]));
      split_values(g[j]);
    }
  }
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    float s[2][4];
    Weights16<X> w;
    if constexpr (X == Math::bf16) {
      scores<X, DP, false>(s[0], q[i], k[0], init[0]), scores<X, DP, false>(s[1], q[i], k[1], init[1]);
      exp2_weights<kPoly>(w, s[0], s[1], one);
    } else {
      scores<X, DP, false>(s[0], q[i], k[0]), scores<X, DP, false>(s[1], q[i], k[1]);
#pragma unroll
      for (int e = 0; e < 4; ++e) s[0][e] = exp2_unit(s[0][e]), s[1][e] = exp2_unit(s[1][e]);
      set_weights(w, s[0], s[1]);
    }
#pragma unroll
    for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], w, g[j]);
  }
}
/// The same for any scores, and with dropout.
template <Math X, int DP, int MT>
__device__ __forceinline__ void dz_step_slow(float (&acc)[MT][DP / 8][4], const Rows16<X, DP> (&q)[MT], const Cols8<X, DP> (&k)[2],
                                             const Values8<X> (&g)[DP / 8], const float (&init)[2][4], const float* rest,
                                             const AttentionDropout& dropout, int64_t bh, int64_t m0, int64_t n, int lane) {
  float f[4];
  column_factors<X>(f, rest, lane % 4);
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    float s[2][4];
    Weights16<X> w;
    scores<X, DP, false>(s[0], q[i], k[0]), scores<X, DP, false>(s[1], q[i], k[1]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      s[0][e] = f[e % 2] * exp2_unit(fminf(s[0][e] + init[0][e], 1.0f));  // bounded as in mixer_dkv.cuh
      s[1][e] = f[2 + e % 2] * exp2_unit(fminf(s[1][e] + init[1][e], 1.0f));
    }
    if (dropout.on()) drop_latent_rows(s, dropout, bh, m0 + 16 * i, n, lane, 1);
    set_weights(w, s[0], s[1]);
#pragma unroll
    for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], w, g[j]);
  }
}

/// A row's share of a thread times a factor.
template <Math X, int DP> __device__ __forceinline__ void scale_cols(Cols8<X, DP>& c, float factor) {
  float x[DP / 4];
  unpack_row<X, DP>(c.r, x);
#pragma unroll
  for (int w = 0; w < kWords<X, DP> / 2; ++w)
    c.r[w] = X == Math::bf16 ? pack_bf16(factor * x[2 * w % (DP / 4)], factor * x[(2 * w + 1) % (DP / 4)])
                             : __float_as_uint(factor * x[w % (DP / 4)]);
}
/// Gradient of the queries, 16 tokens: dq += W k with W = P (g.z - delta) + A (v.dz - eps). minus_eps and lse belong to the rows.
/// Every score safe: W = 2^s (g'.z - delta' + v.dz' - eps'), the factors 2^-lse gone into g, delta, dz and eps.
template <Math X, int DP, int MT, int kPoly, bool kSlow>
__device__ __forceinline__ void dq_step(float (&acc)[MT][DP / 8][4], const Rows16<X, DP> (&q)[MT], const Rows16<X, DP> (&z)[MT],
                                        const Rows16<X, DP> (&dz)[MT], const float (&minus_eps)[MT][4], const float (&lse)[MT][2],
                                        const Cols8<X, DP> (&k)[2], const LatentTile<X, DP, LatentPass::dq>& tile,
                                        const AttentionDropout& dropout, int64_t bh, int64_t m0, int64_t n0, int r, uint32_t one,
                                        int lane) {
  using Tile = LatentTile<X, DP, LatentPass::dq>;
  const int row_g = lane / 4, t = lane % 4;
  Cols8<X, DP> g[2], v[2];
  Values8<X> values[DP / 8];
  float decode[2][2], delta[2][2], f[4];
  column_factors<X>(f, tile.rest + r, t);
#pragma unroll
  for (int c = 0; c < 2; ++c) {
    read_row<X, DP>(g[c].r, tile.first + (r + 8 * c + row_g) * Tile::kOtherStride, t);
    read_row<X, DP>(v[c].r, tile.second + (r + 8 * c + row_g) * Tile::kOtherStride, t);
    if constexpr (!kSlow) {
      const int row = r + 8 * c + row_g;
      const float rest = kHasRest<X> ? __fdividef(1.0f, fmaxf(tile.rest[row], 1e-30f)) : 1.0f;
      scale_cols(g[c], rest * exp2_unit(-in_base_2(tile.lse[row])));
    }
    split_cols<false>(g[c]), split_cols<false>(v[c]);
#pragma unroll
    for (int e = 0; e < 2; ++e) {
      decode[c][e] = in_base_2(tile.lse[r + 8 * c + 2 * t + e]), delta[c][e] = tile.delta[r + 8 * c + 2 * t + e];
      if constexpr (!kSlow) delta[c][e] *= f[2 * c + e] * exp2_unit(-decode[c][e]);
    }
  }
  load_values<X, DP, Tile::kKeyStride>(values, tile.k + r * Tile::kKeyStride, lane);
#pragma unroll
  for (int j = 0; j < DP / 8; ++j) split_values(values[j]);
#pragma unroll
  for (int i = 0; i < MT; ++i) {
    Weights16<X> weights;
    [[maybe_unused]] Weights16<X> powers;
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      float s[4], x[4], y[4];
      scores<X, DP, false>(s, q[i], k[c]);
      if constexpr (!kSlow) {
        const float minus_delta[4] = {-delta[c][0], -delta[c][1], -delta[c][0], -delta[c][1]};
        scores<X, DP, false, false>(x, z[i], g[c], minus_delta), scores<X, DP, false, false>(y, dz[i], v[c], minus_eps[i]);
#pragma unroll
        for (int e = 0; e < 4; ++e) x[e] += y[e];
        weigh<kPoly>(powers, weights, c, s, x, one);
      } else {
        scores<X, DP, false, false>(x, z[i], g[c]), scores<X, DP, false, false>(y, dz[i], v[c]);
        float decode_keep[4] = {1, 1, 1, 1}, encode_keep[4] = {1, 1, 1, 1};
        if (dropout.on()) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int64_t row = m0 + 16 * i + 8 * half + row_g, col = n0 + r + 8 * c + 2 * t;
            const Philox4 bits = dropout.patch(bh, row, col);
#pragma unroll
            for (int e = 0; e < 2; ++e) {
              encode_keep[2 * half + e] = dropout.factor(bits, row, col + e, 0);
              decode_keep[2 * half + e] = dropout.factor(bits, row, col + e, 1);
            }
          }
        }
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          // Bounded as in mixer_dkv.cuh: padding has score 0, and weights that nothing else bounds.
          const float p = exp2_unit(fminf(s[e] - decode[c][e % 2], 1.0f));
          const float q_weight = exp2_unit(fminf(s[e] - lse[i][e / 2], 1.0f));
          x[e] = f[2 * c + e % 2] * p * (x[e] * decode_keep[e] - delta[c][e % 2]) +
                 q_weight * (y[e] * encode_keep[e] + minus_eps[i][e]);
        }
        set_weights(weights, c, x);
      }
    }
#pragma unroll
    for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], weights, values[j]);
  }
}

}  // namespace flare
