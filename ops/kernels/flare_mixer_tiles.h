#pragma once
/// The FLARE mixer on the CPU where scores are moderate. In units of ln 2, with s = scale log2(e) q.k:
///   E[n,m] = 2^s,  row sums R_n = sum_m E,  column sums C_m = sum_n E,  z = E^T v / C,  y = E z / R
/// so one exponential serves both softmaxes and no running maximum is needed. Backward, with c_n = 1/R_n and a_m = 1/C_m:
/// (recomputed with E, which restores the digits that a stored log-sum-exp rounds away; where the two disagree, as for statistics
/// taken over more than this call's tokens, the stored ones count)
///   dz = E^T (c g),  W = E ([c g, v] . [z, a dz] - c delta - a eps),  dq = scale W^T k,  dk = scale W q,  dv = E (a dz).
/// Cauchy-Schwarz bounds |s| by 120, and the sums must lie in 2^-64..2^64: nothing overflows, and what underflows is below 2^-56 of
/// its sum. A head that fails either test is left to the general code.
/// Latents lie in the lanes, a block at a time, and tiles of live tokens are streamed past them; masked tokens are skipped. Where
/// E of a head fits the cache it is kept between the two passes over the tokens, else it is computed again.
#include <algorithm>
#include <numbers>

#include "ops/kernels/flare_mixer.h"
#include "ops/kernels/simd.h"

