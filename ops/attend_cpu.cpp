/// Softmax attention on the CPU: the forward of sdpa and both halves of the FLARE mixer.
#include <algorithm>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "ops/kernels/attention.h"
#include "ops/kernels/simd.h"

namespace flare {
namespace {

constexpr int64_t kOwners = 256;  // queries of a task
constexpr int64_t kTile = 64;     // keys whose scores are held at once
constexpr int64_t kChunk = 1024;  // keys of a task

/// Per lane: running maximum, sum of exponentials and weighted sum of values, all relative to the maximum.
/// Takes in n further scores s [n][lanes] (overwritten by the weights) and the values that belong to them.
template <class A> void absorb(A* s, const A* v_rows, int64_t n, int64_t D, A* max, A* sum, A* acc, const A* keep) {
  constexpr int64_t L = simd::kLanes<A>, B = simd::kBlock<A>;
  using V = simd::Vec<A>;
  constexpr A kNone = -std::numeric_limits<A>::infinity();
  for (int64_t half = 0; half < B; half += L) {
    const V before = simd::at(max + half);
    V m = before;
    for (int64_t j = 0; j < n; ++j) {
      const V x = simd::at(s + j * B + half);
      m = x > m ? x : m;
    }
    const V origin = m == kNone ? V{} : m;  // no key yet: any finite origin makes every weight 0
    const V shrink = simd::vexp(before - origin);
    V total = simd::at(sum + half) * shrink;
    for (int64_t j = 0; j < n; ++j) {
      const V e = simd::vexp(simd::at(s + j * B + half) - origin);
      simd::at(s + j * B + half) = e;
      total += e;
    }
    simd::at(max + half) = m;
    simd::at(sum + half) = total;
    for (int64_t d = 0; d < D; ++d) simd::at(acc + d * B + half) *= shrink;
  }
  if (keep)
    for (int64_t i = 0; i < n * B; i += L) simd::at(s + i) *= simd::at(keep + i);
  simd::tile_accumulate(v_rows, s, n, D, acc);
}

}  // namespace

template <class Tq, class Tk> void attend_cpu(const AttendArgs<Tq, Tk>& a) {
  using A = acc_t<Tq>;
  constexpr int64_t B = simd::kBlock<A>;
  const A none = -std::numeric_limits<A>::infinity();
  const int64_t D = a.D, n_groups = (a.n_query + kOwners - 1) / kOwners, n_chunks = (a.n_key + kChunk - 1) / kChunk;
  const int64_t n_rows = a.B * a.H * a.n_query;
  // Partial results of the chunks, [chunk][b,h,query]; with one chunk the task writes its result itself.
  std::vector<A> part_max, part_sum, part_acc;
  if (n_chunks > 1) part_max.resize(n_chunks * n_rows), part_sum.resize(n_chunks * n_rows), part_acc.resize(n_chunks * n_rows * D);

  parallel_for(a.B * a.H * n_groups * n_chunks, 1, [&](int64_t begin, int64_t end) {
    simd::Buffer<A> q(kOwners * D), acc(kOwners * D), max(kOwners), sum(kOwners), k_rows(kTile * D), v_rows(kTile * D), bias(kTile),
        s(kTile * B), keep(a.dropout.on() ? kTile * B : 0);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t chunk = task % n_chunks, group = task / n_chunks % n_groups, bh = task / n_chunks / n_groups;
      const int64_t b = bh / a.H, h = bh % a.H, first = group * kOwners, n = std::min(kOwners, a.n_query - first);
      for (int64_t o = 0; o < n; o += B)
        simd::load_cols<A>(a.query, b, h, first + o, std::min(B, n - o), D,
                           a.query_mask ? a.query_mask + b * a.n_query + first + o : nullptr, static_cast<A>(a.scale),
                           q.get() + o * D);
      std::fill(max.get(), max.get() + kOwners, none);
      std::fill(sum.get(), sum.get() + kOwners, A(0));
      std::fill(acc.get(), acc.get() + kOwners * D, A(0));
      const int64_t last = std::min(a.n_key, (chunk + 1) * kChunk);
      for (int64_t j = chunk * kChunk; j < last; j += kTile) {
        const int64_t count = std::min(kTile, last - j);
        const uint8_t* mask = a.key_mask ? a.key_mask + b * a.n_key + j : nullptr;
        if (mask && std::none_of(mask, mask + count, [](uint8_t m) { return m; })) continue;
        simd::load_rows<A>(a.key, b, h, j, count, D, D, mask, A(1), k_rows.get());
        simd::load_rows<A>(a.value, b, h, j, count, D, D, mask, A(1), v_rows.get());
        for (int64_t i = 0; i < count; ++i) bias[i] = !mask || mask[i] ? A(0) : none;
        for (int64_t o = 0; o < n; o += B) {
          simd::tile_scores(k_rows.get(), bias.get(), count, D, q.get() + o * D, s.get());
          if (a.dropout.on()) simd::fill_keep(a.dropout, bh, first + o, j, count, a.dropout_transposed, a.dropout_half, keep.get());
          absorb(s.get(), v_rows.get(), count, D, max.get() + o, sum.get() + o, acc.get() + o * D,
                 a.dropout.on() ? keep.get() : nullptr);
        }
      }
      for (int64_t i = 0; i < n; ++i) {
        const A* column = acc.get() + i / B * B * D + i % B;
        const int64_t row = bh * a.n_query + first + i;
        if (n_chunks > 1) {
          part_max[chunk * n_rows + row] = max[i], part_sum[chunk * n_rows + row] = sum[i];
          for (int64_t d = 0; d < D; ++d) part_acc[(chunk * n_rows + row) * D + d] = column[d * B];
        } else {
          const bool live = sum[i] > 0 && (!a.query_mask || a.query_mask[b * a.n_query + first + i]);
          Tq* out = a.out.at(b, h, first + i);
          for (int64_t d = 0; d < D; ++d) out[d] = static_cast<Tq>(live ? column[d * B] / sum[i] : A(0));
          a.lse[row] = live ? max[i] + std::log(sum[i]) : A(0);
        }
      }
    }
  });
  if (n_chunks == 1) return;
  parallel_for(n_rows, 64, [&](int64_t begin, int64_t end) {
    std::vector<A> total(static_cast<size_t>(D));
    for (int64_t row = begin; row < end; ++row) {
      const int64_t i = row % a.n_query, bh = row / a.n_query, b = bh / a.H, h = bh % a.H;
      A max = none, sum = 0;
      for (int64_t c = 0; c < n_chunks; ++c) max = std::max(max, part_max[c * n_rows + row]);
      std::fill(total.begin(), total.end(), A(0));
      for (int64_t c = 0; c < n_chunks; ++c) {
        if (part_sum[c * n_rows + row] == 0) continue;
        const A weight = std::exp(part_max[c * n_rows + row] - max);
        sum += weight * part_sum[c * n_rows + row];
        for (int64_t d = 0; d < D; ++d) total[d] += weight * part_acc[(c * n_rows + row) * D + d];
      }
      const bool live = sum > 0 && (!a.query_mask || a.query_mask[b * a.n_query + i]);
      Tq* out = a.out.at(b, h, i);
      for (int64_t d = 0; d < D; ++d) out[d] = static_cast<Tq>(live ? total[d] / sum : A(0));
      a.lse[row] = live ? max + std::log(sum) : A(0);
    }
  });
}
template void attend_cpu(const AttendArgs<double, double>&);
template void attend_cpu(const AttendArgs<float, float>&);
template void attend_cpu(const AttendArgs<bf16, bf16>&);
template void attend_cpu(const AttendArgs<float, bf16>&);
template void attend_cpu(const AttendArgs<bf16, float>&);

