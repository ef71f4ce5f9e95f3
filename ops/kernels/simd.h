#pragma once
/// Vector arithmetic for the CPU attention kernels, in GCC/Clang vector extensions, as wide as the target's registers:
/// wider ones would spill. A "block" is kBlock owners side by side in the lanes of two vectors; the other side of the attention is
/// streamed past them row by row, so no reduction ever runs across lanes.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <type_traits>
#include <utility>

#include "core/dtype.h"
#include "ops/kernels/attention.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a call that is not inlined

namespace flare::simd {

#if defined(__AVX512F__)
#define FLARE_VECTOR_BYTES 64
#else
#define FLARE_VECTOR_BYTES 32
#endif
template <class A> struct VecOf;
template <> struct VecOf<float> { typedef float type __attribute__((vector_size(FLARE_VECTOR_BYTES), may_alias)); };
template <> struct VecOf<double> { typedef double type __attribute__((vector_size(FLARE_VECTOR_BYTES), may_alias)); };
template <class A> using Vec = typename VecOf<A>::type;
template <class A> inline constexpr int64_t kLanes = FLARE_VECTOR_BYTES / static_cast<int64_t>(sizeof(A));
template <class A> inline constexpr int64_t kBlock = 2 * kLanes<A>;

template <class A> inline Vec<A>& at(A* p) { return *reinterpret_cast<Vec<A>*>(p); }
template <class A> inline const Vec<A>& at(const A* p) { return *reinterpret_cast<const Vec<A>*>(p); }

/// The vector at p, loaded once: without the barrier GCC reads it again for every product that it enters, and the two load ports
/// become the limit.
template <class A> inline __attribute__((always_inline)) Vec<A> load(const A* p) {
  Vec<A> v = at(p);
#if defined(__AVX512F__)
  asm("" : "+v"(v));
#elif defined(__AVX__)
  asm("" : "+x"(v));
#endif
  return v;
}

/// e^x in each lane. float: within 2 ulp on [-87.3, 88], 0 below (so e^-inf is exactly 0), clamped above; NaN stays NaN.
inline __attribute__((always_inline)) Vec<float> vexp(Vec<float> x) {
  typedef int32_t Ints __attribute__((vector_size(FLARE_VECTOR_BYTES)));
  constexpr float kLowest = -87.3f, kHighest = 88.0f, kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Ints is_zero = x < kLowest;
  Vec<float> c = x < kLowest ? Vec<float>{} + kLowest : x;
  c = c > kHighest ? Vec<float>{} + kHighest : c;
  const Vec<float> shifted = c * 1.44269504088896341f + kRound;
  const Vec<float> n = shifted - kRound;
  const Vec<float> r = (c - n * 0.693359375f) + n * 2.12194440054690583e-4f;  // ln 2 in two parts, the first exact in 10 bits
  // Taylor to degree 7: the remainder on |r| <= ln(2)/2 is 5e-9.
  Vec<float> p = r * (1.0f / 5040) + (1.0f / 720);
  p = p * r + (1.0f / 120);
  p = p * r + (1.0f / 24);
  p = p * r + (1.0f / 6);
  p = p * r + 0.5f;
  p = p * (r * r) + r + 1.0f;
  // The integer sits in the low bits of `shifted`; moved into the exponent field it multiplies by 2^n.
  Ints bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  bits = (bits - 0x4b400000 + 127) << 23;
  Vec<float> power;
  std::memcpy(&power, &bits, sizeof power);
  return is_zero ? Vec<float>{} : p * power;
}
inline __attribute__((always_inline)) Vec<double> vexp(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp(x[i]);
  return x;
}

/// 2^x in each lane, |x| <= 126: outside the float result is garbage, so the caller bounds x. Within 1 ulp.
inline __attribute__((always_inline)) Vec<float> vexp2(Vec<float> x) {
  typedef uint32_t Ints __attribute__((vector_size(FLARE_VECTOR_BYTES)));
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const Vec<float> shifted = x + kRound;
  const Vec<float> r = x - (shifted - kRound);
  // Fit of least relative error on |r| <= 1/2 with constant term 1: 1.6e-8.
  Vec<float> p = r * 0x1.41d334p-13f + 0x1.5f456ap-10f;
  p = p * r + 0x1.3b2dbcp-7f;
  p = p * r + 0x1.c6aed4p-5f;
  p = p * r + 0x1.ebfbdap-3f;
  p = p * r + 0x1.62e430p-1f;
  p = p * r + 1.0f;
  Ints bits, n;  // the integer sits in the low bits of `shifted`: moved up it adds to the exponent of p
  std::memcpy(&bits, &p, sizeof bits);
  std::memcpy(&n, &shifted, sizeof n);
  bits += n << 23;
  std::memcpy(&p, &bits, sizeof p);
  return p;
}
inline __attribute__((always_inline)) Vec<double> vexp2(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::exp2(x[i]);
  return x;
}

/// ln x in each lane of a positive normal x; float: within 2 ulp of the larger of the result and 1/8.
inline __attribute__((always_inline)) Vec<float> vlog(Vec<float> x) {
  typedef int32_t Ints __attribute__((vector_size(FLARE_VECTOR_BYTES)));
  Ints bits;
  std::memcpy(&bits, &x, sizeof bits);
  const Ints n = (bits - 0x3f3504f3) >> 23;  // x = m 2^n with m in [sqrt(1/2), sqrt(2))
  bits -= n << 23;
  Vec<float> m;
  std::memcpy(&m, &bits, sizeof m);
  const Vec<float> t = (m - 1.0f) / (m + 1.0f), t2 = t * t;  // ln m = 2 artanh t, |t| <= 0.172
  Vec<float> p = t2 * (2.0f / 9) + (2.0f / 7);
  p = p * t2 + (2.0f / 5);
  p = p * t2 + (2.0f / 3);
  p = p * t2 * t + 2.0f * t;
  const Vec<float> e = __builtin_convertvector(n, Vec<float>);
  return e * 0.693359375f + (p - e * 2.12194440054690583e-4f);
}
inline __attribute__((always_inline)) Vec<double> vlog(Vec<double> x) {
  for (int i = 0; i < kLanes<double>; ++i) x[i] = std::log(x[i]);
  return x;
}

/// out[i] = sum of the lanes of rows[i][kLanes], i < kLanes: a tree of pairwise sums.
template <class A> inline Vec<A> lane_sums(const A* rows) {
  constexpr int64_t L = kLanes<A>;
  Vec<A> v[L];
  for (int64_t i = 0; i < L; ++i) v[i] = at(rows + i * L);
  const auto pairs = []<size_t... I>(Vec<A> x, Vec<A> y, std::index_sequence<I...>) {
    return __builtin_shufflevector(x, y, static_cast<int>(2 * I)...) +
           __builtin_shufflevector(x, y, static_cast<int>(2 * I + 1)...);
  };
  for (int64_t n = L / 2; n >= 1; n /= 2)
    for (int64_t i = 0; i < n; ++i) v[i] = pairs(v[2 * i], v[2 * i + 1], std::make_index_sequence<static_cast<size_t>(L)>{});
  return v[0];
}

/// f(integral_constant<D>) for the usual head widths, so that loops over D unroll; f(integral_constant<0>) for any other.
template <class F> inline void with_width(int64_t D, const F& f) {
  switch (D) {
    case 4: return f(std::integral_constant<int64_t, 4>{});
    case 8: return f(std::integral_constant<int64_t, 8>{});
    case 16: return f(std::integral_constant<int64_t, 16>{});
    case 24: return f(std::integral_constant<int64_t, 24>{});
    case 32: return f(std::integral_constant<int64_t, 32>{});
    case 64: return f(std::integral_constant<int64_t, 64>{});
    default: return f(std::integral_constant<int64_t, 0>{});
  }
}

/// 64-byte aligned array, zero at start unless told otherwise.
template <class A> class Buffer {
 public:
  explicit Buffer(int64_t n, bool zero = true)
      : data_(static_cast<A*>(::operator new (static_cast<size_t>(n > 0 ? n : 1) * sizeof(A), std::align_val_t{64}))) {
    if (zero) std::memset(static_cast<void*>(data_.get()), 0, static_cast<size_t>(n > 0 ? n : 1) * sizeof(A));
  }
  A* get() const { return data_.get(); }
  A& operator[](int64_t i) const { return data_.get()[i]; }

 private:
  struct Free {
    void operator()(A* p) const { ::operator delete (p, std::align_val_t{64}); }
  };
  std::unique_ptr<A, Free> data_;
};

/// s[j][lane] = start(j) + sum_d rows[j][d] * cols[d][lane] for j < n; start is bias[j], or 0 without bias.
/// kD is D where it is known at compile time, else 0, here and below.
template <int64_t kD, class A> void tile_scores_of(const A* rows, const A* bias, int64_t n, int64_t any_D, const A* cols, A* s) {
  constexpr int64_t L = kLanes<A>, B = kBlock<A>;
  const int64_t D = kD ? kD : any_D;
  using V = Vec<A>;
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    const A* r = rows + j * D;
    const V zero{};
    V a0 = zero + (bias ? bias[j] : A(0)), b0 = a0, a1 = zero + (bias ? bias[j + 1] : A(0)), b1 = a1;
    V a2 = zero + (bias ? bias[j + 2] : A(0)), b2 = a2, a3 = zero + (bias ? bias[j + 3] : A(0)), b3 = a3;
    for (int64_t d = 0; d < D; ++d) {
      const V c0 = load(cols + d * B), c1 = load(cols + d * B + L);
      a0 += r[d] * c0, b0 += r[d] * c1;
      a1 += r[D + d] * c0, b1 += r[D + d] * c1;
      a2 += r[2 * D + d] * c0, b2 += r[2 * D + d] * c1;
      a3 += r[3 * D + d] * c0, b3 += r[3 * D + d] * c1;
    }
    A* o = s + j * B;
    at(o) = a0, at(o + L) = b0, at(o + B) = a1, at(o + B + L) = b1;
    at(o + 2 * B) = a2, at(o + 2 * B + L) = b2, at(o + 3 * B) = a3, at(o + 3 * B + L) = b3;
  }
  for (; j < n; ++j) {
    V a = V{} + (bias ? bias[j] : A(0)), b = a;
    for (int64_t d = 0; d < D; ++d) a += rows[j * D + d] * at(cols + d * B), b += rows[j * D + d] * at(cols + d * B + L);
    at(s + j * B) = a, at(s + j * B + L) = b;
  }
}
template <class A> void tile_scores(const A* rows, const A* bias, int64_t n, int64_t D, const A* cols, A* s) {
  with_width(D, [&](auto width) { tile_scores_of<width.value>(rows, bias, n, D, cols, s); });
}

