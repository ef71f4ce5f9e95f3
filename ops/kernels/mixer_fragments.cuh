#pragma once
/// What one warp of the mixer's tensor-core kernels holds: tokens and latents as matrix fragments, their scores, weights and
/// weighted sums. Two products make every pass: scores (the summed index is the head width) and weighted sums (the summed index is
/// the streamed side, 16 at a time). The precision is a template argument:
///   bf16  operands rounded to bf16, sums in f32
///   tf32  operands rounded to tf32 (10 bits of mantissa), sums in f32
///   f32   each operand split in two tf32 numbers, x = hi + lo with |lo| <= 2^-11 |x|; hi*hi + hi*lo + lo*hi leaves 2^-22. The
///         matrix units truncate when they add, so long sums are added outside of them
#include "ops/kernels/attention.cuh"
#include "ops/kernels/flare_mixer.h"
#include "ops/kernels/mma.cuh"

namespace flare {

/// Whether lse comes with a correction; see MixerArgs. In bf16 the rounding of lse does not show.
template <Math X> inline constexpr bool kHasRest = X != Math::bf16;
/// A thread's share of a row is DP/4 elements, kVec neighbours at a time. element_dim(t, e) is the column of its e-th; any fixed
/// order serves, because scores sum over it, and this one makes every load as wide as possible.
template <Math X, int DP> inline constexpr int kVec = X == Math::bf16 ? (DP / 4 < 8 ? DP / 4 : 8) : (DP / 4 < 4 ? DP / 4 : 4);
template <Math X, int DP> __device__ __forceinline__ constexpr int element_dim(int t, int e) {
  return e / kVec<X, DP> * 4 * kVec<X, DP> + t * kVec<X, DP> + e % kVec<X, DP>;
}
/// Column of a weighted sum that stands in column c of its j-th fragment: a thread's columns of two fragments are neighbours.
template <int DP> __device__ __forceinline__ constexpr int value_dim(int j, int c) {
  return DP == 8 ? c : j / 2 * 16 + c / 2 * 4 + j % 2 * 2 + c % 2;
}

/// 32-bit words of a thread per 16 rows, for either side of a product: two bf16 or one f32 each.
template <Math X, int DP> inline constexpr int kWords = X == Math::bf16 ? DP / 4 : DP / 2;
/// Score steps over the head width: 16 elements each in bf16 (8 when DP = 8), else 8.
template <Math X, int DP> inline constexpr int kScoreSteps = X == Math::bf16 ? (DP + 15) / 16 : DP / 8;

/// split_tf32 with hi = x, whose lower bits the unit drops: an instruction less, a remainder twice as large and of one sign. Good
/// enough for all but the scores that become exponents.
__device__ __forceinline__ uint32_t tf32_remainder(uint32_t x) {
  return tf32_nearest(__float_as_uint(__uint_as_float(x) - __uint_as_float(x & 0xffffe000u)));
}
template <bool kExact> __device__ __forceinline__ void split_word(uint32_t x, uint32_t& hi, uint32_t& lo) {
  if constexpr (kExact)
    split_tf32(x, hi, lo);
  else
    hi = x, lo = tf32_remainder(x);
}
/// What f32 operands carry beside their words: the low parts, or nothing.
template <Math X, int W> inline constexpr int kLowWords = X == Math::f32 ? W : 1;

/// 16 rows as the left side of scores. word(half, w): row g + 8*half, the w-th word of the thread's share; stored as products read
/// it, in f32 with the words already split where registers allow.
template <Math X, int DP> inline constexpr bool kSplitRows = X == Math::f32&& DP <= 16;
template <Math X, int DP> struct Rows16 {
  uint32_t r[kWords<X, DP>];
  uint32_t lo[kSplitRows<X, DP> ? kWords<X, DP> : 1];
  __device__ __forceinline__ uint32_t& word(int half, int w) { return r[2 * w + half]; }
  __device__ __forceinline__ uint32_t word(int half, int w) const { return r[2 * w + half]; }
  __device__ __forceinline__ void set_row(int half, const uint32_t (&words)[kWords<X, DP> / 2]) {
#pragma unroll
    for (int w = 0; w < kWords<X, DP> / 2; ++w) word(half, w) = words[w];
  }
  /// To be called once the rows are set. Gives the words new registers, in the order in which the products read them; otherwise the
  /// compiler keeps them where the load put them and copies them at each use. `nothing` is 0 in a way that the compiler cannot see.
  __device__ __forceinline__ void settle(uint32_t nothing) {
#pragma unroll
    for (int w = 0; w < kWords<X, DP>; ++w) {
      if constexpr (kSplitRows<X, DP>) {
        split_tf32(r[w], r[w], lo[w]);
        lo[w] |= nothing;
      } else if constexpr (X == Math::tf32) {
        r[w] = tf32_nearest(r[w]);
      }
      r[w] |= nothing;
    }
  }
};
/// 8 rows of the other side as the right side of scores; in f32 split, by split_cols or in a table.
template <Math X, int DP> struct Cols8 {
  uint32_t r[kWords<X, DP> / 2];
  uint32_t lo[kLowWords<X, kWords<X, DP> / 2>];
};
template <bool kExact, Math X, int DP> __device__ __forceinline__ void split_cols(Cols8<X, DP>& c) {
  if constexpr (X == Math::f32) {
#pragma unroll
    for (int w = 0; w < kWords<X, DP> / 2; ++w) split_word<kExact>(c.r[w], c.r[w], c.lo[w]);
  }
}
/// One row's share of a thread, from or to f32.
template <Math X, int DP> __device__ __forceinline__ void pack_row(Rows16<X, DP>& rows, int half, const float (&x)[DP / 4]) {
#pragma unroll
  for (int w = 0; w < kWords<X, DP> / 2; ++w)
    rows.word(half, w) = X == Math::bf16 ? pack_bf16(x[2 * w], x[(2 * w + 1) % (DP / 4)]) : __float_as_uint(x[w % (DP / 4)]);
}
template <Math X, int DP> __device__ __forceinline__ void unpack_row(const uint32_t* words, float (&x)[DP / 4]) {
#pragma unroll
  for (int e = 0; e < DP / 4; ++e)
    x[e] = X != Math::bf16 ? __uint_as_float(words[e % (kWords<X, DP> / 2)])
                           : (e % 2 ? bf16_high(words[e / 2]) : bf16_low(words[e / 2]));
}

/// c = a b^T + init over the head width. In f32 the small products come first, so that few sums are truncated at the magnitude of
/// the whole, and those of the latents' low parts before those of the tokens': a score is then the same number whichever side
/// is the left one, and the errors of scores and log-sum-exps cancel. kTokensLeft says which it is, kExact how to split rows that
/// have not been.
template <Math X, int DP, bool kTokensLeft, bool kExact = true>
__device__ __forceinline__ void scores(float (&c)[4], const Rows16<X, DP>& a, const Cols8<X, DP>& b, const float (&init)[4]) {
  if constexpr (X == Math::bf16 && DP == 8) {
    mma_bf16_k8(c, a.word(0, 0), a.word(1, 0), b.r[0], init);
  } else if constexpr (X == Math::bf16) {
#pragma unroll
    for (int s = 0; s < kScoreSteps<X, DP>; ++s) {
      const uint32_t left[4] = {a.word(0, 2 * s), a.word(1, 2 * s), a.word(0, 2 * s + 1), a.word(1, 2 * s + 1)};
      if (s == 0)
        mma_bf16_k16(c, left, b.r[0], b.r[1], init);
      else
        mma_bf16_k16(c, left, b.r[2 * s], b.r[2 * s + 1], c);
    }
  } else if constexpr (X == Math::tf32) {
#pragma unroll
    for (int s = 0; s < kScoreSteps<X, DP>; ++s) {
      const uint32_t left[4] = {a.word(0, 2 * s), a.word(1, 2 * s), a.word(0, 2 * s + 1), a.word(1, 2 * s + 1)};
      const uint32_t b0 = tf32_nearest(b.r[2 * s]), b1 = tf32_nearest(b.r[2 * s + 1]);
      if (s == 0)
        mma_tf32_k8(c, left, b0, b1, init);
      else
        mma_tf32_k8(c, left, b0, b1, c);
    }
  } else {
    uint32_t hi[kScoreSteps<X, DP>][4];
#pragma unroll
    for (int i = 0; i < 4; ++i) c[i] = init[i];
#pragma unroll
    for (int s = 0; s < kScoreSteps<X, DP>; ++s) {
      uint32_t lo[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        if constexpr (kSplitRows<X, DP>)
          hi[s][i] = a.r[4 * s + i], lo[i] = a.lo[4 * s + i];
        else
          split_word<kExact>(a.r[4 * s + i], hi[s][i], lo[i]);
      }
      if (kTokensLeft) {
        mma_tf32_k8(c, hi[s], b.lo[2 * s], b.lo[2 * s + 1], c);
        mma_tf32_k8(c, lo, b.r[2 * s], b.r[2 * s + 1], c);
      } else {
        mma_tf32_k8(c, lo, b.r[2 * s], b.r[2 * s + 1], c);
        mma_tf32_k8(c, hi[s], b.lo[2 * s], b.lo[2 * s + 1], c);
      }
    }
#pragma unroll
    for (int s = 0; s < kScoreSteps<X, DP>; ++s) mma_tf32_k8(c, hi[s], b.r[2 * s], b.r[2 * s + 1], c);
  }
}
template <Math X, int DP, bool kTokensLeft, bool kExact = true>
__device__ __forceinline__ void scores(float (&c)[4], const Rows16<X, DP>& a, const Cols8<X, DP>& b) {
  const float zero[4] = {0, 0, 0, 0};
  scores<X, DP, kTokensLeft, kExact>(c, a, b, zero);
}

/// Weights of 16 rows and 16 streamed columns, as the left side of a weighted sum.
template <Math X> struct Weights16 { uint32_t r[X == Math::bf16 ? 4 : 8]; };
/// Columns 8c .. 8c + 7 from an accumulator.
__device__ __forceinline__ void set_weights(Weights16<Math::bf16>& w, int c, const float (&s)[4]) {
  w.r[2 * c] = pack_bf16(s[0], s[1]), w.r[2 * c + 1] = pack_bf16(s[2], s[3]);
}
template <Math X> __device__ __forceinline__ void set_weights(Weights16<X>& w, int c, const float (&s)[4]) {
  // Columns 2t and 2t+1 become elements t and t+4 of the summed index; Values8 pairs its rows likewise.
  w.r[4 * c] = __float_as_uint(s[0]), w.r[4 * c + 1] = __float_as_uint(s[2]), w.r[4 * c + 2] = __float_as_uint(s[1]),
          w.r[4 * c + 3] = __float_as_uint(s[3]);
}
template <Math X> __device__ __forceinline__ void set_weights(Weights16<X>& w, const float (&s0)[4], const float (&s1)[4]) {
  set_weights(w, 0, s0), set_weights(w, 1, s1);
}
/// 16 streamed rows of 8 columns. bf16: r[i] = rows (8i + 2t, 8i + 2t + 1) of column g; else r[2i], r[2i + 1] are those two rows,
/// in f32 split, by split_values or in a table.
template <Math X> struct Values8 {
  uint32_t r[X == Math::bf16 ? 2 : 4];
  uint32_t lo[kLowWords<X, 4>];
};
template <Math X> __device__ __forceinline__ void split_values(Values8<X>& v) {
  if constexpr (X == Math::f32) {
#pragma unroll
    for (int i = 0; i < 4; ++i) split_tf32(v.r[i], v.r[i], v.lo[i]);
  }
}
/// acc += w v. In f32 sums leave the unit, which truncates when it adds, every 16 rows.
template <Math X> __device__ __forceinline__ void add_weighted(float (&acc)[4], const Weights16<X>& w, const Values8<X>& v) {
  if constexpr (X == Math::bf16) {
    mma_bf16_k16(acc, w.r, v.r[0], v.r[1], acc);
  } else if constexpr (X == Math::tf32) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t left[4] = {tf32_nearest(w.r[4 * i]), tf32_nearest(w.r[4 * i + 1]), tf32_nearest(w.r[4 * i + 2]),
                                tf32_nearest(w.r[4 * i + 3])};
      mma_tf32_k8(acc, left, tf32_nearest(v.r[2 * i]), tf32_nearest(v.r[2 * i + 1]), acc);
    }
  } else {
    float part[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t high[4] = {w.r[4 * i], w.r[4 * i + 1], w.r[4 * i + 2], w.r[4 * i + 3]};
      const uint32_t low[4] = {tf32_remainder(high[0]), tf32_remainder(high[1]), tf32_remainder(high[2]), tf32_remainder(high[3])};
      mma_tf32_k8(part, low, v.r[2 * i], v.r[2 * i + 1], part);
      mma_tf32_k8(part, high, v.lo[2 * i], v.lo[2 * i + 1], part);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t high[4] = {w.r[4 * i], w.r[4 * i + 1], w.r[4 * i + 2], w.r[4 * i + 3]};
      mma_tf32_k8(part, high, v.r[2 * i], v.r[2 * i + 1], part);
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[j] += part[j];
  }
}

