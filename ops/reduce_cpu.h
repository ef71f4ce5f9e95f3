#pragma once
/// CPU sums over one axis of [outer, reduce, inner]: cut into chunks whose borders depend on the shape alone, so that the bits
/// do not depend on the number of threads. Inside a chunk sums run in acc_t, across chunks in double.
#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "core/parallel.h"

namespace flare {

/// Grain for rows that cost `width` steps each.
inline int64_t row_grain(int64_t width) { return std::max<int64_t>(1, 8192 / std::max<int64_t>(width, 1)); }

/// Sum of term(i) for i in [begin, end) in 16 independent lanes, which the compiler turns into vector adds.
template <class A, class F> A lane_sum(int64_t begin, int64_t end, const F& term) {
  constexpr int kLanes = 16;
  A lanes[kLanes] = {};
  int64_t i = begin;
  for (; i + kLanes <= end; i += kLanes)
    for (int j = 0; j < kLanes; ++j) lanes[j] += term(i + j);
  A tail = 0;
  for (; i < end; ++i) tail += term(i);
  for (int step = kLanes / 2; step > 0; step /= 2)
    for (int j = 0; j < step; ++j) lanes[j] += lanes[j + step];
  return lanes[0] + tail;
}

/// write(row, total) with the sum of term(row, i) over i < n, for each row.
template <class A, class Term, class Write> void row_sums_cpu(int64_t rows, int64_t n, const Term& term, const Write& write) {
  constexpr int64_t kChunk = 1024;  // 64 additions a lane: f32 keeps six digits
  const int64_t parts = std::max<int64_t>(1, (n + kChunk - 1) / kChunk);
  std::vector<A> partial(static_cast<size_t>(rows * parts));
  parallel_for(rows * parts, row_grain(std::min(n, kChunk)), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t row = u / parts, first = u % parts * kChunk;
      partial[static_cast<size_t>(u)] = lane_sum<A>(first, std::min(n, first + kChunk), [&](int64_t i) { return term(row, i); });
    }
  });
  for (int64_t row = 0; row < rows; ++row) {
    double total = 0;
    for (int64_t p = 0; p < parts; ++p) total += static_cast<double>(partial[static_cast<size_t>(row * parts + p)]);
    write(row, total);
  }
}

/// write(o, i, total) with the sum over r with mask[o,r] (null: all) of x[o,r,i].
template <class T, class Write>
void axis_sums_cpu(const T* x, const uint8_t* mask, int64_t outer, int64_t reduce, int64_t inner, const Write& write) {
  using A = acc_t<T>;
  if (inner == 1 && !mask) {
    row_sums_cpu<A>(
        outer, reduce, [&](int64_t o, int64_t r) { return static_cast<A>(x[o * reduce + r]); },
        [&](int64_t o, double total) { write(o, int64_t{0}, total); });
    return;
  }
  constexpr int64_t kTile = 1024;
  const int64_t chunk = std::clamp<int64_t>(16384 / std::max<int64_t>(inner, 1), 64, 256);
  const int64_t parts = std::max<int64_t>(1, (reduce + chunk - 1) / chunk), tiles = (inner + kTile - 1) / kTile;
  std::vector<A> partial(static_cast<size_t>(outer * parts * inner), A(0));
  parallel_for(outer * parts * tiles, row_grain(std::min(chunk, reduce) * std::min(inner, kTile)), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t unit = u / tiles, o = unit / parts, i0 = u % tiles * kTile, width = std::min(inner - i0, kTile);
      const int64_t r0 = unit % parts * chunk, r1 = std::min(reduce, r0 + chunk);
      A* sums = partial.data() + unit * inner + i0;
      for (int64_t r = r0; r < r1; ++r) {
        if (mask && !mask[o * reduce + r]) continue;
        const T* row = x + (o * reduce + r) * inner + i0;
        for (int64_t i = 0; i < width; ++i) sums[i] += static_cast<A>(row[i]);
      }
    }
  });
  parallel_for(outer * inner, row_grain(parts), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const int64_t o = u / inner, i = u % inner;
      double total = 0;
      for (int64_t p = 0; p < parts; ++p) total += static_cast<double>(partial[static_cast<size_t>((o * parts + p) * inner + i)]);
      write(o, i, total);
    }
  });
}

/// out[o,r,i] = value(o, r, i) for the whole layout.
template <class T, class F> void fill_layout_cpu(T* out, int64_t outer, int64_t reduce, int64_t inner, const F& value) {
  parallel_for(outer * reduce, row_grain(inner), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t o = row / reduce, r = row % reduce;
      T* y = out + row * inner;
      for (int64_t i = 0; i < inner; ++i) y[i] = static_cast<T>(value(o, r, i));
    }
  });
}

}  // namespace flare
