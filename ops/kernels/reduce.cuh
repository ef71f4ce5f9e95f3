#pragma once
/// Sums over one axis of [outer, reduce, inner], and fills of the same layout. Where few outputs would leave the GPU idle,
/// the reduced axis is split and a second launch adds the parts; how it is split depends on the shape alone, never on the
/// chip, and nothing is added atomically, so the bits repeat.
#include <algorithm>
#include <cstdint>

#include "core/launch.cuh"
#include "core/tensor.h"
#include "ops/kernels/vec.cuh"
#include "ops/kernels/warp.cuh"

namespace flare {

inline constexpr int64_t kBlocksWanted = 528;  // four blocks for each of an H100's 132 multiprocessors

/// How many pieces to cut `reduce` into so that about kBlocksWanted blocks run, each with at least `least` elements.
inline int64_t split_count(int64_t blocks, int64_t reduce, int64_t least) {
  const int64_t wanted = (kBlocksWanted + blocks - 1) / std::max<int64_t>(blocks, 1);
  return std::max<int64_t>(1, std::min(wanted, (reduce + least - 1) / least));
}

/// term(row, i, sums) adds element i of a row into sums; write(row, sums) takes the totals.
/// Grid: one block a (row, part). Block: kThreads threads, of which each `kGroup` (32 or all) serve one row.
template <int kSums, int kGroup, class Term, class Write>
__global__ void row_sums_kernel(Term term, Write write, int64_t rows, int64_t n, int64_t n_parts, int64_t part) {
  after_previous();
  const int64_t unit = kGroup == kWarp ? static_cast<int64_t>(blockIdx.x) * (blockDim.x / kWarp) + threadIdx.x / kWarp : blockIdx.x;
  if (unit >= rows * n_parts) return;  // whole warps leave together
  const int64_t row = unit / n_parts, begin = (unit % n_parts) * part, end = begin + part < n ? begin + part : n;
  const int first = kGroup == kWarp ? threadIdx.x % kWarp : threadIdx.x;
  float sums[kSums] = {};
#pragma unroll 4
  for (int64_t i = begin + first; i < end; i += kGroup) term(row, i, sums);
#pragma unroll
  for (int k = 0; k < kSums; ++k) sums[k] = kGroup == kWarp ? warp_sum(sums[k]) : block_reduce(sums[k], Plus{});
  if (first == 0) write(unit, sums);
}

template <int kSums> struct WriteParts {
  float* parts;
  __device__ void operator()(int64_t unit, const float (&sums)[kSums]) const {
    for (int k = 0; k < kSums; ++k) parts[unit * kSums + k] = sums[k];
  }
};
template <int kSums> struct AddParts {
  const float* parts;
  int64_t n_parts;
  __device__ void operator()(int64_t row, int64_t i, float (&sums)[kSums]) const {
    for (int k = 0; k < kSums; ++k) sums[k] += parts[(row * n_parts + i) * kSums + k];
  }
};

/// kSums sums of each row of n terms.
template <int kSums, class Term, class Write>
void reduce_rows(const char* name, int64_t rows, int64_t n, Term term, Write write, Stream& stream) {
  constexpr int kThreads = 256;
  const auto by_warp = [&](auto t) {
    const int64_t blocks = (rows + kThreads / kWarp - 1) / (kThreads / kWarp);
    const int64_t length = [&] {
      if constexpr (std::is_same_v<decltype(t), AddParts<kSums>>)
        return t.n_parts;
      else
        return n;
    }();
    launch_early(name, row_sums_kernel<kSums, kWarp, decltype(t), Write>, {dim3(static_cast<unsigned>(blocks)), dim3(kThreads)},
                 stream, t, write, rows, length, int64_t{1}, length);
  };
  if (n <= kThreads || (n <= 1024 && rows >= 64)) return by_warp(term);  // fewer rows would leave the GPU waiting for one warp
  const int64_t parts = split_count(rows, n, 2048);
  if (parts == 1) {
    launch_early(name, row_sums_kernel<kSums, kThreads, Term, Write>, {dim3(static_cast<unsigned>(rows)), dim3(kThreads)}, stream,
                 term, write, rows, n, int64_t{1}, n);
    return;
  }
  const Tensor partial = Tensor::empty({rows * parts, kSums}, DType::f32, Device::cuda);
  launch_early(name, row_sums_kernel<kSums, kThreads, Term, WriteParts<kSums>>,
               {dim3(static_cast<unsigned>(rows * parts)), dim3(kThreads)}, stream, term, WriteParts<kSums>{partial.data<float>()},
               rows, n, parts, (n + parts - 1) / parts);
  by_warp(AddParts<kSums>{partial.data<float>(), parts});
}

/// y[o,p,i] = scale * row_scale[o] * sum over the r of part p with mask[o,r] of x[o,r,i].
/// Grid: one block a (outer, part, tile of 32*kVec columns). Block: 32 x kRows; thread (tx, ty) adds the rows ty, ty+kRows, ...
template <int kVec, int kRows, class T, class Out>
__global__ void column_sums_kernel(const T* x, const uint8_t* mask, Out* y, int64_t reduce, int64_t inner, int64_t n_parts,
                                   int64_t part, int64_t n_tiles, float scale, const float* row_scale) {
  after_previous();
  __shared__ float of_row[kRows][kWarp * kVec];
  const int64_t tile = blockIdx.x % n_tiles, unit = blockIdx.x / n_tiles, o = unit / n_parts;
  const int64_t begin = (unit % n_parts) * part, end = begin + part < reduce ? begin + part : reduce;
  const int64_t i = (tile * kWarp + threadIdx.x) * kVec;
  float sums[kVec] = {};
  if (i < inner) {
    const T* base = x + o * reduce * inner + i;
#pragma unroll 4
    for (int64_t r = begin + threadIdx.y; r < end; r += kRows) {
      if (mask && !mask[o * reduce + r]) continue;
      float v[kVec];
      load_vec<kVec>(base + r * inner, v);
#pragma unroll
      for (int j = 0; j < kVec; ++j) sums[j] += v[j];
    }
  }
#pragma unroll
  for (int j = 0; j < kVec; ++j) of_row[threadIdx.y][threadIdx.x * kVec + j] = sums[j];
  __syncthreads();
  if (threadIdx.y != 0 || i >= inner) return;
  const float factor = row_scale ? scale * row_scale[o] : scale;
#pragma unroll
  for (int j = 0; j < kVec; ++j) {
    float total = 0;
    for (int r = 0; r < kRows; ++r) total += of_row[r][threadIdx.x * kVec + j];
    sums[j] = total * factor;
  }
  store_vec<kVec>(y + unit * inner + i, sums);
}

template <int kVec, int kRows, class T, class Out>
void launch_column_sums(const char* name, const T* x, const uint8_t* mask, Out* y, int64_t outer, int64_t reduce, int64_t inner,
                        int64_t parts, float scale, const float* row_scale, Stream& stream) {
  const int64_t tiles = (inner + kWarp * kVec - 1) / (kWarp * kVec);
  const LaunchShape shape{dim3(static_cast<unsigned>(outer * parts * tiles)), dim3(kWarp, kRows)};
  launch_early(name, column_sums_kernel<kVec, kRows, T, Out>, shape, stream, x, mask, y, reduce, inner, parts,
               (reduce + parts - 1) / parts, tiles, scale, row_scale);
}

/// y[o,i] = scale * row_scale[o] * sum over r with mask[o,r] of x[o,r,i]; mask [outer,reduce] and row_scale [outer] may be null.
template <class T, class Out>
void column_sums(const char* name, const T* x, const uint8_t* mask, Out* y, int64_t outer, int64_t reduce, int64_t inner,
                 double scale, const float* row_scale, Stream& stream) {
  const float factor = static_cast<float>(scale);
  const bool wide = fits_vec(x, inner, sizeof(T), 4) && fits_vec(y, inner, sizeof(Out), 4);
  const int64_t width = wide ? 4 * kWarp : kWarp;
  const int64_t parts = split_count(outer * ((inner + width - 1) / width), reduce, 64);
  const auto first = [&](auto* to, float f, const float* rs) {
    if (wide)
      launch_column_sums<4, 8>(name, x, mask, to, outer, reduce, inner, parts, f, rs, stream);
    else
      launch_column_sums<1, 8>(name, x, mask, to, outer, reduce, inner, parts, f, rs, stream);
  };
  if (parts == 1) return first(y, factor, row_scale);
  const Tensor partial = Tensor::empty({outer, parts, inner}, DType::f32, Device::cuda);
  first(partial.data<float>(), 1.0f, nullptr);
  launch_column_sums<1, 32>(name, partial.data<float>(), nullptr, y, outer, parts, inner, 1, factor, row_scale, stream);
}

/// out[o,r,i..i+kVec) = value(o, r, i, v): one thread writes kVec neighbours.
template <int kVec, class Index, class T, class F>
__global__ void fill_kernel(T* out, Index n, Index reduce, Index inner, F value) {
  after_previous();
  const Index thread = static_cast<Index>(blockIdx.x) * blockDim.x + threadIdx.x;
  const Index e = thread * kVec;
  if (thread >= (n + kVec - 1) / kVec) return;
  const Index row = e / inner, i = e % inner;
  float v[kVec];
  value(static_cast<int64_t>(row / reduce), static_cast<int64_t>(row % reduce), static_cast<int64_t>(i), v);
  store_vec<kVec>(out + e, v);
}
/// Writes [outer, reduce, inner] from value(o, r, i, float (&v)[kVec]), which fills v for i, i+1, ...; kVec is 4 or 1, always 1
/// unless value can read 4 neighbours of its inputs at once (`inputs_fit`).
template <class T, class F>
void fill_layout(const char* name, T* out, int64_t outer, int64_t reduce, int64_t inner, F value, bool inputs_fit, Stream& stream) {
  const int64_t n = outer * reduce * inner;
  if (n == 0) return;
  const bool wide = inputs_fit && fits_vec(out, inner, sizeof(T), 4);
  if (n < int64_t{1} << 31) {  // 32-bit division is several times faster
    const auto n32 = static_cast<uint32_t>(n), r32 = static_cast<uint32_t>(reduce), i32 = static_cast<uint32_t>(inner);
    if (wide)
      launch_early(name, fill_kernel<4, uint32_t, T, F>, cover(n / 4), stream, out, n32, r32, i32, value);
    else
      launch_early(name, fill_kernel<1, uint32_t, T, F>, cover(n), stream, out, n32, r32, i32, value);
  } else {
    if (wide)
      launch_early(name, fill_kernel<4, int64_t, T, F>, cover(n / 4), stream, out, n, reduce, inner, value);
    else
      launch_early(name, fill_kernel<1, int64_t, T, F>, cover(n), stream, out, n, reduce, inner, value);
  }
}

}  // namespace flare