__device__ __forceinline__ float exp2_unit(float x) {  // the special-function unit: 2 ulp, 16 a clock and multiprocessor
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
__device__ __forceinline__ uint32_t fma_bf16x2(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
/// Two powers of two in bf16 without the special-function unit, eight instructions for both; for -127 < x < 128 only.
/// Adding 1.5*2^16 + 127 leaves 128 (x + 127), rounded, in the low 16 bits: as bf16 bits that is 2^i (1 + f), the straight line
/// between powers, with i + f = x. The missing 2^f - 1 - f = -c(f) is a parabola in u = 1 + f within 0.57 %, fitted to the least
/// mean square after all roundings: relative error 0.20 % r.m.s. and -0.01 % in the mean, where rounding to bf16 has 0.16 %.
/// `one` is 0x3f803f80, twice 1.0, in a register: with two immediates the mantissa's extraction would cost two instructions.
__device__ __forceinline__ uint32_t exp2_poly_bf16x2(float x0, float x1, uint32_t one) {
  const float magic = 98431.0f;
  const uint32_t line = __byte_perm(__float_as_uint(x0 + magic), __float_as_uint(x1 + magic), 0x5410);
  const uint32_t u = (line & 0x007f007fu) | one, power = line & 0xff80ff80u;
  const uint32_t slope = fma_bf16x2(u, 0x3eb03eb0u, 0xbf85bf85u);  // 0.34375, -1.0390625
  const uint32_t minus_c = fma_bf16x2(u, slope, 0x3f333f33u);      // 0.69921875
  return fma_bf16x2(minus_c, power, line);
}

/// Scores become weights 2^s, in the precision of the products. kPoly of the two column tiles go to the polynomial.
template <int kPoly>
__device__ __forceinline__ void exp2_weights(Weights16<Math::bf16>& w, const float (&s0)[4], const float (&s1)[4], uint32_t one) {
  if constexpr (kPoly == 2)
    w.r[0] = exp2_poly_bf16x2(s0[0], s0[1], one), w.r[1] = exp2_poly_bf16x2(s0[2], s0[3], one);
  else
    w.r[0] = pack_bf16(exp2_unit(s0[0]), exp2_unit(s0[1])), w.r[1] = pack_bf16(exp2_unit(s0[2]), exp2_unit(s0[3]));
  if constexpr (kPoly >= 1)
    w.r[2] = exp2_poly_bf16x2(s1[0], s1[1], one), w.r[3] = exp2_poly_bf16x2(s1[2], s1[3], one);
  else
    w.r[2] = pack_bf16(exp2_unit(s1[0]), exp2_unit(s1[1])), w.r[3] = pack_bf16(exp2_unit(s1[2]), exp2_unit(s1[3]));
}

/// Of columns 8c .. 8c + 7: e = 2^s, and w = e x; s and x are used up, and x is w in f32.
template <int kPoly>
__device__ __forceinline__ void weigh(Weights16<Math::bf16>& e, Weights16<Math::bf16>& w, int c, float (&s)[4], float (&x)[4],
                                      uint32_t one) {
  if (c < kPoly) {
    e.r[2 * c] = exp2_poly_bf16x2(s[0], s[1], one), e.r[2 * c + 1] = exp2_poly_bf16x2(s[2], s[3], one);
    w.r[2 * c] = fma_bf16x2(e.r[2 * c], pack_bf16(x[0], x[1]), 0x80008000u);
    w.r[2 * c + 1] = fma_bf16x2(e.r[2 * c + 1], pack_bf16(x[2], x[3]), 0x80008000u);
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i) s[i] = exp2_unit(s[i]), x[i] *= s[i];
    e.r[2 * c] = pack_bf16(s[0], s[1]), e.r[2 * c + 1] = pack_bf16(s[2], s[3]);
    w.r[2 * c] = pack_bf16(x[0], x[1]), w.r[2 * c + 1] = pack_bf16(x[2], x[3]);
  }
}
template <int kPoly, Math X>
__device__ __forceinline__ void weigh(Weights16<X>& e, Weights16<X>& w, int c, float (&s)[4], float (&x)[4], uint32_t) {
#pragma unroll
  for (int i = 0; i < 4; ++i) s[i] = exp2_unit(s[i]), x[i] *= s[i];
  set_weights(e, c, s), set_weights(w, c, x);
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}
/// Running maxima of a thread's share of |row|^2, one per word's half: their sum over a quad bounds every |row|^2. NaN stays.
template <Math X> struct LargestRow {
  uint32_t most = 0;
  template <int W> __device__ __forceinline__ void see(const uint32_t (&r)[W]) {
    if constexpr (X == Math::bf16) {
      uint32_t squares = 0;
#pragma unroll
      for (int i = 0; i < W; ++i) squares = fma_bf16x2(r[i], r[i], squares);
      asm("max.NaN.bf16x2 %0, %0, %1;" : "+r"(most) : "r"(squares));
    } else {
      float squares = 0, m = __uint_as_float(most);
#pragma unroll
      for (int i = 0; i < W; ++i) squares = fmaf(__uint_as_float(r[i]), __uint_as_float(r[i]), squares);
      asm("max.NaN.f32 %0, %0, %1;" : "+f"(m) : "f"(squares));
      most = __float_as_uint(m);
    }
  }
  /// An upper bound on |row| over the rows that the quad has seen; 2 % cover the rounding.
  __device__ __forceinline__ float bound() const {
    const float share = X == Math::bf16 ? bf16_low(most) + bf16_high(most) : __uint_as_float(most);
    return 1.02f * sqrtf(quad_sum(share));
  }
};
__device__ __forceinline__ float warp_max_of(float x) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    const float y = __shfl_xor_sync(0xffffffffu, x, d);
    x = x >= y || x != x ? x : y;  // NaN wins
  }
  return x;
}

