#pragma once
/// Vector arithmetic for the CPU attention kernels, in GCC/Clang vector extensions, as wide as the target's registers:
/// wider ones would spill. A "block" is kBlock owners side by side in the lanes of two vectors; the other side of the attention is
/// streamed past them row by row, so no reduction ever runs across lanes.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <new>

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

/// 64-byte aligned array, zero at start.
template <class A> class Buffer {
 public:
  explicit Buffer(int64_t n)
      : data_(static_cast<A*>(::operator new (static_cast<size_t>(n > 0 ? n : 1) * sizeof(A), std::align_val_t{64}))) {
    std::memset(static_cast<void*>(data_.get()), 0, static_cast<size_t>(n > 0 ? n : 1) * sizeof(A));
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
template <class A> void tile_scores(const A* rows, const A* bias, int64_t n, int64_t D, const A* cols, A* s) {
  constexpr int64_t L = kLanes<A>, B = kBlock<A>;
  using V = Vec<A>;
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    const A* r = rows + j * D;
    const V zero{};
    V a0 = zero + (bias ? bias[j] : A(0)), b0 = a0, a1 = zero + (bias ? bias[j + 1] : A(0)), b1 = a1;
    V a2 = zero + (bias ? bias[j + 2] : A(0)), b2 = a2, a3 = zero + (bias ? bias[j + 3] : A(0)), b3 = a3;
    for (int64_t d = 0; d < D; ++d) {
      const V c0 = at(cols + d * B), c1 = at(cols + d * B + L);
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

/// acc[d][lane] += sum_j rows[j][d] * w[j][lane] for j < n.
template <class A> void tile_accumulate(const A* rows, const A* w, int64_t n, int64_t D, A* acc) {
  constexpr int64_t L = kLanes<A>, B = kBlock<A>;
  using V = Vec<A>;
  int64_t d = 0;
  for (; d + 4 <= D; d += 4) {
    A* o = acc + d * B;
    V a0 = at(o), b0 = at(o + L), a1 = at(o + B), b1 = at(o + B + L);
    V a2 = at(o + 2 * B), b2 = at(o + 2 * B + L), a3 = at(o + 3 * B), b3 = at(o + 3 * B + L);
    for (int64_t j = 0; j < n; ++j) {
      const V w0 = at(w + j * B), w1 = at(w + j * B + L);
      const A* r = rows + j * D + d;
      a0 += r[0] * w0, b0 += r[0] * w1, a1 += r[1] * w0, b1 += r[1] * w1;
      a2 += r[2] * w0, b2 += r[2] * w1, a3 += r[3] * w0, b3 += r[3] * w1;
    }
    at(o) = a0, at(o + L) = b0, at(o + B) = a1, at(o + B + L) = b1;
    at(o + 2 * B) = a2, at(o + 2 * B + L) = b2, at(o + 3 * B) = a3, at(o + 3 * B + L) = b3;
  }
  for (; d < D; ++d) {
    V a = at(acc + d * B), b = at(acc + d * B + L);
    for (int64_t j = 0; j < n; ++j) a += rows[j * D + d] * at(w + j * B), b += rows[j * D + d] * at(w + j * B + L);
    at(acc + d * B) = a, at(acc + d * B + L) = b;
  }
}

/// out[j][d] += sum_lane w[j][lane] * rows[lane][d] for j < n, d < width; width is a multiple of kLanes.
template <class A> void tile_transposed(const A* rows, const A* w, int64_t n, int64_t width, A* out) {
  constexpr int64_t L = kLanes<A>, B = kBlock<A>;
  using V = Vec<A>;
  for (int64_t d = 0; d < width; d += L) {
    int64_t j = 0;
    for (; j + 8 <= n; j += 8) {
      A* o = out + j * width + d;
      V a0 = at(o), a1 = at(o + width), a2 = at(o + 2 * width), a3 = at(o + 3 * width);
      V a4 = at(o + 4 * width), a5 = at(o + 5 * width), a6 = at(o + 6 * width), a7 = at(o + 7 * width);
      for (int64_t i = 0; i < B; ++i) {
        const V r = at(rows + i * width + d);
        const A* x = w + j * B + i;
        a0 += x[0] * r, a1 += x[B] * r, a2 += x[2 * B] * r, a3 += x[3 * B] * r;
        a4 += x[4 * B] * r, a5 += x[5 * B] * r, a6 += x[6 * B] * r, a7 += x[7 * B] * r;
      }
      at(o) = a0, at(o + width) = a1, at(o + 2 * width) = a2, at(o + 3 * width) = a3;
      at(o + 4 * width) = a4, at(o + 5 * width) = a5, at(o + 6 * width) = a6, at(o + 7 * width) = a7;
    }
    for (; j < n; ++j) {
      V a = at(out + j * width + d);
      for (int64_t i = 0; i < B; ++i) a += w[j * B + i] * at(rows + i * width + d);
      at(out + j * width + d) = a;
    }
  }
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