namespace flare::moderate {

constexpr int64_t kTile = 64;        // tokens whose weights are held at once
constexpr int64_t kChunk = 1024;     // tokens of a task where a head is cut
constexpr int64_t kKept = 1 << 19;   // most weights of a head that are kept between passes
constexpr double kMostScore = 120;   // of |s|
constexpr double kMostSum = 0x1p64;  // of R, C and their inverses

/// Calls f(token, count, tile) for tiles of live tokens of [begin, end).
template <class F> void for_each_tile(const uint8_t* mask, int64_t begin, int64_t end, const F& f) {
  int64_t token[kTile], tile = 0;
  while (begin < end) {
    int64_t count = 0;
    for (; begin < end && count < kTile; ++begin)
      if (!mask || mask[begin]) token[count++] = begin;
    if (count > 0) f(token, count, tile++);
  }
}
/// Fetches share o of n_shares of the rows [first, first + kTile), as far as they exist. Rows of a head lie far apart in memory;
/// asked for in shares between the blocks of the tile before, they arrive unnoticed.
template <class T>
void prefetch_share(const Rows<T>& rows, int64_t b, int64_t h, int64_t first, int64_t N, int64_t D, int64_t o, int64_t n_shares) {
  const int64_t end = std::min(N, first + (o + 1) * kTile / n_shares);
  for (int64_t n = first + o * kTile / n_shares; n < end; ++n) {
    const char* row = reinterpret_cast<const char*>(rows.at(b, h, n));
    for (int64_t byte = 0; byte < D * static_cast<int64_t>(sizeof(T)); byte += 64)
      __builtin_prefetch(row + byte, std::is_const_v<T> ? 0 : 1, 3);
  }
}
/// dst[i][stride] = row token[i], times factor[i] if given, i < count.
template <class A, class T>
void gather(const Rows<T>& rows, int64_t b, int64_t h, const int64_t* token, int64_t count, int64_t any_D, int64_t stride, A* dst,
            const A* factor = nullptr) {
  simd::with_width(any_D, [&](auto known) {
    const int64_t D = known.value ? known.value : any_D;
    for (int64_t i = 0; i < count; ++i) {
      const T* __restrict src = rows.at(b, h, token[i]);
      A* __restrict to = dst + i * stride;
      const A f = factor ? factor[i] : A(1);
      for (int64_t d = 0; d < D; ++d) to[d] = f * static_cast<A>(src[d]);
    }
  });
}
/// The inverse.
template <class A, class T>
void scatter(const A* src, int64_t stride, const Rows<T>& rows, int64_t b, int64_t h, const int64_t* token, int64_t count,
             int64_t any_D, const A* factor = nullptr) {
  simd::with_width(any_D, [&](auto known) {
    const int64_t D = known.value ? known.value : any_D;
    for (int64_t i = 0; i < count; ++i) {
      T* __restrict to = rows.at(b, h, token[i]);
      const A* __restrict from = src + i * stride;
      const A f = factor ? factor[i] : A(1);
      for (int64_t d = 0; d < D; ++d) to[d] = static_cast<T>(f * from[d]);
    }
  });
}
/// out[i] = x[i] . y[i] for i < count rounded up to the vector; x and y hold whole tiles.
template <class A> void row_dots(const A* x, int64_t x_stride, const A* y, int64_t y_stride, int64_t count, int64_t any_D, A* out) {
  constexpr int64_t L = simd::kLanes<A>;
  simd::with_width(any_D, [&](auto known) {
    const int64_t D = known.value ? known.value : any_D;
    for (int64_t i = 0; i < count; i += L) {
      alignas(64) A part[L * L];
      for (int64_t r = 0; r < L; ++r) {
        const A *u = x + (i + r) * x_stride, *w = y + (i + r) * y_stride;
        for (int64_t l = 0; l < L; ++l) part[r * L + l] = A(0);
        for (int64_t d = 0; d < D; ++d) part[r * L + d % L] += u[d] * w[d];
      }
      simd::at(out + i) = simd::lane_sums<A>(part);
    }
  });
}

/// e[j][lane] = 2^(rows[j] . cols[lane]), times live[lane] if given. Adds to row_sum [n][kLanes] (parts of a sum over the lanes)
/// and lane_sum [kBlock] where they are given.
template <int64_t kD, class A>
void tile_weights_of(const A* rows, int64_t n, int64_t any_D, const A* cols, const A* live, A* e, A* row_sum, A* lane_sum) {
  constexpr int64_t L = simd::kLanes<A>, B = simd::kBlock<A>;
  using V = simd::Vec<A>;
  using simd::at;
  const int64_t D = kD ? kD : any_D;
  V sum0{}, sum1{};
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    const A* r = rows + j * D;
    V a0{}, a1{}, a2{}, a3{}, b0{}, b1{}, b2{}, b3{};
    for (int64_t d = 0; d < D; ++d) {
      const V c0 = simd::load(cols + d * B), c1 = simd::load(cols + d * B + L);
      a0 += r[d] * c0, b0 += r[d] * c1;
      a1 += r[D + d] * c0, b1 += r[D + d] * c1;
      a2 += r[2 * D + d] * c0, b2 += r[2 * D + d] * c1;
      a3 += r[3 * D + d] * c0, b3 += r[3 * D + d] * c1;
    }
    a0 = simd::vexp2(a0), b0 = simd::vexp2(b0), a1 = simd::vexp2(a1), b1 = simd::vexp2(b1);
    a2 = simd::vexp2(a2), b2 = simd::vexp2(b2), a3 = simd::vexp2(a3), b3 = simd::vexp2(b3);
    if (live) {
      const V l0 = at(live), l1 = at(live + L);
      a0 *= l0, b0 *= l1, a1 *= l0, b1 *= l1, a2 *= l0, b2 *= l1, a3 *= l0, b3 *= l1;
    }
    A* o = e + j * B;
    at(o) = a0, at(o + L) = b0, at(o + B) = a1, at(o + B + L) = b1;
    at(o + 2 * B) = a2, at(o + 2 * B + L) = b2, at(o + 3 * B) = a3, at(o + 3 * B + L) = b3;
    sum0 += (a0 + a1) + (a2 + a3), sum1 += (b0 + b1) + (b2 + b3);
    if (row_sum) {
      A* s = row_sum + j * L;
      at(s) += a0 + b0, at(s + L) += a1 + b1, at(s + 2 * L) += a2 + b2, at(s + 3 * L) += a3 + b3;
    }
  }
  for (; j < n; ++j) {
    V a{}, b{};
    for (int64_t d = 0; d < D; ++d) a += rows[j * D + d] * at(cols + d * B), b += rows[j * D + d] * at(cols + d * B + L);
    a = simd::vexp2(a), b = simd::vexp2(b);
    if (live) a *= at(live), b *= at(live + L);
    at(e + j * B) = a, at(e + j * B + L) = b;
    sum0 += a, sum1 += b;
    if (row_sum) at(row_sum + j * L) += a + b;
  }
  if (lane_sum) at(lane_sum) += sum0, at(lane_sum + L) += sum1;
}

/// w[j][lane] = e[j][lane] (rows[j] . cols[lane] + row_bias[j] + lane_bias[lane]).
template <int64_t kD, class A>
void tile_gradient_of(const A* rows, const A* row_bias, int64_t n, int64_t any_D, const A* cols, const A* lane_bias, const A* e,
                      A* w) {
  constexpr int64_t L = simd::kLanes<A>, B = simd::kBlock<A>;
  using V = simd::Vec<A>;
  using simd::at;
  const int64_t D = kD ? kD : any_D;
  const V l0 = at(lane_bias), l1 = at(lane_bias + L);
  int64_t j = 0;
  for (; j + 4 <= n; j += 4) {
    const A *r = rows + j * D, *u = row_bias + j;
    V a0 = l0 + u[0], b0 = l1 + u[0], a1 = l0 + u[1], b1 = l1 + u[1];
    V a2 = l0 + u[2], b2 = l1 + u[2], a3 = l0 + u[3], b3 = l1 + u[3];
    for (int64_t d = 0; d < D; ++d) {
      const V c0 = simd::load(cols + d * B), c1 = simd::load(cols + d * B + L);
      a0 += r[d] * c0, b0 += r[d] * c1;
      a1 += r[D + d] * c0, b1 += r[D + d] * c1;
      a2 += r[2 * D + d] * c0, b2 += r[2 * D + d] * c1;
      a3 += r[3 * D + d] * c0, b3 += r[3 * D + d] * c1;
    }
    const A* x = e + j * B;
    A* o = w + j * B;
    at(o) = a0 * at(x), at(o + L) = b0 * at(x + L), at(o + B) = a1 * at(x + B), at(o + B + L) = b1 * at(x + B + L);
    at(o + 2 * B) = a2 * at(x + 2 * B), at(o + 2 * B + L) = b2 * at(x + 2 * B + L);
    at(o + 3 * B) = a3 * at(x + 3 * B), at(o + 3 * B + L) = b3 * at(x + 3 * B + L);
  }
  for (; j < n; ++j) {
    V a = l0 + row_bias[j], b = l1 + row_bias[j];
    for (int64_t d = 0; d < D; ++d) a += rows[j * D + d] * at(cols + d * B), b += rows[j * D + d] * at(cols + d * B + L);
    at(w + j * B) = a * at(e + j * B), at(w + j * B + L) = b * at(e + j * B + L);
  }
}