/// acc[d][lane] += sum_j rows[j][d] * w[j][lane] for j < n.
template <int64_t kD, class A> void tile_accumulate_of(const A* rows, const A* w, int64_t n, int64_t any_D, A* acc) {
  constexpr int64_t L = kLanes<A>, B = kBlock<A>;
  const int64_t D = kD ? kD : any_D;
  using V = Vec<A>;
  int64_t d = 0;
  for (; d + 4 <= D; d += 4) {
    A* o = acc + d * B;
    V a0{}, a1{}, a2{}, a3{}, b0{}, b1{}, b2{}, b3{};  // a sum of the tile's own: long sums in steps round less
    for (int64_t j = 0; j < n; ++j) {
      const V w0 = load(w + j * B), w1 = load(w + j * B + L);
      const A* r = rows + j * D + d;
      a0 += r[0] * w0, b0 += r[0] * w1, a1 += r[1] * w0, b1 += r[1] * w1;
      a2 += r[2] * w0, b2 += r[2] * w1, a3 += r[3] * w0, b3 += r[3] * w1;
    }
    at(o) += a0, at(o + L) += b0, at(o + B) += a1, at(o + B + L) += b1;
    at(o + 2 * B) += a2, at(o + 2 * B + L) += b2, at(o + 3 * B) += a3, at(o + 3 * B + L) += b3;
  }
  if constexpr (kD > 0 && kD % 4 == 0) return;
  for (; d < D; ++d) {
    V a{}, b{};
    for (int64_t j = 0; j < n; ++j) a += rows[j * D + d] * at(w + j * B), b += rows[j * D + d] * at(w + j * B + L);
    at(acc + d * B) += a, at(acc + d * B + L) += b;
  }
}
template <class A> void tile_accumulate(const A* rows, const A* w, int64_t n, int64_t D, A* acc) {
  with_width(D, [&](auto width) { tile_accumulate_of<width.value>(rows, w, n, D, acc); });
}

