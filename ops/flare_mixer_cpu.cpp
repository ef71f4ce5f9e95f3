/// Backward of the FLARE mixer on the CPU, any scores and dropout; formulas in kernels/flare_mixer.h.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "ops/kernels/flare_mixer_cpu.h"
#include "ops/kernels/simd.h"

namespace flare {
namespace {

constexpr int64_t kTile = 64;     // streamed rows whose scores are held at once
constexpr int64_t kChunk = 1024;  // tokens of a task: parts of chunks are added in order

/// What P and A of the heads listed must be multiplied by to sum to 1 over the latents and over the tokens: a stored log-sum-exp of
/// size 64 is rounded by 4e-6, and the weights with it. 1 where the sum is not 1 up to such rounding: then the statistics were
/// taken over other rows than these, or a row has no weights.
template <class A> struct Corrections {
  std::vector<A> decode, encode;  // [heads][N], [heads][M]
};
template <class A> A correction(A sum, A lse) {
  const A rounding = 84 * std::numeric_limits<A>::epsilon() * std::max(A(1), std::abs(lse) / 64);
  return std::abs(sum - 1) <= rounding ? 1 / sum : A(1);
}
template <class T, class A> Corrections<A> corrections(const MixerGradArgs<T>& a, const std::vector<int64_t>& heads) {
  constexpr int64_t B = simd::kBlock<A>, L = simd::kLanes<A>;
  using V = simd::Vec<A>;
  const int64_t D = a.D, n_chunks = (a.N + kChunk - 1) / kChunk, n_blocks = (a.M + B - 1) / B,
                n_heads = static_cast<int64_t>(heads.size());
  Corrections<A> f{std::vector<A>(static_cast<size_t>(n_heads * a.N), A(1)), std::vector<A>(static_cast<size_t>(n_heads * a.M))};
  std::vector<A> part(static_cast<size_t>(n_chunks * n_heads * a.M));
  parallel_for(n_heads * n_chunks, 1, [&](int64_t begin, int64_t end) {
    simd::Buffer<A> q(n_blocks * B * D), lse(n_blocks * B), live(n_blocks * B), sum(n_blocks * B), k(kTile * D), s(kTile * B),
        rows(kTile * L), row(kTile);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % n_chunks, head = task / n_chunks, bh = heads[static_cast<size_t>(head)], b = bh / a.H,
                    h = bh % a.H;
      for (int64_t o = 0; o < n_blocks; ++o)
        simd::load_cols<A>(a.q, b, h, o * B, std::min(B, a.M - o * B), D, nullptr, static_cast<A>(a.scale), q.get() + o * B * D);
      for (int64_t m = 0; m < n_blocks * B; ++m)
        lse[m] = m < a.M ? a.lse_encode[bh * a.M + m] : A(0), live[m] = m < a.M ? A(0) : -std::numeric_limits<A>::infinity(),
        sum[m] = 0;
      const int64_t last = std::min(a.N, (chunk + 1) * kChunk);
      for (int64_t n = chunk * kChunk; n < last; n += kTile) {
        const int64_t count = std::min(kTile, last - n);
        const uint8_t* mask = a.mask ? a.mask + b * a.N + n : nullptr;
        simd::load_rows<A>(a.k, b, h, n, count, D, D, mask, A(1), k.get());
        std::fill(rows.get(), rows.get() + kTile * L, A(0));
        const A* lse_decode = a.lse_decode + bh * a.N + n;
        for (int64_t o = 0; o < n_blocks; ++o) {
          simd::tile_scores(k.get(), static_cast<const A*>(nullptr), count, D, q.get() + o * B * D, s.get());
          for (int64_t j = 0; j < count; ++j)
            for (int64_t i = 0; mask ? mask[j] && i < B : i < B; i += L) {
              const V x = simd::at(s.get() + j * B + i) + simd::at(live.get() + o * B + i);
              simd::at(rows.get() + j * L) += simd::vexp(x - lse_decode[j]);
              simd::at(sum.get() + o * B + i) += simd::vexp(x - simd::at(lse.get() + o * B + i));
            }
        }
        for (int64_t j = 0; j < count; j += L) simd::at(row.get() + j) = simd::lane_sums<A>(rows.get() + j * L);
        for (int64_t j = 0; j < count; ++j) f.decode[static_cast<size_t>(head * a.N + n + j)] = correction(row[j], lse_decode[j]);
      }
      std::copy(sum.get(), sum.get() + a.M, part.data() + (chunk * n_heads + head) * a.M);
    }
  });
  for (int64_t head = 0; head < n_heads; ++head)
    for (int64_t m = 0; m < a.M; ++m) {
      A sum = 0;
      for (int64_t c = 0; c < n_chunks; ++c) sum += part[static_cast<size_t>((c * n_heads + head) * a.M + m)];
      f.encode[static_cast<size_t>(head * a.M + m)] = correction(sum, a.lse_encode[heads[static_cast<size_t>(head)] * a.M + m]);
    }
  return f;
}

/// Pass B1 of the heads listed: latents in the lanes, tokens streamed. dz [heads][M][D], summed over the chunks in order.
template <class T, class A>
std::vector<A> latent_gradient(const MixerGradArgs<T>& a, const std::vector<int64_t>& heads, const Corrections<A>& f) {
  constexpr int64_t B = simd::kBlock<A>, L = simd::kLanes<A>;
  const int64_t D = a.D, n_chunks = (a.N + kChunk - 1) / kChunk, n_blocks = (a.M + B - 1) / B,
                n_heads = static_cast<int64_t>(heads.size());
  std::vector<A> part(static_cast<size_t>(n_chunks * n_heads * a.M * D));
  parallel_for(n_heads * n_chunks, 1, [&](int64_t begin, int64_t end) {
    simd::Buffer<A> q(n_blocks * B * D), dz(n_blocks * B * D), k(kTile * D), g(kTile * D), bias(kTile), p(kTile * B),
        keep(kTile * B);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % n_chunks, head = task / n_chunks, bh = heads[static_cast<size_t>(head)], b = bh / a.H,
                    h = bh % a.H;
      for (int64_t o = 0; o < n_blocks; ++o)
        simd::load_cols<A>(a.q, b, h, o * B, std::min(B, a.M - o * B), D, nullptr, static_cast<A>(a.scale), q.get() + o * B * D);
      std::fill(dz.get(), dz.get() + n_blocks * B * D, A(0));
      const int64_t last = std::min(a.N, (chunk + 1) * kChunk);
      for (int64_t n = chunk * kChunk; n < last; n += kTile) {
        const int64_t count = std::min(kTile, last - n);
        const uint8_t* mask = a.mask ? a.mask + b * a.N + n : nullptr;
        if (mask && std::none_of(mask, mask + count, [](uint8_t m) { return m; })) continue;
        simd::load_rows<A>(a.k, b, h, n, count, D, D, mask, A(1), k.get());
        simd::load_rows<A>(a.g, b, h, n, count, D, D, mask, A(1), g.get());
        for (int64_t i = 0; i < count * D; ++i) g[i] *= f.decode[static_cast<size_t>(head * a.N + n + i / D)];
        for (int64_t i = 0; i < count; ++i)
          bias[i] = !mask || mask[i] ? -a.lse_decode[bh * a.N + n + i] : -std::numeric_limits<A>::infinity();
        for (int64_t o = 0; o < n_blocks; ++o) {
          simd::tile_scores(k.get(), static_cast<const A*>(nullptr), count, D, q.get() + o * B * D, p.get());
          for (int64_t e = 0; e < count * B; e += L) simd::at(p.get() + e) = simd::vexp(simd::at(p.get() + e) + bias[e / B]);
          if (a.dropout.on()) {
            simd::fill_keep(a.dropout, bh, o * B, n, count, false, 1, keep.get());
            for (int64_t e = 0; e < count * B; e += L) simd::at(p.get() + e) *= simd::at(keep.get() + e);
          }
          simd::tile_accumulate(g.get(), p.get(), count, D, dz.get() + o * B * D);
        }
      }
      A* out = part.data() + (chunk * n_heads + head) * a.M * D;
      for (int64_t m = 0; m < a.M; ++m)
        for (int64_t d = 0; d < D; ++d) out[m * D + d] = dz[m / B * B * D + d * B + m % B];
    }
  });
  std::vector<A> dz(static_cast<size_t>(n_heads * a.M * D));  // of the weights as corrected
  for (int64_t c = 0; c < n_chunks; ++c) {
    const A* from = part.data() + c * n_heads * a.M * D;
    for (size_t i = 0; i < dz.size(); ++i) dz[i] += from[i];
  }
  return dz;
}

