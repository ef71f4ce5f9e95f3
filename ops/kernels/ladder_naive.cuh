#pragma once
/// Rung 1, naive: the formula as it stands.
#include "ops/kernels/ladder.cuh"

namespace flare {

/// Grid: a thread per query row. Everything comes from global memory: every thread reads all keys twice (once for the maximum, once
/// for the sums) and all values once, so the traffic through the caches is 3*D elements and 2*D + D FMAs per pair, with two
/// evaluations of the score and one exponential. Encode has only B*H*M threads, each walking all tokens alone.
template <class Tq, class Tk, int D> __global__ void ladder_naive_kernel(LadderArgs<Tq, Tk> a) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= a.B * a.H * a.n_query) return;
  const int64_t i = thread % a.n_query, bh = thread / a.n_query, b = bh / a.H, h = bh % a.H;
  const Tq* query = a.query.rows.at(b, h, i);
  const auto score = [&](int64_t j) {
    const Tk* key = a.key.rows.at(b, h, j);
    float s = 0;
    for (int d = 0; d < D; ++d) s = fmaf(static_cast<float>(query[d]), static_cast<float>(key[d]), s);
    return a.scale * s;
  };
  float max = minus_infinity(), sum = 0, acc[D] = {};
  const int64_t n_key = live_query(a, b, i) ? a.n_key : 0;
  for (int64_t j = 0; j < n_key; ++j)
    if (live_key(a, b, j)) max = fmaxf(max, score(j));
  for (int64_t j = 0; j < n_key; ++j) {
    if (!live_key(a, b, j)) continue;
    const float weight = exp2_fast(score(j) - max);
    const Tk* value = a.value.rows.at(b, h, j);
    sum += weight;
    for (int d = 0; d < D; ++d) acc[d] = fmaf(weight, static_cast<float>(value[d]), acc[d]);
  }
  const float inverse = sum > 0 ? 1 / sum : 0;
  Tq* out = a.out.rows.at(b, h, i);
  for (int d = 0; d < D; ++d) out[d] = static_cast<Tq>(inverse * acc[d]);
}

template <class Tq, class Tk, int D> void ladder_naive(const LadderArgs<Tq, Tk>& a, Stream& stream) {
  launch("ladder naive", ladder_naive_kernel<Tq, Tk, D>, cover(a.B * a.H * a.n_query, 128), stream, a);
}

}  // namespace flare