/// out[j][d] += sum_lane w[j][lane] * rows[lane][d] for j < n, d < width; width is a multiple of kLanes.
template <int64_t kWidth, class A> void tile_transposed_of(const A* rows, const A* w, int64_t n, int64_t any_width, A* out) {
  constexpr int64_t L = kLanes<A>, B = kBlock<A>;
  using V = Vec<A>;
  const int64_t width = kWidth ? kWidth : any_width;
  int64_t d = 0, j = 0;
  for (; d + 2 * L <= width; d += 2 * L) {
    for (j = 0; j + 4 <= n; j += 4) {
      A *o0 = out + j * width + d, *o1 = o0 + width, *o2 = o1 + width, *o3 = o2 + width;
      V a0{}, a1{}, a2{}, a3{}, b0{}, b1{}, b2{}, b3{};
      for (int64_t i = 0; i < B; ++i) {
        const V r = load(rows + i * width + d), t = load(rows + i * width + d + L);
        const A* x = w + j * B + i;
        a0 += x[0] * r, b0 += x[0] * t, a1 += x[B] * r, b1 += x[B] * t;
        a2 += x[2 * B] * r, b2 += x[2 * B] * t, a3 += x[3 * B] * r, b3 += x[3 * B] * t;
      }
      at(o0) += a0, at(o0 + L) += b0, at(o1) += a1, at(o1 + L) += b1, at(o2) += a2, at(o2 + L) += b2, at(o3) += a3,
          at(o3 + L) += b3;
    }
    for (; j < n; ++j) {
      A* o = out + j * width + d;
      V a = at(o), b = at(o + L);
      for (int64_t i = 0; i < B; ++i) {
        const A* r = rows + i * width + d;
        a += w[j * B + i] * at(r), b += w[j * B + i] * at(r + L);
      }
      at(o) = a, at(o + L) = b;
    }
  }
  if (d == width) return;
  for (j = 0; j + 8 <= n; j += 8) {
    A* o = out + j * width + d;
    V a0{}, a1{}, a2{}, a3{}, a4{}, a5{}, a6{}, a7{};
    for (int64_t i = 0; i < B; ++i) {
      const V r = load(rows + i * width + d);
      const A* x = w + j * B + i;
      a0 += x[0] * r, a1 += x[B] * r, a2 += x[2 * B] * r, a3 += x[3 * B] * r;
      a4 += x[4 * B] * r, a5 += x[5 * B] * r, a6 += x[6 * B] * r, a7 += x[7 * B] * r;
    }
    at(o) += a0, at(o + width) += a1, at(o + 2 * width) += a2, at(o + 3 * width) += a3;
    at(o + 4 * width) += a4, at(o + 5 * width) += a5, at(o + 6 * width) += a6, at(o + 7 * width) += a7;
  }
  for (; j < n; ++j) {
    V a = at(out + j * width + d);
    for (int64_t i = 0; i < B; ++i) a += w[j * B + i] * at(rows + i * width + d);
    at(out + j * width + d) = a;
  }
}
template <class A> void tile_transposed(const A* rows, const A* w, int64_t n, int64_t width, A* out) {
  with_width(width, [&](auto known) { tile_transposed_of<known.value>(rows, w, n, width, out); });
}