/// Buffers of one task of pass B2, one block of tokens in the lanes.
template <class A> struct TokenBlock {
  static constexpr int64_t B = simd::kBlock<A>;
  TokenBlock(int64_t D, int64_t width)
      : k(B * D),
        v(B * D),
        g(B * D),
        dk(B * D),
        dv(B * D),
        k_rows(B * width),
        lse(B),
        delta(B),
        live(B),
        s(kTile * B),
        gz(kTile * B),
        dzv(kTile * B),
        encode(kTile * B),
        decode(kTile * B) {}
  simd::Buffer<A> k, v, g, dk, dv, k_rows, lse, delta, live, s, gz, dzv, encode, decode;
};

/// s and dzv of `count` latents become W and A r, for the tokens in the lanes.
template <class A> void weights_of(const TokenBlock<A>& t, const A* lse_encode, const A* eps, int64_t count, bool dropout) {
  constexpr int64_t B = simd::kBlock<A>, L = simd::kLanes<A>;
  using V = simd::Vec<A>;
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < B; i += L) {
      const int64_t e = j * B + i;
      const V s = simd::at(t.s.get() + e) + simd::at(t.live.get() + i);
      const V p = simd::vexp(s - simd::at(t.lse.get() + i)), w = simd::vexp(s - lse_encode[j]);
      V gz = simd::at(t.gz.get() + e), dzv = simd::at(t.dzv.get() + e), kept = w;
      if (dropout) {
        const V r = simd::at(t.encode.get() + e);
        gz *= simd::at(t.decode.get() + e), dzv *= r, kept *= r;
      }
      simd::at(t.s.get() + e) = p * (gz - simd::at(t.delta.get() + i)) + w * (dzv - eps[j]);
      simd::at(t.dzv.get() + e) = kept;
    }
}

