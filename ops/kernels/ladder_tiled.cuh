#pragma once
/// Rung 2, tiled: keys and values are read once per block, not once per thread, and the softmax is taken in one walk.
#include "ops/kernels/ladder.cuh"

namespace flare {

inline constexpr int kLadderQueries = 64, kLadderKeys = 64;  // rows of a block, rows of a tile

/// Grid: (b, h, tile of 64 queries). A thread owns one query: q, the running maximum and sum, and the weighted sum of values in
/// registers, 2*D floats. Tiles of 64 keys and values pass through 2*64*D floats of shared memory, loaded by all threads together
/// and read as broadcasts. The maximum is raised once per 8 keys; what was summed under the old one is then scaled down, so nothing
/// is walked twice. Reads 2*D elements per key and block; 2*D FMAs and one exponential (and an eighth) per pair.
template <class Tq, class Tk, int D> __global__ void __launch_bounds__(kLadderQueries) ladder_tiled_kernel(LadderArgs<Tq, Tk> a) {
  constexpr int kGroup = 8;
  __shared__ __align__(16) float key[kLadderKeys][D], value[kLadderKeys][D];
  __shared__ float bias[kLadderKeys];  // 0, or minus infinity where there is no live key
  const int t = static_cast<int>(threadIdx.x);
  const int64_t n_tiles = (a.n_query + kLadderQueries - 1) / kLadderQueries, bh = blockIdx.x / n_tiles, b = bh / a.H, h = bh % a.H;
  const int64_t i = blockIdx.x % n_tiles * kLadderQueries + t;
  const bool live = live_query(a, b, i);
  float query[D], acc[D] = {}, max = minus_infinity(), sum = 0;
  load_row<D>(a.query.rows.at(b, h, live ? i : 0), D, a.query.vec, a.scale, live, query);
  for (int64_t j0 = 0; j0 < a.n_key; j0 += kLadderKeys) {
    bias[t] = live_key(a, b, j0 + t) ? 0.0f : minus_infinity();
    for (int e = t; e < kLadderKeys * (D / 4); e += kLadderQueries) {
      const int r = e / (D / 4), d = e % (D / 4) * 4;
      const bool inside = live_key(a, b, j0 + r);
      const float4 zero = make_float4(0, 0, 0, 0);
      *reinterpret_cast<float4*>(&key[r][d]) = inside ? load_quad(a.key.rows.at(b, h, j0 + r), d, D, a.key.vec) : zero;
      *reinterpret_cast<float4*>(&value[r][d]) = inside ? load_quad(a.value.rows.at(b, h, j0 + r), d, D, a.value.vec) : zero;
    }
    __syncthreads();
    for (int g = 0; g < kLadderKeys; g += kGroup) {
      float s[kGroup], raised = max;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        s[j] = dot(query, key[g + j], bias[g + j]);
        raised = fmaxf(raised, s[j]);
      }
      if (raised == minus_infinity()) continue;  // no live key so far
      const float shrink = exp2_fast(max - raised);
      max = raised, sum *= shrink;
#pragma unroll
      for (int d = 0; d < D; ++d) acc[d] *= shrink;
#pragma unroll
      for (int j = 0; j < kGroup; ++j) {
        const float weight = exp2_fast(s[j] - max);
        sum += weight;
        add_scaled(weight, value[g + j], acc);
      }
    }
    __syncthreads();
  }
  if (i < a.n_query) store_row<D>(a.out.rows.at(b, h, i), D, a.out.vec, sum > 0 && live ? 1 / sum : 0.0f, acc);
}

template <class Tq, class Tk, int D> void ladder_tiled(const LadderArgs<Tq, Tk>& a, Stream& stream) {
  const int64_t blocks = a.B * a.H * ((a.n_query + kLadderQueries - 1) / kLadderQueries);
  launch("ladder tiled", ladder_tiled_kernel<Tq, Tk, D>, {dim3(static_cast<unsigned>(blocks)), dim3(kLadderQueries)}, stream, a);
}

}  // namespace flare
