/// Backward of softmax attention on the CPU; formulas in kernels/sdpa_backward.cuh.
#include <algorithm>
#include <limits>
#include <vector>

#include "core/parallel.h"
#include "ops/kernels/sdpa_backward.h"
#include "ops/kernels/simd.h"

namespace flare {
namespace {

constexpr int64_t kTile = 64;     // streamed rows whose scores are held at once
constexpr int64_t kChunk = 1024;  // streamed rows of a task: parts of chunks are added in order
constexpr int64_t kOwners = 256;  // owned rows of a task

/// dst[g][e] = factor * sum over b < n_sum, c < n_chunks of part[c][b * groups + g][e].
template <class A, class T>
void sum_parts(const std::vector<A>& part, T* dst, int64_t groups, int64_t n_sum, int64_t n_chunks, int64_t size, A factor) {
  parallel_for(groups * size, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      A total = 0;
      for (int64_t b = 0; b < n_sum; ++b)
        for (int64_t c = 0; c < n_chunks; ++c) total += part[static_cast<size_t>(((c * n_sum + b) * groups) * size + i)];
      dst[i] = static_cast<T>(factor * total);
    }
  });
}

/// The work of a task: rows [first, first + n) of the owners and [begin, end) of the streamed side.
struct Task {
  int64_t b, h, bh, first, n, begin, end, chunk;
};
template <class F> void for_each_task(int64_t B, int64_t H, int64_t n_owner, int64_t n_stream, const F& f) {
  const int64_t n_groups = (n_owner + kOwners - 1) / kOwners, n_chunks = (n_stream + kChunk - 1) / kChunk;
  parallel_for(B * H * n_groups * n_chunks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t chunk = i % n_chunks, first = i / n_chunks % n_groups * kOwners, bh = i / n_chunks / n_groups;
      f(Task{bh / H, bh % H, bh, first, std::min(kOwners, n_owner - first), chunk * kChunk,
             std::min(n_stream, (chunk + 1) * kChunk), chunk});
    }
  });
}

template <class A> void store_part(const A* cols, int64_t n, int64_t D, A* part) {
  constexpr int64_t B = simd::kBlock<A>;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t d = 0; d < D; ++d) part[i * D + d] = cols[i / B * B * D + d * B + i % B];
}

/// Queries in the lanes, keys streamed.
template <class T, class A> void query_gradient(const SdpaGradArgs<T>& a, const std::vector<A>& delta) {
  constexpr int64_t B = simd::kBlock<A>, L = simd::kLanes<A>;
  const int64_t D = a.D, n_chunks = (a.n_key + kChunk - 1) / kChunk;
  std::vector<A> part(static_cast<size_t>(n_chunks * a.B * a.H * a.n_query * D));
  for_each_task(a.B, a.H, a.n_query, a.n_key, [&](const Task& w) {
    simd::Buffer<A> q(kOwners * D), g(kOwners * D), dq(kOwners * D), lse(kOwners), del(kOwners), k(kTile * D), v(kTile * D),
        bias(kTile), s(kTile * B), gv(kTile * B), keep(kTile * B);
    for (int64_t o = 0; o < w.n; o += B) {
      simd::load_cols<A>(a.query, w.b, w.h, w.first + o, std::min(B, w.n - o), D, nullptr, static_cast<A>(a.scale),
                         q.get() + o * D);
      simd::load_cols<A>(a.grad, w.b, w.h, w.first + o, std::min(B, w.n - o), D, nullptr, A(1), g.get() + o * D);
    }
    for (int64_t i = 0; i < w.n; ++i)
      lse[i] = a.lse[w.bh * a.n_query + w.first + i], del[i] = delta[static_cast<size_t>(w.bh * a.n_query + w.first + i)];
    for (int64_t j = w.begin; j < w.end; j += kTile) {
      const int64_t count = std::min(kTile, w.end - j);
      const uint8_t* mask = a.key_mask ? a.key_mask + w.b * a.n_key + j : nullptr;
      simd::load_rows<A>(a.key, w.b, w.h, j, count, D, D, mask, A(1), k.get());
      simd::load_rows<A>(a.value, w.b, w.h, j, count, D, D, mask, A(1), v.get());
      for (int64_t i = 0; i < count; ++i) bias[i] = !mask || mask[i] ? A(0) : -std::numeric_limits<A>::infinity();
      for (int64_t o = 0; o < w.n; o += B) {
        simd::tile_scores(k.get(), bias.get(), count, D, q.get() + o * D, s.get());
        simd::tile_scores(v.get(), static_cast<const A*>(nullptr), count, D, g.get() + o * D, gv.get());
        if (a.dropout.on()) {
          simd::fill_keep(a.dropout, w.bh, w.first + o, j, count, false, 0, keep.get());
          for (int64_t e = 0; e < count * B; e += L) simd::at(gv.get() + e) *= simd::at(keep.get() + e);
        }
        for (int64_t e = 0; e < count * B; e += L) {
          const int64_t lane = o + e % B;
          simd::at(s.get() + e) = simd::vexp(simd::at(s.get() + e) - simd::at(lse.get() + lane)) *
                                  (simd::at(gv.get() + e) - simd::at(del.get() + lane));
        }
        simd::tile_accumulate(k.get(), s.get(), count, D, dq.get() + o * D);
      }
    }
    store_part(dq.get(), w.n, D, part.data() + ((w.chunk * a.B * a.H + w.bh) * a.n_query + w.first) * D);
  });
  const bool sum = a.shared_query;
  sum_parts(part, a.dq, sum ? a.H : a.B * a.H, sum ? a.B : 1, n_chunks, a.n_query * D, static_cast<A>(a.scale));
}

