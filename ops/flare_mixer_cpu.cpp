/// Backward of the FLARE mixer on the CPU; formulas in kernels/flare_mixer.h.
#include <algorithm>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "ops/kernels/flare_mixer.h"
#include "ops/kernels/simd.h"

namespace flare {
namespace {

constexpr int64_t kTile = 64;     // streamed rows whose scores are held at once
constexpr int64_t kChunk = 1024;  // tokens of a task: parts of chunks are added in order

/// Pass B1: latents in the lanes, tokens streamed. dz [B,H,M,D], summed over the chunks in order.
template <class T, class A> std::vector<A> latent_gradient(const MixerGradArgs<T>& a) {
  constexpr int64_t B = simd::kBlock<A>, L = simd::kLanes<A>;
  const int64_t D = a.D, n_chunks = (a.N + kChunk - 1) / kChunk, n_blocks = (a.M + B - 1) / B, n_heads = a.B * a.H;
  std::vector<A> part(static_cast<size_t>(n_chunks * n_heads * a.M * D));
  parallel_for(n_heads * n_chunks, 1, [&](int64_t begin, int64_t end) {
    simd::Buffer<A> q(n_blocks * B * D), dz(n_blocks * B * D), k(kTile * D), g(kTile * D), bias(kTile), p(kTile * B),
        keep(kTile * B);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % n_chunks, bh = task / n_chunks, b = bh / a.H, h = bh % a.H;
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
        for (int64_t i = 0; i < count; ++i)
          bias[i] = !mask || mask[i] ? -a.lse_decode[bh * a.N + n + i] : -std::numeric_limits<A>::infinity();
        for (int64_t o = 0; o < n_blocks; ++o) {
          simd::tile_scores(k.get(), bias.get(), count, D, q.get() + o * B * D, p.get());
          for (int64_t e = 0; e < count * B; e += L) simd::at(p.get() + e) = simd::vexp(simd::at(p.get() + e));
          if (a.dropout.on()) {
            simd::fill_keep(a.dropout, bh, o * B, n, count, false, 1, keep.get());
            for (int64_t e = 0; e < count * B; e += L) simd::at(p.get() + e) *= simd::at(keep.get() + e);
          }
          simd::tile_accumulate(g.get(), p.get(), count, D, dz.get() + o * B * D);
        }
      }
      A* out = part.data() + (chunk * n_heads + bh) * a.M * D;
      for (int64_t m = 0; m < a.M; ++m)
        for (int64_t d = 0; d < D; ++d) out[m * D + d] = dz[m / B * B * D + d * B + m % B];
    }
  });
  std::vector<A> dz(static_cast<size_t>(n_heads * a.M * D));
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

/// Pass B2: tokens in the lanes, latents streamed. dk, dv are complete; dq [chunk][b,h][M][width] is partial.
template <class T, class A>
void token_gradient(const MixerGradArgs<T>& a, const std::vector<A>& dz, int64_t width, std::vector<A>& dq_part) {
  constexpr int64_t B = simd::kBlock<A>;
  const int64_t D = a.D, n_chunks = (a.N + kChunk - 1) / kChunk, n_heads = a.B * a.H;
  parallel_for(n_heads * n_chunks, 1, [&](int64_t begin, int64_t end) {
    TokenBlock<A> t(D, width);
    simd::Buffer<A> q(a.M * D), eps(a.M), dq(a.M * width);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % n_chunks, bh = task / n_chunks, b = bh / a.H, h = bh % a.H;
      const A *z_rows = a.z + bh * a.M * D, *dz_rows = dz.data() + bh * a.M * D;
      simd::load_rows<A>(a.q, b, h, 0, a.M, D, D, nullptr, static_cast<A>(a.scale), q.get());
      for (int64_t m = 0; m < a.M; ++m) {
        eps[m] = 0;
        for (int64_t d = 0; d < D; ++d) eps[m] += z_rows[m * D + d] * dz_rows[m * D + d];
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
      std::copy(dq.get(), dq.get() + a.M * width, dq_part.data() + (chunk * n_heads + bh) * a.M * width);
    }
  });
}

}  // namespace

template <class T> void mixer_backward_cpu(const MixerGradArgs<T>& a) {
  using A = acc_t<T>;
  constexpr int64_t L = simd::kLanes<A>;
  const int64_t width = (a.D + L - 1) / L * L, n_chunks = (a.N + kChunk - 1) / kChunk, n_heads = a.B * a.H;
  const std::vector<A> dz = latent_gradient<T, A>(a);
  std::vector<A> part(static_cast<size_t>(n_chunks * n_heads * a.M * width));
  token_gradient<T, A>(a, dz, width, part);
  const int64_t groups = a.shared_q ? a.H : n_heads, n_sum = a.shared_q ? a.B : 1;
  parallel_for(groups * a.M, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t d = 0; d < a.D; ++d) {
        A total = 0;
        for (int64_t b = 0; b < n_sum; ++b)
          for (int64_t c = 0; c < n_chunks; ++c)
            total += part[static_cast<size_t>((((c * n_sum + b) * groups) * a.M + row) * width + d)];
        a.dq[row * a.D + d] = static_cast<A>(a.scale) * total;
      }
  });
}
template void mixer_backward_cpu(const MixerGradArgs<double>&);
template void mixer_backward_cpu(const MixerGradArgs<float>&);
template void mixer_backward_cpu(const MixerGradArgs<bf16>&);

}  // namespace flare
