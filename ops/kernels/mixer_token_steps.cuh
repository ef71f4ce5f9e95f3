#pragma once
/// Arguments, tables and loads of the passes in mixer_token.cuh: latents in shared memory, tokens in registers.
#include "ops/kernels/attention.cuh"
#include "ops/kernels/mixer_fragments.cuh"

namespace flare {

enum class TokenPass { decode, dkv, dkv_dq };

template <Math X> struct TokenArgs {
  using T = Token<X>;
  const uint32_t* tables = nullptr;   // [B,H][table][M/16][...]: see pack_latents_kernel
  const float2* stats = nullptr;      // [B,H][M rounded up to 16]: dkv only
  const float* part_bound = nullptr;  // [B,H,n_bounds]: no |score| (powers of two) is above all of them
  Rows<const T> k, v, g, y;
  Rows<T> out, dk, dv;
  const uint8_t* mask = nullptr;  // [B,N]
  float* lse_decode = nullptr;    // [B,H,N]: decode writes it, the others read it
  float* rest_decode = nullptr;   // f32: [B,H,N], likewise; see MixerArgs
  float* delta = nullptr;         // [B,H,N]: written where not null
  float* part = nullptr;          // dq: [B,H,chunk,M,D]
  int64_t H = 1, M = 0, N = 0;
  int n_chunks = 1;  // blocks that share a head's tokens
  int n_bounds = 1;
  int table_latents = 0;  // latents whose tables fit in shared memory at once, a multiple of 16
  int D = 0;
  uint32_t one = 0x3f803f80u;  // twice 1.0 in bf16, for exp2_poly_bf16x2
  AttentionDropout dropout;
};

/// Warps of a block, blocks that share a multiprocessor, and 16-row tiles of tokens a warp owns: as many rows as registers allow,
/// and then as many warps. Measured choices; see docs/kernels.md.
template <Math X, int DP, TokenPass P> inline constexpr int kTokenWarps = (P != TokenPass::decode && DP <= 16) ? 4 : 8;
template <Math X, int DP, TokenPass P>
inline constexpr int kTokenBlocks = P == TokenPass::decode ? (DP == 64 ? 1 : 2)
                                    : DP <= 16             ? 3
                                                           : 1;
template <Math X, int DP, TokenPass P>
inline constexpr int kTokenTiles = P == TokenPass::decode ? ((DP <= 16 || (X == Math::bf16 && DP == 32)) ? 2 : 1)
                                                          : ((X == Math::bf16 && DP <= 16) ? 2 : 1);
/// Tables: decode q (scores), z (values); dkv q, q, z, dz, dz (scores, values, scores, scores, values).
template <TokenPass P> inline constexpr int kTables = P == TokenPass::decode ? 2 : 5;

/// A table holds latents as right sides of products, in the order in which lanes read them: 16 latents are kWords words a lane, in
/// units of up to 16 bytes that lie side by side over the lanes.
template <int W> __device__ __forceinline__ int table_word(int step, int lane, int w) {
  constexpr int U = W < 4 ? W : 4;
  return ((step * (W / U) + w / U) * 32 + lane) * U + w % U;
}
template <int W> __device__ __forceinline__ void read_table(uint32_t* r, const uint32_t* table, int step, int lane) {
  if constexpr (W == 2) {
    const uint2 u = *reinterpret_cast<const uint2*>(table + table_word<W>(step, lane, 0));
    r[0] = u.x, r[1] = u.y;
  } else {
#pragma unroll
    for (int w = 0; w < W; w += 4) {
      const uint4 u = *reinterpret_cast<const uint4*>(table + table_word<W>(step, lane, w));
      r[w] = u.x, r[w + 1] = u.y, r[w + 2] = u.z, r[w + 3] = u.w;
    }
  }
}
template <Math X, int DP>
__device__ __forceinline__ void read_cols(Cols8<X, DP> (&c)[2], const uint32_t* table, int step, int lane) {
  constexpr int W = kWords<X, DP>;
  uint32_t r[W];
  read_table<W>(r, table, step, lane);
#pragma unroll
  for (int w = 0; w < W / 2; ++w) c[0].r[w] = r[w], c[1].r[w] = r[W / 2 + w];
}
template <Math X, int DP>
__device__ __forceinline__ void read_values(Values8<X> (&v)[DP / 8], const uint32_t* table, int step, int lane) {
  constexpr int W = kWords<X, DP>, K = W / (DP / 8);
  uint32_t r[W];
  read_table<W>(r, table, step, lane);
#pragma unroll
  for (int j = 0; j < DP / 8; ++j)
#pragma unroll
    for (int i = 0; i < K; ++i) v[j].r[i] = r[j * K + i];
}

/// Copies steps m0/16 .. + steps of each of a head's tables into shared memory, `room` steps apart.
template <Math X, int DP, int kCount, int kThreads>
__device__ __forceinline__ void copy_tables(uint32_t* to, const uint32_t* from, int all_steps, int first_step, int steps,
                                            int room) {
  constexpr int kStep = 32 * kWords<X, DP>;  // words
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    for (int w = 4 * static_cast<int>(threadIdx.x); w < steps * kStep; w += 4 * kThreads)
      copy_async_16(to + i * room * kStep + w, from + static_cast<int64_t>(i * all_steps + first_step) * kStep + w, true);
}

/// Whether a warp's rows come through shared memory, where asynchronous copies put them one group ahead.
template <Math X, int DP> inline constexpr bool kRing = DP * sizeof(Token<X>) <= 64;
/// Bytes of a warp: kArrays arrays of kRows rows, and a float per row.
template <Math X, int DP, int kArrays, int kRows>
inline constexpr int kRingStage = kRing<X, DP> ? kRows*(kArrays* DP* static_cast<int>(sizeof(Token<X>)) + 4) : 0;
/// Starts the copy of kRows rows; those whose bit in `live` is 0 become zeros. `from` is the first row.
template <Math X, int DP, int kRows>
__device__ __forceinline__ void fill_rows(Token<X>* stage, const Token<X>* from, int row_stride,
                                          const uint32_t (&live)[(kRows + 31) / 32], int D, int lane) {
  constexpr int kUnit = 16 / static_cast<int>(sizeof(Token<X>)), kUnits = DP / kUnit, kAtOnce = 32 / kUnits;
  const int first = lane / kUnits, d = lane % kUnits * kUnit;
  const Token<X>* p = from + (first * row_stride + (d < D ? d : 0));
#pragma unroll
  for (int i = 0; i < kRows / kAtOnce; ++i) {
    const int r = i * kAtOnce + first;
    const bool here = live[i * kAtOnce / 32] >> (r % 32) & 1;
    copy_async_16(stage + r * DP + d, here ? p : from, here && d < D);
    p += kAtOnce * row_stride;
  }
}
/// This thread's share of a row as words, columns from D on 0; zeros unless live. `row` points at the thread's first element.
template <Math X, int DP>
__device__ __forceinline__ void load_token(uint32_t (&words)[kWords<X, DP> / 2], const Token<X>* row, bool live, int D, int t) {
  constexpr int V = kVec<X, DP>, kBytes = V * static_cast<int>(sizeof(Token<X>)), kN = kBytes / 4;
#pragma unroll
  for (int j = 0; j < DP / 4 / V; ++j) {
    const bool here = live && j * 4 * V + t * V < D;
    uint32_t* w = words + j * kN;
    if constexpr (kBytes == 16) {
      const uint4 u = here ? __ldg(reinterpret_cast<const uint4*>(row + j * 4 * V)) : make_uint4(0, 0, 0, 0);
      w[0] = u.x, w[1] = u.y, w[2] = u.z, w[3] = u.w;
    } else if constexpr (kBytes == 8) {
      const uint2 u = here ? __ldg(reinterpret_cast<const uint2*>(row + j * 4 * V)) : make_uint2(0, 0);
      w[0] = u.x, w[1] = u.y;
    } else {
      w[0] = here ? __ldg(reinterpret_cast<const uint32_t*>(row + j * 4 * V)) : 0u;
    }
  }
}
/// Bit r of element r / 32: row n0 + r exists and is no padding, for `rows` rows. Every lane of the warp must call it.
template <int kRows>
__device__ __forceinline__ void live_rows(uint32_t (&bits)[(kRows + 31) / 32], const uint8_t* mask, int n0, int count, int lane) {
#pragma unroll
  for (int i = 0; i < (kRows + 31) / 32; ++i) {
    const int n = n0 + 32 * i + lane;
    bits[i] = __ballot_sync(0xffffffffu, n < count && (!mask || mask[n]));
  }
}
__device__ __forceinline__ void store_four(float* p, const float (&x)[4]) {
  *reinterpret_cast<float4*>(p) = make_float4(x[0], x[1], x[2], x[3]);
}
__device__ __forceinline__ void store_four(bf16* p, const float (&x)[4]) {
  *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(x[0], x[1]), pack_bf16(x[2], x[3]));
}
__device__ __forceinline__ void store_two(float* p, float x0, float x1) { *reinterpret_cast<float2*>(p) = make_float2(x0, x1); }
__device__ __forceinline__ void store_two(bf16* p, float x0, float x1) { *reinterpret_cast<uint32_t*>(p) = pack_bf16(x0, x1); }
/// Stores row g + 8*half of weighted sums times factor; the columns are those of value_dim.
template <Math X, int DP>
__device__ __forceinline__ void store_token(Token<X>* row, const float (&acc)[DP / 8][4], int half, float factor, int D, int t) {
  if constexpr (DP == 8) {
    if (2 * t < D) store_two(row + 2 * t, factor * acc[0][2 * half], factor * acc[0][2 * half + 1]);
  } else {
#pragma unroll
    for (int j = 0; j < DP / 8; j += 2) {
      const float x[4] = {factor * acc[j][2 * half], factor * acc[j][2 * half + 1], factor * acc[j + 1][2 * half],
                          factor * acc[j + 1][2 * half + 1]};
      if (8 * j + 4 * t < D) store_four(row + 8 * j + 4 * t, x);
    }
  }
}
/// Whether every score of a head is a safe exponent. Every thread of the block must call it.
__device__ __forceinline__ bool all_safe(const float* part_bound, int n_bounds, bool dropout) {
  bool unsafe = dropout;
  for (int i = static_cast<int>(threadIdx.x); i < n_bounds; i += static_cast<int>(blockDim.x))
    unsafe = unsafe || !(part_bound[i] <= kSafeScore);
  return !__syncthreads_or(unsafe);
}
/// 16 latents as decode meets them; columns beyond the last latent are padding.
template <Math X, int DP> struct Latents16 {
  Cols8<X, DP> q[2];
  Values8<X> z[DP / 8];
  Values8<Math::bf16> ones;  // 1 per latent, 0 per padding
  float live[4];             // the same for columns 2t, 2t + 1, 2t + 8, 2t + 9
  /// `partial`: only the first `tail` columns are latents.
  __device__ __forceinline__ Latents16(const uint32_t* q_table, const uint32_t* z_table, int step, bool partial, int tail,
                                       int lane) {
    read_cols<X, DP>(q, q_table, step, lane), read_values<X, DP>(z, z_table, step, lane);
    ones.r[0] = ones.r[1] = 0x3f803f80u;
#pragma unroll
    for (int c = 0; c < 4; ++c) live[c] = 1;
    if (partial) {
#pragma unroll
      for (int c = 0; c < 4; ++c) live[c] = c / 2 * 8 + 2 * (lane % 4) + c % 2 < tail ? 1.0f : 0.0f;
      ones.r[0] = pack_bf16(live[0], live[1]), ones.r[1] = pack_bf16(live[2], live[3]);
    }
  }
};
/// Decode, 16 latents, every score safe: y += 2^s z and sum += 2^s with origin 0.
template <Math X, int DP, int NT, int kPoly>
__device__ __forceinline__ void decode_step(float (&acc)[NT][DP / 8][4], float (&sum)[NT][4], const Rows16<X, DP> (&k)[NT],
                                            const Latents16<X, DP>& l, uint32_t one) {
#pragma unroll
  for (int i = 0; i < NT; ++i) {
    float s[2][4];
    Weights16<X> w;
    scores(s[0], k[i], l.q[0]), scores(s[1], k[i], l.q[1]);
    if constexpr (X == Math::bf16) {
      exp2_weights<kPoly>(w, s[0], s[1], one);
      add_weighted(sum[i], w, l.ones);
    } else {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[0][e] = exp2_unit(s[0][e]), s[1][e] = exp2_unit(s[1][e]);
#pragma unroll
      for (int half = 0; half < 2; ++half)
        sum[i][2 * half] += fmaf(s[0][2 * half], l.live[0], s[0][2 * half + 1] * l.live[1]) +
                            fmaf(s[1][2 * half], l.live[2], s[1][2 * half + 1] * l.live[3]);
      set_weights(w, s[0], s[1]);
    }
#pragma unroll
    for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], w, l.z[j]);
  }
}
/// Keep factors of tokens n (row) and latents m, m + 1 (columns 2t, 2t + 1); m is even.
__device__ __forceinline__ void token_keep(float (&keep)[2], const AttentionDropout& dropout, int64_t bh, int64_t m, int64_t n,
                                           int half) {
  const Philox4 bits = dropout.patch(bh, m, n);
  keep[0] = dropout.factor(bits, m, n, half), keep[1] = dropout.factor(bits, m + 1, n, half);
}
/// Decode, 16 latents from m on, any scores: the origin of each row follows the largest score seen.
template <Math X, int DP, int NT>
__device__ __forceinline__ void decode_step_slow(float (&acc)[NT][DP / 8][4], float (&sum)[NT][4], float (&origin)[NT][2],
                                                 const Rows16<X, DP> (&k)[NT], const Latents16<X, DP>& l,
                                                 const AttentionDropout& dropout, int64_t bh, int64_t m, int64_t n0, int lane) {
  const int g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < NT; ++i) {
    float s[2][4];
    Weights16<X> w;
    scores(s[0], k[i], l.q[0]), scores(s[1], k[i], l.q[1]);
#pragma unroll
    for (int half = 0; half < 2; ++half) follow_largest(s, half, l.live, origin[i][half], sum[i], acc[i]);
    set_weights(w, s[0], s[1]);
    if constexpr (X == Math::bf16) {
      add_weighted(sum[i], w, l.ones);
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        sum[i][2 * half] += (s[0][2 * half] + s[0][2 * half + 1]) + (s[1][2 * half] + s[1][2 * half + 1]);
    }
    if (dropout.on()) {
#pragma unroll
      for (int c = 0; c < 2; ++c)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float keep[2];
          token_keep(keep, dropout, bh, m + 8 * c + 2 * t, n0 + 16 * i + 8 * half + g, 1);
          s[c][2 * half] *= keep[0], s[c][2 * half + 1] *= keep[1];
        }
      set_weights(w, s[0], s[1]);
    }
#pragma unroll
    for (int j = 0; j < DP / 8; ++j) add_weighted(acc[i][j], w, l.z[j]);
  }
}

}  // namespace flare