/// Keys in the lanes, queries streamed.
template <class T, class A> void key_value_gradient(const SdpaGradArgs<T>& a, const std::vector<A>& delta) {
  constexpr int64_t B = simd::kBlock<A>, L = simd::kLanes<A>;
  const int64_t D = a.D, n_chunks = (a.n_query + kChunk - 1) / kChunk;
  const size_t size = static_cast<size_t>(n_chunks * a.B * a.H * a.n_key * D);
  std::vector<A> dk_part(size), dv_part(size);
  for_each_task(a.B, a.H, a.n_key, a.n_query, [&](const Task& w) {
    simd::Buffer<A> k(kOwners * D), v(kOwners * D), dk(kOwners * D), dv(kOwners * D), live(kOwners), q(kTile * D), g(kTile * D),
        bias(kTile), s(kTile * B), gv(kTile * B), keep(kTile * B);
    const uint8_t* mask = a.key_mask ? a.key_mask + w.b * a.n_key + w.first : nullptr;
    for (int64_t o = 0; o < w.n; o += B) {
      const uint8_t* m = mask ? mask + o : nullptr;
      simd::load_cols<A>(a.key, w.b, w.h, w.first + o, std::min(B, w.n - o), D, m, A(1), k.get() + o * D);
      simd::load_cols<A>(a.value, w.b, w.h, w.first + o, std::min(B, w.n - o), D, m, A(1), v.get() + o * D);
    }
    for (int64_t i = 0; i < w.n; ++i) live[i] = !mask || mask[i] ? A(0) : -std::numeric_limits<A>::infinity();
    for (int64_t j = w.begin; j < w.end; j += kTile) {
      const int64_t count = std::min(kTile, w.end - j);
      simd::load_rows<A>(a.query, w.b, w.h, j, count, D, D, nullptr, static_cast<A>(a.scale), q.get());
      simd::load_rows<A>(a.grad, w.b, w.h, j, count, D, D, nullptr, A(1), g.get());
      const A* del = delta.data() + w.bh * a.n_query + j;
      for (int64_t i = 0; i < count; ++i) bias[i] = -a.lse[w.bh * a.n_query + j + i];
      for (int64_t o = 0; o < w.n; o += B) {
        simd::tile_scores(q.get(), bias.get(), count, D, k.get() + o * D, s.get());
        simd::tile_scores(g.get(), static_cast<const A*>(nullptr), count, D, v.get() + o * D, gv.get());
        if (a.dropout.on()) simd::fill_keep(a.dropout, w.bh, w.first + o, j, count, true, 0, keep.get());
        for (int64_t i = 0; i < count; ++i)
          for (int64_t e = i * B; e < (i + 1) * B; e += L) {
            const simd::Vec<A> p = simd::vexp(simd::at(s.get() + e) + simd::at(live.get() + o + e % B));
            if (a.dropout.on()) {
              const simd::Vec<A> r = simd::at(keep.get() + e);
              simd::at(s.get() + e) = p * (r * simd::at(gv.get() + e) - del[i]);
              simd::at(gv.get() + e) = p * r;
            } else {
              simd::at(s.get() + e) = p * (simd::at(gv.get() + e) - del[i]);
              simd::at(gv.get() + e) = p;
            }
          }
        simd::tile_accumulate(q.get(), s.get(), count, D, dk.get() + o * D);
        simd::tile_accumulate(g.get(), gv.get(), count, D, dv.get() + o * D);
      }
    }
    const int64_t at = ((w.chunk * a.B * a.H + w.bh) * a.n_key + w.first) * D;
    store_part(dk.get(), w.n, D, dk_part.data() + at);
    store_part(dv.get(), w.n, D, dv_part.data() + at);
  });
  sum_parts(dk_part, a.dk, a.B * a.H, 1, n_chunks, a.n_key * D, A(1));
  sum_parts(dv_part, a.dv, a.B * a.H, 1, n_chunks, a.n_key * D, A(1));
}

}  // namespace

template <class T> void sdpa_backward_cpu(const SdpaGradArgs<T>& a) {
  using A = acc_t<T>;
  std::vector<A> delta(static_cast<size_t>(a.B * a.H * a.n_query));
  parallel_for(a.B * a.H * a.n_query, 1024, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t bh = row / a.n_query, i = row % a.n_query;
      const T *g = a.grad.at(bh / a.H, bh % a.H, i), *y = a.out.at(bh / a.H, bh % a.H, i);
      A sum = 0;
      for (int64_t d = 0; d < a.D; ++d) sum += static_cast<A>(g[d]) * static_cast<A>(y[d]);
      delta[static_cast<size_t>(row)] = sum;
    }
  });
  query_gradient<T, A>(a, delta);
  key_value_gradient<T, A>(a, delta);
}
template void sdpa_backward_cpu(const SdpaGradArgs<double>&);
template void sdpa_backward_cpu(const SdpaGradArgs<float>&);
template void sdpa_backward_cpu(const SdpaGradArgs<bf16>&);

}  // namespace flare
