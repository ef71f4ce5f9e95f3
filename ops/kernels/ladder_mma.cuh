#pragma once
/// Rungs 3 and 4, tensor-core and split-token: one kernel. Rung 3 gives each block all keys; rung 4 gives it a chunk of them and
/// merges the chunks by log-sum-exp.
#include "core/tensor.h"
#include "ops/kernels/ladder_units.cuh"

namespace flare {

/// How the keys are cut. Parts are [b,h][chunk][query][D] unnormalised sums and [..][2] = (maximum, sum of weights); null with one
/// chunk.
struct LadderSplit {
  int64_t n_chunks = 1, chunk = 0;
  float *acc = nullptr, *stats = nullptr;
};

/// Fills a tile of 64 rows from `first`; zeros from `end` on, where the mask is 0, and in the columns beyond D.
template <class Unit, int D, class T>
__device__ __forceinline__ void stage(const DeviceRows<T>& rows, int64_t b, int64_t h, int64_t first, int64_t end,
                                      const uint8_t* mask, typename Unit::Element* tile) {
  for (int e = static_cast<int>(threadIdx.x); e < kMmaKeys * (Unit::kWidth / 4); e += kMmaThreads) {
    const int r = e / (Unit::kWidth / 4), d = e % (Unit::kWidth / 4) * 4;
    const bool live = first + r < end && (!mask || mask[first + r]);
    const float4 x = live ? load_quad(rows.rows.at(b, h, first + r), d, D, rows.vec) : make_float4(0, 0, 0, 0);
    Unit::store(tile + r * Unit::kStride + d, x);
  }
}

/// Grid: (b, h, tile of 64 queries, chunk of keys), chunks fastest. Block: 4 warps; a warp owns 16 queries: their A fragments, the
/// scores against 64 keys (32 floats a thread) and the weighted sums (D/2 floats) stay in registers. Shared memory: 64 keys and 64
/// values in the unit's precision. Reads 2*D elements per key and block; 4*D flops per pair on the tensor cores, one exponential
/// and about four other instructions on the ordinary ones.
template <class Unit, class Tq, class Tk, int D>
__global__ void __launch_bounds__(kMmaThreads) ladder_mma_kernel(LadderArgs<Tq, Tk> a, LadderSplit split) {
  __shared__ __align__(16) typename Unit::Element key[kMmaKeys * Unit::kStride], value[kMmaKeys * Unit::kStride];
  __shared__ float bias[kMmaKeys];  // 0, or minus infinity where there is no live key
  const int lane = static_cast<int>(threadIdx.x % 32), warp = static_cast<int>(threadIdx.x / 32), g = lane / 4, t = lane % 4;
  const int64_t n_tiles = (a.n_query + kMmaQueries - 1) / kMmaQueries, chunk = blockIdx.x % split.n_chunks;
  const int64_t rest = blockIdx.x / split.n_chunks, bh = rest / n_tiles, b = bh / a.H, h = bh % a.H;
  const int64_t first = rest % n_tiles * kMmaQueries, begin = chunk * split.chunk, end = min(a.n_key, begin + split.chunk);

  typename Unit::Query query;
  stage<Unit, D>(a.query, b, h, first, a.n_query, a.query_mask ? a.query_mask + b * a.n_query : nullptr, key);
  __syncthreads();
  Unit::load(key + warp * 16 * Unit::kStride, lane, query);
  __syncthreads();

  const uint8_t* mask = a.key_mask ? a.key_mask + b * a.n_key : nullptr;
  float acc[D / 8][4] = {}, max[2] = {minus_infinity(), minus_infinity()}, sum[2] = {};  // of queries g and g + 8
  for (int64_t j0 = begin; j0 < end; j0 += kMmaKeys) {
    stage<Unit, D>(a.key, b, h, j0, end, mask, key);
    stage<Unit, D>(a.value, b, h, j0, end, mask, value);
    if (threadIdx.x < kMmaKeys)
      bias[threadIdx.x] = j0 + threadIdx.x < end && (!mask || mask[j0 + threadIdx.x]) ? 0.0f : minus_infinity();
    __syncthreads();

    float s[kMmaKeys / 8][4] = {};
    Unit::scores(query, key, lane, s);
    float raised[2] = {max[0], max[1]};
#pragma unroll
    for (int j = 0; j < kMmaKeys / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[j][e] = fmaf(a.scale, s[j][e], bias[j * 8 + t * 2 + e % 2]);
        raised[e / 2] = fmaxf(raised[e / 2], s[j][e]);
      }
    float shrink[2], origin[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      // The four threads of a group share a query.
      raised[r] = fmaxf(raised[r], __shfl_xor_sync(0xffffffffu, raised[r], 1));
      raised[r] = fmaxf(raised[r], __shfl_xor_sync(0xffffffffu, raised[r], 2));
      origin[r] = raised[r] == minus_infinity() ? 0.0f : raised[r];  // no live key yet: every weight is 0
      shrink[r] = exp2_fast(max[r] - origin[r]);
      max[r] = raised[r], sum[r] *= shrink[r];
    }
#pragma unroll
    for (int c = 0; c < D / 8; ++c)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[c][e] *= shrink[e / 2];
#pragma unroll
    for (int j = 0; j < kMmaKeys / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        s[j][e] = exp2_fast(s[j][e] - origin[e / 2]);
        sum[e / 2] += s[j][e];  // this thread's keys; the group adds up after the last tile
      }
    Unit::add(s, value, lane, acc);
    __syncthreads();
  }

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 1);
    sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], 2);
    const int64_t i = first + warp * 16 + g + r * 8;
    if (i >= a.n_query) continue;
    const int64_t part = (bh * split.n_chunks + chunk) * a.n_query + i;
    if (split.stats && t == 0) split.stats[2 * part] = max[r], split.stats[2 * part + 1] = sum[r];
    const float inverse = sum[r] > 0 && live_query(a, b, i) ? 1 / sum[r] : 0;
