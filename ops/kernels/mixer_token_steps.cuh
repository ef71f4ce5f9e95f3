#pragma once
/// Arguments, tables, loads and stores of the passes that own tokens (mixer_decode.cuh, mixer_dkv.cuh).
///
/// Grid: (h, share of the tokens, b), h fastest; the blocks of a head take turns, group by group, so that all that runs at a time
/// lies close together in memory. A warp owns kTokenTiles*16 tokens at a time in registers and meets the latents 16 at a time in
/// tables in shared memory, which the block copies once if all latents fit, else again for every group of tokens. Reads and writes
/// each token row once.
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
  int64_t first = 0, last = 0;  // latents of this launch, first a multiple of 16; dk and dv are added to where first > 0
  int n_chunks = 1;             // blocks that share a head's tokens
  int n_bounds = 1;
  float safe = 0;         // safe_score(N)
  int table_latents = 0;  // latents whose tables fit in shared memory at once, a multiple of 16
  int D = 0;
  uint32_t one = 0x3f803f80u;  // twice 1.0 in bf16, for exp2_poly_bf16x2
  AttentionDropout dropout;
};

/// Most warps of a block (small inputs take blocks of fewer), blocks that share a multiprocessor, and 16-row tiles of tokens a warp
/// owns: as many rows as registers allow, and then as many warps. Measured choices; see docs/kernels.md.
template <Math X, int DP, TokenPass P>
inline constexpr int kTokenWarps = P == TokenPass::decode || DP > 16 ? 8
                                   : X == Math::bf16                 ? 4
                                                                     : (DP == 8 ? 12 : 8);
template <Math X, int DP, TokenPass P>
inline constexpr int kTokenBlocks = P == TokenPass::decode ? (DP == 64 ? 1 : 2) : (DP <= 16 && X == Math::bf16 ? 3 : 1);
template <Math X, int DP, TokenPass P>
inline constexpr int kTokenTiles = P == TokenPass::decode ? ((DP <= 16 || (X == Math::bf16 && DP == 32)) ? 2 : 1)
                                                          : (DP <= 16 && X == Math::bf16 ? 2 : 1);
/// Whether dq can be summed beside dk and dv: fragments of W are turned in registers, and the sums stand in shared memory.
template <Math X, int DP> inline constexpr bool kTurns = DP <= 32;
/// Words of a table per lane and 16 latents: in f32 the low parts may follow the high ones, where shared memory has room for both;
/// otherwise products split what they read.
template <Math X, int DP> inline constexpr bool kSplitTables = X == Math::f32&& DP <= 16;
template <Math X, int DP> inline constexpr int kTableWords = kWords<X, DP>*(kSplitTables<X, DP> ? 2 : 1);
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
template <bool kExact, Math X, int DP>
__device__ __forceinline__ void read_cols(Cols8<X, DP> (&c)[2], const uint32_t* table, int step, int lane) {
  constexpr int W = kWords<X, DP>;
  uint32_t r[kTableWords<X, DP>];
  read_table<kTableWords<X, DP>>(r, table, step, lane);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
#pragma unroll
    for (int w = 0; w < W / 2; ++w) {
      c[i].r[w] = r[i * W / 2 + w];
      if constexpr (kSplitTables<X, DP>) c[i].lo[w] = r[W + i * W / 2 + w];
    }
    if constexpr (!kSplitTables<X, DP>) split_cols<kExact>(c[i]);
  }
}
template <Math X, int DP>
__device__ __forceinline__ void read_values(Values8<X> (&v)[DP / 8], const uint32_t* table, int step, int lane) {
  constexpr int W = kWords<X, DP>, K = W / (DP / 8);
  uint32_t r[kTableWords<X, DP>];
  read_table<kTableWords<X, DP>>(r, table, step, lane);
#pragma unroll
  for (int j = 0; j < DP / 8; ++j) {
#pragma unroll
    for (int i = 0; i < K; ++i) {
      v[j].r[i] = r[j * K + i];
      if constexpr (kSplitTables<X, DP>) v[j].lo[i] = r[W + j * K + i];
    }
    if constexpr (!kSplitTables<X, DP>) split_values(v[j]);
  }
}

/// Copies steps m0/16 .. + steps of each of a head's tables into shared memory, `room` steps apart.
template <Math X, int DP, int kCount>
__device__ __forceinline__ void copy_tables(uint32_t* to, const uint32_t* from, int all_steps, int first_step, int steps,
                                            int room) {
  constexpr int kStep = 32 * kTableWords<X, DP>;  // words
#pragma unroll
  for (int i = 0; i < kCount; ++i)
    for (int w = 4 * static_cast<int>(threadIdx.x); w < steps * kStep; w += 4 * static_cast<int>(blockDim.x))
      copy_async_16(to + i * room * kStep + w, from + static_cast<int64_t>(i * all_steps + first_step) * kStep + w, true);
}

