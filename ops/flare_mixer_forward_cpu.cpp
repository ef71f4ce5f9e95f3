/// Forward of the FLARE mixer on the CPU; the method is in kernels/flare_mixer_tiles.h.
#include <vector>

#include "core/parallel.h"
#include "ops/kernels/flare_mixer_cpu.h"
#include "ops/kernels/flare_mixer_tiles.h"

namespace flare {
namespace {

using namespace moderate;

template <class A> bool within(const A* sums, int64_t n) {
  bool ok = true;
  for (int64_t i = 0; i < n; ++i) ok &= sums[i] >= static_cast<A>(1 / kMostSum) && sums[i] <= static_cast<A>(kMostSum);
  return ok;
}

template <class T> struct Forward : Head<T> {
  using A = acc_t<T>;
  using Head<T>::B, Head<T>::L;
  const AttendArgs<A, T>& encode;
  const AttendArgs<T, A>& decode;
  simd::Buffer<A> acc, sum, z, row_part, row, y;

  Forward(const AttendArgs<A, T>& en, const AttendArgs<T, A>& de, bool keeps)
      : Head<T>(en.n_query, en.n_key, en.D, keeps),
        encode(en),
        decode(de),
        acc(this->n_blocks * B * this->D),
        sum(this->n_blocks * B),
        z(this->n_blocks * B * this->width),
        row_part(this->keep ? (this->N + kTile) * L : kTile * L),
        row(kTile),
        y(kTile * this->width) {}
  const uint8_t* mask(int64_t b) const { return encode.key_mask ? encode.key_mask + b * this->N : nullptr; }

  /// acc = E^T v and sum = C over the tokens of [begin, end).
  void encode_tokens(int64_t b, int64_t h, int64_t begin, int64_t end) {
    const int64_t D = this->D;
    std::fill(acc.get(), acc.get() + this->n_blocks * B * D, A(0));
    std::fill(sum.get(), sum.get() + this->n_blocks * B, A(0));
    if (this->keep) std::fill(row_part.get(), row_part.get() + (this->N + kTile) * L, A(0));
    for_each_tile(mask(b), begin, end, [&](const int64_t* token, int64_t count, int64_t tile) {
      gather(encode.key, b, h, token, count, D, D, this->k.get());
      gather(encode.value, b, h, token, count, D, D, this->v.get());
      this->see_keys(count);
      for (int64_t o = 0; o < this->n_blocks; ++o) {
        const A* e = this->weights(tile, o, count, this->keep ? row_part.get() + tile * kTile * L : nullptr, sum.get() + o * B);
        simd::tile_accumulate(this->v.get(), e, count, D, acc.get() + o * B * D);
        prefetch_share(encode.key, b, h, token[count - 1] + 1, this->N, D, o, this->n_blocks);
        prefetch_share(encode.value, b, h, token[count - 1] + 1, this->N, D, o, this->n_blocks);
      }
    });
  }
  /// Fills z and lse_encode from acc and sum; false if a sum is out of range.
  bool finish_latents(int64_t b, int64_t h) {
    bool any = false;
    for_each_tile(mask(b), 0, this->N, [&](const int64_t*, int64_t, int64_t) { any = true; });
    if (any && !(this->moderate() && within(sum.get(), this->M))) return false;
    const int64_t bh = b * encode.H + h, D = this->D;
    for (int64_t m = 0; m < this->M; ++m) {
      A* out = encode.out.at(b, h, m);
      for (int64_t d = 0; d < D; ++d) out[d] = any ? acc[(m / B * D + d) * B + m % B] / sum[m] : A(0);
      encode.lse[bh * this->M + m] = any ? std::log(sum[m]) : A(0);
    }
    return true;
  }
  /// y and lse_decode of the tokens of [begin, end) from z; false if a sum is out of range.
  bool decode_tokens(int64_t b, int64_t h, int64_t begin, int64_t end) {
    const int64_t D = this->D, W = this->width, bh = b * encode.H + h;
    for (int64_t m = 0; m < this->M; ++m) std::copy(decode.value.at(b, h, m), decode.value.at(b, h, m) + D, z.get() + m * W);
    bool ok = true;
    for_each_tile(mask(b), begin, end, [&](const int64_t* token, int64_t count, int64_t tile) {
      A* part = row_part.get() + (this->keep ? tile * kTile * L : 0);
      if (!this->keep) {
        gather(encode.key, b, h, token, count, D, D, this->k.get());
        std::fill(part, part + kTile * L, A(0));
      }
      std::fill(y.get(), y.get() + count * W, A(0));
      for (int64_t o = 0; o < this->n_blocks; ++o) {
        simd::tile_transposed(z.get() + o * B * W, this->weights_again(tile, o, count, part), count, W, y.get());
        prefetch_share(decode.out, b, h, token[0], this->N, D, o, this->n_blocks);
        if (!this->keep) prefetch_share(encode.key, b, h, token[count - 1] + 1, this->N, D, o, this->n_blocks);
      }
      for (int64_t i = 0; i < count; i += L) simd::at(row.get() + i) = simd::lane_sums<A>(part + i * L);
      ok &= within(row.get(), count);
      alignas(64) A inverse[kTile], lse[kTile];
      for (int64_t i = 0; i < count; i += L) {
        const simd::Vec<A> r = simd::at(row.get() + i);
        simd::at(inverse + i) = A(1) / r, simd::at(lse + i) = simd::vlog(r);
      }
      scatter(y.get(), W, decode.out, b, h, token, count, D, inverse);
      for (int64_t i = 0; i < count; ++i) decode.lse[bh * this->N + token[i]] = lse[i];
    });
    if (const uint8_t* m = mask(b)) {
      for (int64_t n = begin; n < end; ++n)
        if (!m[n]) std::fill(decode.out.at(b, h, n), decode.out.at(b, h, n) + D, T(0.0f)), decode.lse[bh * this->N + n] = A(0);
    }
    return ok;
  }
};

/// One head of a call, as a call of its own.
template <class Tq, class Tk> AttendArgs<Tq, Tk> head_of(AttendArgs<Tq, Tk> a, int64_t b, int64_t h) {
  a.lse += (b * a.H + h) * a.n_query;
  if (a.key_mask) a.key_mask += b * a.n_key;
  if (a.query_mask) a.query_mask += b * a.n_query;
  a.query.data = a.query.at(b, h, 0), a.key.data = a.key.at(b, h, 0);
  a.value.data = a.value.at(b, h, 0), a.out.data = a.out.at(b, h, 0);
  a.B = a.H = 1;
  return a;
}

}  // namespace

template <class T> void mixer_forward_cpu(const AttendArgs<acc_t<T>, T>& encode, const AttendArgs<T, acc_t<T>>& decode) {
  using A = acc_t<T>;
  constexpr int64_t B = simd::kBlock<A>;
  if (encode.dropout.on()) {
    attend_cpu(encode);
    attend_cpu(decode);
    return;
  }
  const int64_t H = encode.H, n_heads = encode.B * H, M = encode.n_query, N = encode.n_key, D = encode.D;
  const Cut cut(n_heads, M, N, B);
  std::vector<uint8_t> ok(static_cast<size_t>(n_heads), 1);
  if (cut.n_chunks == 1) {
    parallel_for(n_heads, cut.grain, [&](int64_t begin, int64_t end) {
      Forward<T> head(encode, decode, cut.keep);
      for (int64_t bh = begin; bh < end; ++bh) {
        head.start(encode.query, bh / H, bh % H, encode.scale);
        head.encode_tokens(bh / H, bh % H, 0, N);
        ok[static_cast<size_t>(bh)] = head.finish_latents(bh / H, bh % H) && head.decode_tokens(bh / H, bh % H, 0, N);
      }
    });
  } else {
    // Parts of the chunks: sums, then weighted values, then the largest square of a key.
    const int64_t n_sum = (M + B - 1) / B * B, size = n_sum * (D + 1) + 1;
    std::vector<A> part(static_cast<size_t>(n_heads * cut.n_chunks * size));
    std::vector<uint8_t> chunk_ok(static_cast<size_t>(n_heads * cut.n_chunks), 0);
    parallel_for(n_heads * cut.n_chunks, 1, [&](int64_t begin, int64_t end) {
      Forward<T> head(encode, decode, false);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t bh = i / cut.n_chunks, first = i % cut.n_chunks * cut.length;
        head.start(encode.query, bh / H, bh % H, encode.scale);
        head.encode_tokens(bh / H, bh % H, first, std::min(N, first + cut.length));
        A* to = part.data() + i * size;
        std::copy(head.sum.get(), head.sum.get() + n_sum, to);
        std::copy(head.acc.get(), head.acc.get() + n_sum * D, to + n_sum);
        to[size - 1] = head.k_norm;
      }
    });
    parallel_for(n_heads, 1, [&](int64_t begin, int64_t end) {
      Forward<T> head(encode, decode, false);
      for (int64_t bh = begin; bh < end; ++bh) {
        head.start(encode.query, bh / H, bh % H, encode.scale);
        std::fill(head.sum.get(), head.sum.get() + n_sum, A(0));
        std::fill(head.acc.get(), head.acc.get() + n_sum * D, A(0));
        for (int64_t c = 0; c < cut.n_chunks; ++c) {
          const A* from = part.data() + (bh * cut.n_chunks + c) * size;
          for (int64_t i = 0; i < n_sum; ++i) head.sum[i] += from[i];
          for (int64_t i = 0; i < n_sum * D; ++i) head.acc[i] += from[n_sum + i];
          if (!(from[size - 1] <= head.k_norm)) head.k_norm = from[size - 1];
        }
        ok[static_cast<size_t>(bh)] = head.finish_latents(bh / H, bh % H);
      }
    });
    parallel_for(n_heads * cut.n_chunks, 1, [&](int64_t begin, int64_t end) {
      Forward<T> head(encode, decode, false);
      for (int64_t i = begin; i < end; ++i) {
        const int64_t bh = i / cut.n_chunks, first = i % cut.n_chunks * cut.length;
        if (!ok[static_cast<size_t>(bh)]) continue;
        head.start(encode.query, bh / H, bh % H, encode.scale);
        chunk_ok[static_cast<size_t>(i)] = head.decode_tokens(bh / H, bh % H, first, std::min(N, first + cut.length));
      }
    });
    for (size_t i = 0; i < chunk_ok.size(); ++i) ok[i / static_cast<size_t>(cut.n_chunks)] &= chunk_ok[i];
  }
  std::vector<int64_t> rest;
  for (int64_t bh = 0; bh < n_heads; ++bh)
    if (!ok[static_cast<size_t>(bh)]) rest.push_back(bh);
  const auto general = [&](int64_t bh) {
    attend_cpu(head_of(encode, bh / H, bh % H));
    attend_cpu(head_of(decode, bh / H, bh % H));
  };
  if (static_cast<int64_t>(rest.size()) == n_heads) {
    attend_cpu(encode);
    attend_cpu(decode);
  } else if (static_cast<int>(rest.size()) < thread_count()) {
    for (const int64_t bh : rest) general(bh);
  } else {
    parallel_for(static_cast<int64_t>(rest.size()), 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) general(rest[static_cast<size_t>(i)]);
    });
  }
}
template void mixer_forward_cpu<double>(const AttendArgs<double, double>&, const AttendArgs<double, double>&);
template void mixer_forward_cpu<float>(const AttendArgs<float, float>&, const AttendArgs<float, float>&);
template void mixer_forward_cpu<bf16>(const AttendArgs<float, bf16>&, const AttendArgs<bf16, float>&);

}  // namespace flare