/// A log-sum-exp as an exponent of 2. Rounded as it stands: contracted with a sum, as compilers do, the product would differ from
/// the one that `rest` corrects by up to half a unit in its last place, 4e-6 where scores reach 80.
__device__ __forceinline__ float in_base_2(float lse) { return __fmul_rn(kLog2e, lse); }
/// lse of a row from its origin (a power of two) and sum of weights; 0 for a row without weights. In f32 also what rounding lse
/// loses: a weight is 2^(s - in_base_2(lse)) / rest.
template <Math X> __device__ __forceinline__ void store_lse(float* lse, float* rest, int64_t at, float origin, float sum) {
  const float value = sum > 0 ? kLn2 * (origin + (X == Math::f32 ? log2f(sum) : __log2f(sum))) : 0.0f;
  lse[at] = value;
  if constexpr (kHasRest<X>) rest[at] = sum > 0 ? sum * exp2f(origin - in_base_2(value)) : 1.0f;
}

/// This thread's share of a row in shared memory.
template <Math X, int DP>
__device__ __forceinline__ void read_row(uint32_t (&words)[kWords<X, DP> / 2], const Token<X>* row, int t) {
  constexpr int V = kVec<X, DP>, kBytes = V * static_cast<int>(sizeof(Token<X>)), kN = kBytes / 4;
#pragma unroll
  for (int j = 0; j < DP / 4 / V; ++j) {
    const Token<X>* p = row + j * 4 * V + t * V;
    uint32_t* w = words + j * kN;
    if constexpr (kBytes == 16) {
      const uint4 u = *reinterpret_cast<const uint4*>(p);
      w[0] = u.x, w[1] = u.y, w[2] = u.z, w[3] = u.w;
    } else if constexpr (kBytes == 8) {
      const uint2 u = *reinterpret_cast<const uint2*>(p);
      w[0] = u.x, w[1] = u.y;
    } else {
      w[0] = *reinterpret_cast<const uint32_t*>(p);
    }
  }
}
/// Online softmax over 16 columns of row g + 8*half: scores become weights from an origin that follows the largest score seen, and
/// what was summed from the old origin shrinks. live: whether columns 2t, 2t + 1, 2t + 8, 2t + 9 count.
template <int J>
__device__ __forceinline__ void follow_largest(float (&s)[2][4], int half, const float (&live)[4], float& origin, float (&sum)[4],
                                               float (&acc)[J][4]) {
  float most = minus_infinity();
#pragma unroll
  for (int c = 0; c < 4; ++c) {
    float& x = s[c / 2][2 * half + c % 2];
    x = live[c] > 0.0f ? x : minus_infinity();
    most = fmaxf(most, x);
  }
  most = fmaxf(origin, quad_max(most));
  const float from = most == minus_infinity() ? 0.0f : most, shrink = exp2_unit(origin - from);
  origin = most;
  sum[2 * half] *= shrink, sum[2 * half + 1] *= shrink;
#pragma unroll
  for (int j = 0; j < J; ++j) acc[j][2 * half] *= shrink, acc[j][2 * half + 1] *= shrink;
#pragma unroll
  for (int c = 0; c < 4; ++c) s[c / 2][2 * half + c % 2] = exp2_unit(s[c / 2][2 * half + c % 2] - from);
}

/// Scores (in powers of two) below this magnitude need no origin: every weight, sum of weights over N tokens or 2048 latents, and
/// quotient of sums stays a normal f32 and bf16 number, and so do cotangents down to 2^-40 times 2^-lse (lse <= limit + log2 N). In
/// bf16 differences s - lse must be above -127 too, for exp2_poly_bf16x2.
template <Math X> float safe_score(int64_t N) {
  if (X == Math::bf16) return 56;
  int bits = 10;
  while (int64_t{1} << bits < N) ++bits;
  return static_cast<float>(86 - bits);
}

/// Whether every score of a head is a safe exponent: `limit` is safe_score of its tokens. Every thread of the block must call it.
__device__ __forceinline__ bool all_safe(const float* part_bound, int n_bounds, float limit, bool dropout) {
  bool unsafe = dropout;
  for (int i = static_cast<int>(threadIdx.x); i < n_bounds; i += static_cast<int>(blockDim.x))
    unsafe = unsafe || !(part_bound[i] <= limit);
  return !__syncthreads_or(unsafe);
}

}  // namespace flare