#pragma unroll
    for (int c = 0; c < D / 8; ++c)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int d = c * 8 + t * 2 + e;
        if (split.acc)
          split.acc[part * D + d] = acc[c][r * 2 + e];
        else
          a.out.rows.at(b, h, i)[d] = static_cast<Tq>(inverse * acc[c][r * 2 + e]);
      }
  }
}

/// Merges the chunks of each query in chunk order: with M the largest of their maxima m_c,
///   out = sum_c 2^(m_c - M) acc_c / sum_c 2^(m_c - M) sum_c.
/// Grid: a thread per output element; reads n_chunks * (D + 2) floats per query.
template <class Tq, class Tk, int D> __global__ void ladder_merge_kernel(LadderArgs<Tq, Tk> a, LadderSplit split) {
  const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (thread >= a.B * a.H * a.n_query * D) return;
  const int64_t d = thread % D, i = thread / D % a.n_query, bh = thread / D / a.n_query, b = bh / a.H, h = bh % a.H;
  const int64_t first = bh * split.n_chunks * a.n_query + i;
  float max = minus_infinity(), sum = 0, acc = 0;
  for (int64_t c = 0; c < split.n_chunks; ++c) max = fmaxf(max, split.stats[2 * (first + c * a.n_query)]);
  if (max != minus_infinity()) {
    for (int64_t c = 0; c < split.n_chunks; ++c) {
      const int64_t part = first + c * a.n_query;
      const float weight = exp2_fast(split.stats[2 * part] - max);
      sum = fmaf(weight, split.stats[2 * part + 1], sum), acc = fmaf(weight, split.acc[part * D + d], acc);
    }
  }
  a.out.rows.at(b, h, i)[d] = static_cast<Tq>(sum > 0 && live_query(a, b, i) ? acc / sum : 0.0f);
}

/// One attention with the keys in about `wanted` blocks per (b, h, tile of queries); 1 leaves them whole.
template <class Unit, class Tq, class Tk, int D>
void ladder_mma(const char* name, const LadderArgs<Tq, Tk>& a, int64_t wanted, Stream& stream) {
  const int64_t n_tiles = a.B * a.H * ((a.n_query + kMmaQueries - 1) / kMmaQueries);
  LadderSplit split;
  split.chunk = ((a.n_key + wanted - 1) / wanted + kMmaKeys - 1) / kMmaKeys * kMmaKeys;
  split.n_chunks = (a.n_key + split.chunk - 1) / split.chunk;
  Tensor acc, stats;
  if (split.n_chunks > 1) {
    const int64_t rows = a.B * a.H * split.n_chunks * a.n_query;
    acc = Tensor::empty({rows, D}, DType::f32, Device::cuda), stats = Tensor::empty({rows, 2}, DType::f32, Device::cuda);
    split.acc = acc.data<float>(), split.stats = stats.data<float>();
  }
  launch(name, ladder_mma_kernel<Unit, Tq, Tk, D>, {dim3(static_cast<unsigned>(n_tiles * split.n_chunks)), dim3(kMmaThreads)},
         stream, a, split);
  if (split.n_chunks > 1)
    launch("ladder merge", ladder_merge_kernel<Tq, Tk, D>, cover(a.B * a.H * a.n_query * D), stream, a, split);
}

}  // namespace flare