/// Pass B2 of the heads listed: tokens in the lanes, latents streamed. dk, dv are complete; dq [chunk][heads][M][width] is partial.
template <class T, class A>
void token_gradient(const MixerGradArgs<T>& a, const std::vector<int64_t>& heads, const Corrections<A>& f, const std::vector<A>& dz,
                    int64_t width, std::vector<A>& dq_part) {
  constexpr int64_t B = simd::kBlock<A>;
  const int64_t D = a.D, n_chunks = (a.N + kChunk - 1) / kChunk, n_heads = static_cast<int64_t>(heads.size());
  parallel_for(n_heads * n_chunks, 1, [&](int64_t begin, int64_t end) {
    TokenBlock<A> t(D, width);
    simd::Buffer<A> q(a.M * D), eps(a.M), dq(a.M * width), dz_corrected(a.M * D);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % n_chunks, head = task / n_chunks, bh = heads[static_cast<size_t>(head)], b = bh / a.H,
                    h = bh % a.H;
      const A *z_rows = a.z + bh * a.M * D, *dz_rows = dz_corrected.get();
      simd::load_rows<A>(a.q, b, h, 0, a.M, D, D, nullptr, static_cast<A>(a.scale), q.get());
      for (int64_t m = 0; m < a.M; ++m) {
        eps[m] = 0;
        for (int64_t d = 0; d < D; ++d) {
          dz_corrected[m * D + d] =
              f.encode[static_cast<size_t>(head * a.M + m)] * dz[static_cast<size_t>((head * a.M + m) * D + d)];
          eps[m] += z_rows[m * D + d] * dz_corrected[m * D + d];
        }
      }
      std::fill(dq.get(), dq.get() + a.M * width, A(0));
      const int64_t last = std::min(a.N, (chunk + 1) * kChunk);
      for (int64_t n = chunk * kChunk; n < last; n += B) {
        const int64_t count = std::min(B, last - n);
        const uint8_t* mask = a.mask ? a.mask + b * a.N + n : nullptr;
        std::fill(t.dk.get(), t.dk.get() + B * D, A(0));
        std::fill(t.dv.get(), t.dv.get() + B * D, A(0));
        if (!mask || std::any_of(mask, mask + count, [](uint8_t m) { return m; })) {
          simd::load_cols<A>(a.k, b, h, n, count, D, mask, A(1), t.k.get());
          simd::load_cols<A>(a.v, b, h, n, count, D, mask, A(1), t.v.get());
          simd::load_cols<A>(a.g, b, h, n, count, D, mask, A(1), t.g.get());
          std::fill(t.k_rows.get(), t.k_rows.get() + B * width, A(0));
          simd::load_rows<A>(a.k, b, h, n, count, D, width, mask, A(1), t.k_rows.get());
          for (int64_t i = 0; i < B; ++i) {
            const bool live = i < count && (!mask || mask[i]);
            t.live[i] = live ? A(0) : -std::numeric_limits<A>::infinity();
            t.lse[i] = live ? a.lse_decode[bh * a.N + n + i] : A(0);
            t.delta[i] = 0;
            const T *g = a.g.at(b, h, n + i), *y = a.y.at(b, h, n + i);
            for (int64_t d = 0; live && d < D; ++d) t.delta[i] += static_cast<A>(g[d]) * static_cast<A>(y[d]);
            if (!live) continue;
            const A factor = f.decode[static_cast<size_t>(head * a.N + n + i)];
            t.delta[i] *= factor;
            for (int64_t d = 0; d < D; ++d) t.g[d * B + i] *= factor;
          }
          const A* no_bias = nullptr;
          for (int64_t m = 0; m < a.M; m += kTile) {
            const int64_t rows = std::min(kTile, a.M - m);
            simd::tile_scores(q.get() + m * D, no_bias, rows, D, t.k.get(), t.s.get());
            simd::tile_scores(z_rows + m * D, no_bias, rows, D, t.g.get(), t.gz.get());
            simd::tile_scores(dz_rows + m * D, no_bias, rows, D, t.v.get(), t.dzv.get());
            if (a.dropout.on()) {
              simd::fill_keep(a.dropout, bh, n, m, rows, true, 0, t.encode.get());
              simd::fill_keep(a.dropout, bh, n, m, rows, true, 1, t.decode.get());
            }
            weights_of(t, a.lse_encode + bh * a.M + m, eps.get() + m, rows, a.dropout.on());
            simd::tile_accumulate(q.get() + m * D, t.s.get(), rows, D, t.dk.get());
            simd::tile_accumulate(dz_rows + m * D, t.dzv.get(), rows, D, t.dv.get());
            simd::tile_transposed(t.k_rows.get(), t.s.get(), rows, width, dq.get() + m * width);
          }
        }
        simd::store_cols<A>(t.dk.get(), a.dk, b, h, n, count, D, mask, A(1));
        simd::store_cols<A>(t.dv.get(), a.dv, b, h, n, count, D, mask, A(1));
      }
      std::copy(dq.get(), dq.get() + a.M * width, dq_part.data() + (chunk * n_heads + head) * a.M * width);
    }
  });
}

}  // namespace