/// What both directions know of a head, and the buffers of a task.
template <class T> struct Head {
  using A = acc_t<T>;
  static constexpr int64_t B = simd::kBlock<A>, L = simd::kLanes<A>;
  const int64_t M, N, D, n_blocks, width;
  bool keep;  // E stays in memory between the passes
  simd::Buffer<A> q, live, k, v, norm, kept, e;
  A q_norm = 0, k_norm = 0;  // largest squares

  Head(int64_t m, int64_t n, int64_t d, bool keeps)
      : M(m),
        N(n),
        D(d),
        n_blocks((m + B - 1) / B),
        width((d + L - 1) / L * L),
        keep(keeps),
        q(n_blocks * B * d),
        live(B),
        k(kTile * d),
        v(kTile * d),
        norm(kTile),
        kept(keeps ? (n + kTile - 1) / kTile * kTile * n_blocks * B : 0, false),
        e(kTile * n_blocks * B) {
    for (int64_t i = 0; i < B; ++i) live[i] = (n_blocks - 1) * B + i < M;
  }
  void start(const Rows<const A>& query, int64_t b, int64_t h, double scale) {
    q_norm = k_norm = 0;
    for (int64_t o = 0; o < n_blocks; ++o)
      simd::load_cols<A>(query, b, h, o * B, std::min(B, M - o * B), D, nullptr, static_cast<A>(scale * std::numbers::log2e),
                         q.get() + o * B * D);
    for (int64_t i = 0; i < n_blocks * B; ++i) {
      A sum = 0;
      for (int64_t d = 0; d < D; ++d) {
        const A x = q[(i / B * D + d) * B + i % B];
        sum += x * x;
      }
      if (!(sum <= q_norm)) q_norm = sum;
    }
  }
  void see_keys(int64_t count) {
    row_dots(k.get(), D, k.get(), D, count, D, norm.get());
    for (int64_t i = 0; i < count; ++i)
      if (!(norm[i] <= k_norm)) k_norm = norm[i];  // a NaN stays and fails the test
  }
  bool moderate() const { return static_cast<double>(q_norm) * static_cast<double>(k_norm) <= kMostScore * kMostScore; }
  /// E of a tile and a block of latents: k holds the tokens.
  A* weights(int64_t tile, int64_t o, int64_t count, A* row_sum, A* lane_sum) {
    A* to = kept_weights(tile, o);
    simd::with_width(D, [&](auto known) {
      tile_weights_of<known.value>(k.get(), count, D, q.get() + o * B * D, (o + 1) * B > M ? live.get() : nullptr, to, row_sum,
                                   lane_sum);
    });
    return to;
  }
  /// Where `weights` left E of this tile and block.
  A* kept_weights(int64_t tile, int64_t o) const {
    return keep ? kept.get() + (tile * n_blocks + o) * kTile * B : e.get() + o * kTile * B;
  }
  const A* weights_again(int64_t tile, int64_t o, int64_t count, A* row_sum) {
    return keep ? kept_weights(tile, o) : weights(tile, o, count, row_sum, nullptr);
  }
};

/// How the heads of a call are cut into tasks; depends on shapes alone.
struct Cut {
  bool keep;                 // E is kept between the passes: then a task does both
  int64_t n_chunks, length;  // of tokens; one chunk where a task does a whole head
  int64_t grain;             // heads that share a set of buffers
  Cut(int64_t n_heads, int64_t M, int64_t N, int64_t block) {
    const int64_t weights = (N + kTile - 1) / kTile * kTile * ((M + block - 1) / block * block);
    keep = weights <= kKept && (N <= kChunk || n_heads >= 8);
    length = keep ? N : kChunk;
    n_chunks = (N + length - 1) / length;
    grain = n_chunks == 1 ? std::max<int64_t>(1, n_heads / 64) : 1;
  }
};

}  // namespace flare::moderate