/// Whether a warp's rows come through shared memory, where asynchronous copies put them one group ahead.
template <Math X, int DP> inline constexpr bool kRing = DP * sizeof(Token<X>) <= 64;
/// Bytes of a warp: kArrays arrays of kRows rows, and a float per row.
template <Math X, int DP, int kArrays, int kRows>
inline constexpr int kRingStage = kRing<X, DP> ? kRows*(kArrays* DP* static_cast<int>(sizeof(Token<X>)) + 4) : 0;
/// Where the rows of a head lie: row n is at base + n * bytes, one multiplication away.
template <class T> struct HeadRows {
  T* base;
  uint32_t bytes;
  __device__ __forceinline__ T* row(int n) const {
    return reinterpret_cast<T*>(reinterpret_cast<uint64_t>(base) + static_cast<uint64_t>(static_cast<uint32_t>(n)) * bytes);
  }
};
/// The heads' pointers of a block stand in shared memory: kept in registers they would cost a warp its rows, and the compiler, left
/// to itself, computes them from the block's indices again and again. `volatile` makes it read them.
struct HeadPointers {
  const void *k, *v, *g, *y;
  void *out, *dk, *dv;
};
template <class T, class P> __device__ __forceinline__ HeadRows<T> head_rows(P* const volatile& base, int64_t row) {
  return {static_cast<T*>(base), static_cast<uint32_t>(row * static_cast<int64_t>(sizeof(T)))};
}
/// Starts the copy of kRows rows from row n on; those whose bit in `live` is 0 become zeros, whatever their address.
template <Math X, int DP, int kRows>
__device__ __forceinline__ void fill_rows(Token<X>* stage, const HeadRows<const Token<X>>& from, int n,
                                          const uint32_t (&live)[(kRows + 31) / 32], int D, int lane) {
  constexpr int kUnit = 16 / static_cast<int>(sizeof(Token<X>)), kUnits = DP / kUnit, kAtOnce = 32 / kUnits;
  const int first = lane / kUnits, d = lane % kUnits * kUnit;
#pragma unroll
  for (int i = 0; i < kRows / kAtOnce; ++i) {
    const int r = i * kAtOnce + first;
    copy_async_16(stage + r * DP + d, from.row(n + r) + d, (live[i * kAtOnce / 32] >> (r % 32) & 1) && d < D);
  }
}
/// Where rows do not come through shared memory: 16 rows from n on are asked for in advance, a line a lane.
template <class T, int DP>
__device__ __forceinline__ void prefetch_rows(const HeadRows<T>& from, int n, int count, int D, int lane) {
  constexpr int kLine = 128 / static_cast<int>(sizeof(T));
#pragma unroll
  for (int d = lane / 16 * kLine; d < DP; d += 2 * kLine)
    if (n + lane % 16 < count && d < D) prefetch(from.row(n + lane % 16) + d);
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
/// Stores row g + 8*half of weighted sums times factor, 0 unless live, plus what is there if `add`; the columns are those of
/// value_dim.
template <Math X, int DP>
__device__ __forceinline__ void store_token(Token<X>* row, const float (&acc)[DP / 8][4], int half, float factor, bool live, int D,
                                            int t, bool add = false) {
  constexpr int kPairs = DP == 8 ? 1 : 2;  // of neighbouring columns, a fragment each
#pragma unroll
  for (int j = 0; j < DP / 8; j += kPairs) {
    const int d = 8 * j + 2 * kPairs * t;
    if (d >= D) continue;
    Token<X>* to = row + d;
    uint32_t words[2 * kPairs];
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      float x0 = factor * acc[j + p][2 * half], x1 = factor * acc[j + p][2 * half + 1];
      if (add) x0 += static_cast<float>(to[2 * p]), x1 += static_cast<float>(to[2 * p + 1]);
      if constexpr (X == Math::bf16)
        words[p] = live ? pack_bf16(x0, x1) : 0u;
      else
        words[2 * p] = live ? __float_as_uint(x0) : 0u, words[2 * p + 1] = live ? __float_as_uint(x1) : 0u;
    }
    if constexpr (X == Math::bf16 && kPairs == 1)
      *reinterpret_cast<uint32_t*>(to) = words[0];
    else if constexpr (X == Math::bf16 || kPairs == 1)
      store_words(to, words[0], words[1]);
    else
      store_words(to, words[0], words[1], words[2], words[3]);
  }
}
/// 16 latents as decode meets them; where kPartial, columns from `tail` on are padding.
template <Math X, int DP> struct Latents16 {
  Cols8<X, DP> q[2];
  Values8<X> z[DP / 8];
  Values8<Math::bf16> ones;  // 1 per latent, 0 per padding
  float live[4];             // the same for columns 2t, 2t + 1, 2t + 8, 2t + 9
};
template <bool kPartial, Math X, int DP>
__device__ __forceinline__ Latents16<X, DP> read_latents(const uint32_t* q_table, const uint32_t* z_table, int step, int tail,
                                                         int lane) {
  Latents16<X, DP> l;
  read_cols<true>(l.q, q_table, step, lane), read_values<X, DP>(l.z, z_table, step, lane);
#pragma unroll
  for (int c = 0; c < 4; ++c) l.live[c] = !kPartial || c / 2 * 8 + 2 * (lane % 4) + c % 2 < tail ? 1.0f : 0.0f;
  l.ones.r[0] = pack_bf16(l.live[0], l.live[1]), l.ones.r[1] = pack_bf16(l.live[2], l.live[3]);
  return l;
}
/// Decode, 16 latents, every score safe: y += 2^s z and sum += 2^s with origin 0.
template <Math X, int DP, int NT, int kPoly>
__device__ __forceinline__ void decode_step(float (&acc)[NT][DP / 8][4], float (&sum)[NT][4], const Rows16<X, DP> (&k)[NT],
                                            const Latents16<X, DP>& l, uint32_t one) {
#pragma unroll
  for (int i = 0; i < NT; ++i) {
    float s[2][4];
    Weights16<X> w;
    scores<X, DP, true>(s[0], k[i], l.q[0]), scores<X, DP, true>(s[1], k[i], l.q[1]);
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
    scores<X, DP, true>(s[0], k[i], l.q[0]), scores<X, DP, true>(s[1], k[i], l.q[1]);
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