AttentionDropout attention_dropout(const char* who, double p, const Tensor& rng, uint64_t site, int64_t n_rows, int64_t n_cols) {
  check(p >= 0 && p < 1, who, ": dropout ", p, " is outside [0, 1)");
  AttentionDropout dropout;
  dropout.threshold = static_cast<uint32_t>(p * 65536.0 + 0.5);
  check(dropout.threshold < 65536, who, ": dropout ", p, " leaves no weight");
  if (!dropout.on()) return dropout;
  check(rng.defined() && rng.dtype() == DType::i64 && rng.shape() == Shape{2} && rng.is_contiguous(), who,
        ": dropout needs rng, an i64 [2] tensor {seed, step}");
  dropout.keep = 65536.0f / static_cast<float>(65536 - dropout.threshold);
  dropout.site = site;
  dropout.rng = rng.data<int64_t>();
  dropout.n_rows = n_rows;
  dropout.n_cols = n_cols;
  return dropout;
}

Tensor attention_dropout_factors(double p, const Tensor& rng, uint64_t site, const Shape& s, int half, DType dtype) {
  const Tensor host = to_device(rng, Device::cpu);
  const AttentionDropout dropout = attention_dropout("attention dropout", p, host, site, s[2], s[3]);
  std::vector<float> values;
  values.reserve(static_cast<size_t>(s.numel()));
  for (int64_t bh = 0; bh < s[0] * s[1]; ++bh)
    for (int64_t i = 0; i < s[2]; ++i)
      for (int64_t j = 0; j < s[3]; ++j)
        values.push_back(dropout.on() ? dropout.factor(dropout.patch(bh, i, j), i, j, half) : 1.0f);
  return cast_to(Tensor::from(values, s, rng.device()), dtype);
}

}  // namespace flare