/// dst[i][d] = factor * row first + i, for i < n; masked rows (mask[i] == 0) and columns beyond D become 0.
template <class A, class T>
void load_rows(const Rows<T>& rows, int64_t b, int64_t h, int64_t first, int64_t n, int64_t D, int64_t width, const uint8_t* mask,
               A factor, A* dst) {
  for (int64_t i = 0; i < n; ++i) {
    const T* src = rows.at(b, h, first + i);
    A* out = dst + i * width;
    if (mask && !mask[i]) {
      std::fill(out, out + width, A(0));
      continue;
    }
    for (int64_t d = 0; d < D; ++d) out[d] = factor * static_cast<A>(src[d]);
    for (int64_t d = D; d < width; ++d) out[d] = A(0);
  }
}
/// cols[d][lane] = factor * row first + lane; lanes from n on and masked ones become 0.
template <class A, class T>
void load_cols(const Rows<T>& rows, int64_t b, int64_t h, int64_t first, int64_t n, int64_t D, const uint8_t* mask, A factor,
               A* cols) {
  constexpr int64_t B = kBlock<A>;
  for (int64_t i = 0; i < B; ++i) {
    const bool live = i < n && (!mask || mask[i]);
    const T* src = rows.at(b, h, first + (live ? i : 0));
    for (int64_t d = 0; d < D; ++d) cols[d * B + i] = live ? factor * static_cast<A>(src[d]) : A(0);
  }
}
/// The inverse: row first + lane = factor * cols[.][lane] for lane < n; masked rows become 0.
template <class A, class T>
void store_cols(const A* cols, const Rows<T>& rows, int64_t b, int64_t h, int64_t first, int64_t n, int64_t D, const uint8_t* mask,
                A factor) {
  constexpr int64_t B = kBlock<A>;
  for (int64_t i = 0; i < n; ++i) {
    T* dst = rows.at(b, h, first + i);
    const bool live = !mask || mask[i];
    for (int64_t d = 0; d < D; ++d) dst[d] = static_cast<T>(live ? factor * cols[d * B + i] : A(0));
  }
}

/// keep[j][lane] = dropout factor of (owner first_owner + lane, streamed row first + j), j < n. Owners are the rows of the
/// dropout grid unless owners_are_cols. Both firsts are even.
template <class A>
void fill_keep(const AttentionDropout& dropout, int64_t bh, int64_t first_owner, int64_t first, int64_t n, bool owners_are_cols,
               int half, A* keep) {
  constexpr int64_t B = kBlock<A>;
  for (int64_t j = 0; j < n; j += 2)
    for (int64_t i = 0; i < B; i += 2) {
      const int64_t o = first_owner + i, s = first + j;
      const Philox4 patch = owners_are_cols ? dropout.patch(bh, s, o) : dropout.patch(bh, o, s);
      for (int64_t jj = 0; jj < 2 && j + jj < n; ++jj)
        for (int64_t ii = 0; ii < 2; ++ii)
          keep[(j + jj) * B + i + ii] = static_cast<A>(owners_are_cols ? dropout.factor(patch, s + jj, o + ii, half)
                                                                       : dropout.factor(patch, o + ii, s + jj, half));
    }
}

}  // namespace flare::simd
