#pragma once
/// Embedding rows and their deterministic gradient.
#include <algorithm>
#include <cstdint>

#include "ops/kernels/reduce.cuh"

namespace flare {

/// One thread copies kVec neighbours of a row. T: weight, Out: result.
template <class T> struct RowOfToken {
  const int64_t* tokens;
  const T* weight;
  int64_t v_count, c;
  template <int kVec> __device__ void operator()(int64_t t, int64_t, int64_t i, float (&v)[kVec]) const {
    const int64_t id = tokens[t];
    if (id >= 0 && id < v_count)
      load_vec<kVec>(weight + id * c + i, v);
    else
      for (int j = 0; j < kVec; ++j) v[j] = 0;
  }
};

inline constexpr int64_t kVocabularyTile = 1024;  // rows of 32 floats: 128 KiB of shared memory at most

/// parts[range][v][c] = sum of gy over the tokens of the range with id v. A warp owns a range of tokens, 32 columns and up to
/// 1024 vocabulary rows, whose sums live in shared memory: lane l alone touches column l, so no two threads ever meet and the
/// tokens are added in order. Eight rows of gy are fetched before the first is added, to hide their latency.
/// Grid: ranges x tiles of the vocabulary x tiles of 32 columns, one warp each.
template <class T>
__global__ void embedding_backward_kernel(const int64_t* tokens, const T* gy, float* parts, int64_t n, int64_t v_count, int64_t c,
                                          int64_t range, int64_t v_tile, int64_t n_v_tiles, int64_t n_c_tiles) {
  after_previous();
  extern __shared__ float sums[];  // [v_tile][32]
  const int lane = threadIdx.x;
  const int64_t c_tile = blockIdx.x % n_c_tiles, rest = blockIdx.x / n_c_tiles, part = rest / n_v_tiles;
  const int64_t v0 = rest % n_v_tiles * v_tile, n_rows = v0 + v_tile < v_count ? v_tile : v_count - v0;
  const int64_t column = c_tile * kWarp + lane;
  const bool inside = column < c;
  for (int64_t v = 0; v < n_rows; ++v) sums[v * kWarp + lane] = 0;
  const int64_t end = (part + 1) * range < n ? (part + 1) * range : n;
  for (int64_t t0 = part * range; t0 < end; t0 += kWarp) {
    int row = -1;  // row of this lane's token in the tile
    if (t0 + lane < end) {
      const int64_t id = tokens[t0 + lane] - v0;
      if (id >= 0 && id < n_rows) row = static_cast<int>(id);
    }
    if (__ballot_sync(0xffffffffu, row >= 0) == 0) continue;
    for (int j0 = 0; j0 < kWarp; j0 += 8) {
      int rows[8];
      float g[8];
#pragma unroll
      for (int j = 0; j < 8; ++j) {
        rows[j] = __shfl_sync(0xffffffffu, row, j0 + j);
        g[j] = rows[j] >= 0 && inside ? static_cast<float>(gy[(t0 + j0 + j) * c + column]) : 0.0f;
      }
#pragma unroll
      for (int j = 0; j < 8; ++j)
        if (rows[j] >= 0) sums[rows[j] * kWarp + lane] += g[j];
    }
  }
  if (!inside) return;
  for (int64_t v = 0; v < n_rows; ++v) parts[(part * v_count + v0 + v) * c + column] = sums[v * kWarp + lane];
}

template <class T>
void embedding_backward_cuda(const char* name, const int64_t* tokens, const T* gy, float* gw, int64_t n, int64_t v_count, int64_t c,
                             Stream& stream) {
  constexpr int64_t kPartBudget = int64_t{4} << 20;  // floats of partial sums: 16 MiB
  const int64_t v_tile = std::min(v_count, kVocabularyTile), v_tiles = (v_count + v_tile - 1) / v_tile,
                c_tiles = (c + kWarp - 1) / kWarp;
  const int64_t parts = std::max<int64_t>(1, std::min((n + 255) / 256, kPartBudget / (v_count * c)));
  const LaunchShape shape{dim3(static_cast<unsigned>(parts * v_tiles * c_tiles)), dim3(kWarp),
                          v_tile * kWarp * static_cast<int64_t>(sizeof(float))};
  const int64_t range = (n + parts - 1) / parts;
  const auto first = [&](float* to) {
    launch_early(name, embedding_backward_kernel<T>, shape, stream, tokens, gy, to, n, v_count, c, range, v_tile, v_tiles, c_tiles);
  };
  if (parts == 1) return first(gw);
  const Tensor partial = Tensor::empty({parts, v_count, c}, DType::f32, Device::cuda);
  first(partial.data<float>());
  column_sums(name, partial.data<float>(), nullptr, gw, 1, parts, v_count * c, 1.0, nullptr, stream);
}

}  // namespace flare
