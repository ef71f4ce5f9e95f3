/// Backward of the FLARE mixer on the CPU for heads with moderate scores; the method is in kernels/flare_mixer_tiles.h.
#include <cmath>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "ops/kernels/flare_mixer_cpu.h"
#include "ops/kernels/flare_mixer_tiles.h"

namespace flare {
namespace {

using namespace moderate;

template <class T> struct Backward : Head<T> {
  using A = acc_t<T>;
  using Head<T>::B, Head<T>::L;
  const MixerGradArgs<T>& a;
  A* const c_of;  // [B,H,N]: found by the first pass, read by the second
  // Per latent: q_rows, dz_rows [M][width] hold scale q and a dz; pair_cols [2D][lane] holds z above a dz; lane_bias is -a eps.
  simd::Buffer<A> dz, dq, q_rows, dz_rows, pair_cols, lane_bias, sum;
  // Per token of a tile: pair_rows [2D] holds c g beside v; row_bias is -c delta.
  simd::Buffer<A> g, pair_rows, c, row_part, row_bias, w, dk, dv;
  A worst_lse = 0;

  Backward(const MixerGradArgs<T>& args, A* c_tokens, bool keeps)
      : Head<T>(args.M, args.N, args.D, keeps),
        a(args),
        c_of(c_tokens),
        dz(lanes() * a.D),
        dq(lanes() * a.D),
        q_rows(lanes() * this->width),
        dz_rows(lanes() * this->width),
        pair_cols(lanes() * 2 * a.D),
        lane_bias(lanes()),
        sum(lanes()),
        g(kTile * a.D),
        pair_rows(kTile * 2 * a.D),
        c(kTile),
        row_part(kTile * L),
        row_bias(kTile),
        w(kTile * B),
        dk(kTile * this->width),
        dv(kTile * this->width) {}
  int64_t lanes() const { return this->n_blocks * B; }
  const uint8_t* mask(int64_t b) const { return a.mask ? a.mask + b * a.N : nullptr; }
  void see_lse(A lse) {
    if (!(std::abs(lse) <= worst_lse)) worst_lse = std::abs(lse);  // a NaN stays and fails the test
  }
  bool lse_in_range() const { return static_cast<double>(worst_lse) <= std::log(kMostSum); }

  void start(int64_t b, int64_t h) {
    Head<T>::start(a.q, b, h, a.scale);
    worst_lse = 0;
    for (int64_t m = 0; m < a.M; ++m) see_lse(a.lse_encode[(b * a.H + h) * a.M + m]);
  }
  /// 1 / sum where that agrees with the stored e^-lse up to rounding, else the latter.
  static A inverse_of(A sum, A lse) {
    const A stored = std::exp(-lse);
    return std::abs(stored * sum - A(1)) <= 84 * std::numeric_limits<A>::epsilon() ? A(1) / sum : stored;
  }
  /// dz = E^T (c g) and sum = C over the tokens of [begin, end), and their c.
  void latent_gradient(int64_t b, int64_t h, int64_t begin, int64_t end) {
    const int64_t D = a.D, first = (b * a.H + h) * a.N;
    std::fill(dz.get(), dz.get() + lanes() * D, A(0));
    std::fill(sum.get(), sum.get() + lanes(), A(0));
    for_each_tile(mask(b), begin, end, [&](const int64_t* token, int64_t count, int64_t tile) {
      gather(a.k, b, h, token, count, D, D, this->k.get());
      this->see_keys(count);
      std::fill(row_part.get(), row_part.get() + kTile * L, A(0));
      for (int64_t o = 0; o < this->n_blocks; ++o) this->weights(tile, o, count, row_part.get(), sum.get() + o * B);
      for (int64_t i = 0; i < count; i += L) simd::at(c.get() + i) = simd::lane_sums<A>(row_part.get() + i * L);
      for (int64_t i = 0; i < count; ++i) {
        const A lse = a.lse_decode[first + token[i]];
        see_lse(lse);
        c_of[first + token[i]] = c[i] = inverse_of(c[i], lse);
      }
      gather(a.g, b, h, token, count, D, D, g.get(), c.get());
      for (int64_t o = 0; o < this->n_blocks; ++o) {
        simd::tile_accumulate(g.get(), this->kept_weights(tile, o), count, D, dz.get() + o * B * D);
        for (const Rows<const T>& rows : {a.k, a.g}) prefetch_share(rows, b, h, token[count - 1] + 1, a.N, D, o, this->n_blocks);
      }
    });
  }
  /// What the second pass needs of the latents.
  void finish_latents(int64_t b, int64_t h) {
    const int64_t bh = b * a.H + h, D = a.D, W = this->width;
    for (int64_t m = 0; m < a.M; ++m) {
      const A* z = a.z + (bh * a.M + m) * D;
      const A* q = a.q.at(b, h, m);
      const A inverse = inverse_of(sum[m], a.lse_encode[bh * a.M + m]);
      const int64_t o = m / B, lane = m % B;
      A eps = 0;
      for (int64_t d = 0; d < D; ++d) {
        const A x = dz[(o * D + d) * B + lane];
        eps += x * z[d];
        q_rows[m * W + d] = static_cast<A>(a.scale) * q[d];
        dz_rows[m * W + d] = inverse * x;
        pair_cols[(o * 2 * D + d) * B + lane] = z[d];
        pair_cols[(o * 2 * D + D + d) * B + lane] = inverse * x;
      }
      lane_bias[m] = -inverse * eps;
    }
  }
  /// dk and dv of the tokens of [begin, end), and their part of dq.
  void token_gradient(int64_t b, int64_t h, int64_t begin, int64_t end) {
    const int64_t D = a.D, W = this->width;
    std::fill(dq.get(), dq.get() + lanes() * D, A(0));
    for_each_tile(mask(b), begin, end, [&](const int64_t* token, int64_t count, int64_t tile) {
      gather(a.k, b, h, token, count, D, D, this->k.get());
      gather(a.y, b, h, token, count, D, D, this->v.get());
      for (int64_t i = 0; i < count; ++i) c[i] = c_of[(b * a.H + h) * a.N + token[i]];
      gather(a.g, b, h, token, count, D, 2 * D, pair_rows.get(), c.get());
      row_dots(pair_rows.get(), 2 * D, this->v.get(), D, count, D, row_bias.get());
      for (int64_t i = 0; i < count; ++i) row_bias[i] = -row_bias[i];
      gather(a.v, b, h, token, count, D, 2 * D, pair_rows.get() + D);
      std::fill(dk.get(), dk.get() + count * W, A(0));
      std::fill(dv.get(), dv.get() + count * W, A(0));
      for (int64_t o = 0; o < this->n_blocks; ++o) {
        const A* e = this->weights_again(tile, o, count, nullptr);
        simd::with_width(2 * D, [&](auto known) {
          tile_gradient_of<known.value>(pair_rows.get(), row_bias.get(), count, 2 * D, pair_cols.get() + o * B * 2 * D,
                                        lane_bias.get() + o * B, e, w.get());
        });
        simd::tile_accumulate(this->k.get(), w.get(), count, D, dq.get() + o * B * D);
        simd::tile_transposed(q_rows.get() + o * B * W, w.get(), count, W, dk.get());
        simd::tile_transposed(dz_rows.get() + o * B * W, e, count, W, dv.get());
        for (const Rows<const T>& rows : {a.k, a.v, a.g, a.y})
          prefetch_share(rows, b, h, token[count - 1] + 1, a.N, D, o, this->n_blocks);
        for (const Rows<T>& rows : {a.dk, a.dv}) prefetch_share(rows, b, h, token[0], a.N, D, o, this->n_blocks);
      }
      scatter(dk.get(), W, a.dk, b, h, token, count, D);
      scatter(dv.get(), W, a.dv, b, h, token, count, D);
    });
    if (const uint8_t* live = mask(b))
      for (int64_t n = begin; n < end; ++n)
        if (!live[n]) {
          std::fill(a.dk.at(b, h, n), a.dk.at(b, h, n) + D, T(0.0f));
          std::fill(a.dv.at(b, h, n), a.dv.at(b, h, n) + D, T(0.0f));
        }
  }
  /// to[m][d] += dq.
  void add_dq(A* to) const {
    for (int64_t m = 0; m < a.M; ++m)
      for (int64_t d = 0; d < a.D; ++d) to[m * a.D + d] += dq[(m / B * a.D + d) * B + m % B];
  }
};

}  // namespace

template <class T> std::vector<uint8_t> mixer_backward_moderate_cpu(const MixerGradArgs<T>& a, std::vector<acc_t<T>>& dq_part) {
  using A = acc_t<T>;
  constexpr int64_t B = simd::kBlock<A>;
  const int64_t H = a.H, n_heads = a.B * H, N = a.N;
  const Cut cut(n_heads, a.M, N, B);
  std::vector<uint8_t> ok(static_cast<size_t>(n_heads), 0);
  if (a.dropout.on()) return ok;
  std::vector<A> c(static_cast<size_t>(n_heads * N));
  const auto dq_of = [&](int64_t bh) { return dq_part.data() + bh * a.M * a.D; };
  if (cut.n_chunks == 1) {
    parallel_for(n_heads, cut.grain, [&](int64_t begin, int64_t end) {
      Backward<T> head(a, c.data(), cut.keep);
      for (int64_t bh = begin; bh < end; ++bh) {
        head.start(bh / H, bh % H);
        head.latent_gradient(bh / H, bh % H, 0, N);
        if (!head.moderate() || !head.lse_in_range()) continue;
        head.finish_latents(bh / H, bh % H);
        head.token_gradient(bh / H, bh % H, 0, N);
        head.add_dq(dq_of(bh));
        ok[static_cast<size_t>(bh)] = 1;
      }
    });
    return ok;
  }
  // Parts of the chunks, added in order: dz and then C in the first pass, dq in the second.
  const int64_t n_lanes = (a.M + B - 1) / B * B, size = n_lanes * (a.D + 1);
  std::vector<A> part(static_cast<size_t>(n_heads * cut.n_chunks * size));
  std::vector<uint8_t> chunk_ok(static_cast<size_t>(n_heads * cut.n_chunks), 0);
  const auto for_each_chunk = [&](const auto& f) {
    parallel_for(n_heads * cut.n_chunks, 1, [&](int64_t begin, int64_t end) {
      Backward<T> head(a, c.data(), false);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t bh = i / cut.n_chunks, first = i % cut.n_chunks * cut.length;
        f(head, bh, i, first, std::min(N, first + cut.length));
      }
    });
  };
  for_each_chunk([&](Backward<T>& head, int64_t bh, int64_t i, int64_t first, int64_t last) {
    head.start(bh / H, bh % H);
    head.latent_gradient(bh / H, bh % H, first, last);
    std::copy(head.dz.get(), head.dz.get() + n_lanes * a.D, part.data() + i * size);
    std::copy(head.sum.get(), head.sum.get() + n_lanes, part.data() + (i + 1) * size - n_lanes);
    chunk_ok[static_cast<size_t>(i)] = head.moderate() && head.lse_in_range();
  });
  parallel_for(n_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t bh = begin; bh < end; ++bh) {
      const uint8_t* flags = chunk_ok.data() + bh * cut.n_chunks;
      ok[static_cast<size_t>(bh)] = std::all_of(flags, flags + cut.n_chunks, [](uint8_t f) { return f; });
      A* sum = part.data() + bh * cut.n_chunks * size;
      for (int64_t c = 1; c < cut.n_chunks; ++c)
        for (int64_t e = 0; e < size; ++e) sum[e] += sum[c * size + e];
    }
  });
  std::vector<A> dz(static_cast<size_t>(n_heads * size));
  for (int64_t bh = 0; bh < n_heads; ++bh) {
    const A* from = part.data() + bh * cut.n_chunks * size;
    std::copy(from, from + size, dz.data() + bh * size);
  }
  for_each_chunk([&](Backward<T>& head, int64_t bh, int64_t i, int64_t first, int64_t last) {
    if (!ok[static_cast<size_t>(bh)]) return;
    head.start(bh / H, bh % H);
    const A* from = dz.data() + bh * size;
    std::copy(from, from + n_lanes * a.D, head.dz.get());
    std::copy(from + n_lanes * a.D, from + size, head.sum.get());
    head.finish_latents(bh / H, bh % H);
    head.token_gradient(bh / H, bh % H, first, last);
    std::fill(part.data() + i * size, part.data() + (i + 1) * size, A(0));
    head.add_dq(part.data() + i * size);
  });
  for (int64_t bh = 0; bh < n_heads; ++bh)
    for (int64_t c = 0; ok[static_cast<size_t>(bh)] && c < cut.n_chunks; ++c) {
      const A* from = part.data() + (bh * cut.n_chunks + c) * size;
      for (int64_t e = 0; e < a.M * a.D; ++e) dq_of(bh)[e] += from[e];
    }
  return ok;
}
template std::vector<uint8_t> mixer_backward_moderate_cpu(const MixerGradArgs<double>&, std::vector<double>&);
template std::vector<uint8_t> mixer_backward_moderate_cpu(const MixerGradArgs<float>&, std::vector<float>&);
template std::vector<uint8_t> mixer_backward_moderate_cpu(const MixerGradArgs<bf16>&, std::vector<float>&);

}  // namespace flare