template <class T> void mixer_backward_cpu(const MixerGradArgs<T>& a) {
  using A = acc_t<T>;
  constexpr int64_t L = simd::kLanes<A>;
  const int64_t width = (a.D + L - 1) / L * L, n_chunks = (a.N + kChunk - 1) / kChunk, n_heads = a.B * a.H;
  std::vector<A> dq(static_cast<size_t>(n_heads * a.M * a.D));  // of each head, without `scale`
  const std::vector<uint8_t> done = mixer_backward_moderate_cpu(a, dq);
  std::vector<int64_t> rest;
  for (int64_t bh = 0; bh < n_heads; ++bh)
    if (!done[static_cast<size_t>(bh)]) rest.push_back(bh);
  if (!rest.empty()) {
    const int64_t n_rest = static_cast<int64_t>(rest.size());
    const Corrections<A> f = corrections<T, A>(a, rest);
    const std::vector<A> dz = latent_gradient<T, A>(a, rest, f);
    std::vector<A> part(static_cast<size_t>(n_chunks * n_rest * a.M * width));
    token_gradient<T, A>(a, rest, f, dz, width, part);
    for (int64_t i = 0; i < n_rest; ++i)
      for (int64_t c = 0; c < n_chunks; ++c)
        for (int64_t m = 0; m < a.M; ++m)
          for (int64_t d = 0; d < a.D; ++d)
            dq[static_cast<size_t>((rest[static_cast<size_t>(i)] * a.M + m) * a.D + d)] +=
                part[static_cast<size_t>(((c * n_rest + i) * a.M + m) * width + d)];
  }
  const int64_t groups = a.shared_q ? a.H : n_heads, n_sum = a.shared_q ? a.B : 1, size = groups * a.M * a.D;
  parallel_for(size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      A total = 0;
      for (int64_t b = 0; b < n_sum; ++b) total += dq[static_cast<size_t>(b * size + i)];
      a.dq[i] = static_cast<A>(a.scale) * total;
    }
  });
}
template void mixer_backward_cpu(const MixerGradArgs<double>&);
template void mixer_backward_cpu(const MixerGradArgs<float>&);
template void mixer_backward_cpu(const MixerGradArgs<bf16>&);

}  // namespace flare
