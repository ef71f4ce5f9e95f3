#pragma once
/// Softmax over one axis of [outer, n, inner]. inner = 1: a warp or a block a row. inner > 1: a thread a line, neighbours in
/// neighbouring threads, so that loads coalesce. x is read three times, the second and third time mostly from cache.
#include <cstdint>

#include "core/launch.cuh"
#include "ops/kernels/warp.cuh"

namespace flare {

/// Where a thread's line starts, which of its elements the thread takes, and how partial results meet.
template <int kGroup> struct Line {
  int64_t at, first, step, stride;
  bool valid;
  __device__ Line(int64_t outer, int64_t n, int64_t inner) {
    const int64_t thread = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
    const int64_t line = kGroup == 1 ? thread : thread / kGroup;
    first = kGroup == 1 ? 0 : thread % kGroup;
    step = kGroup;
    stride = inner;
    valid = line < outer * inner;
    at = line / inner * n * inner + line % inner;
  }
  template <class F> __device__ static float combine(float v, F f) {
    if constexpr (kGroup == 1)
      return v;
    else if constexpr (kGroup == kWarp)
      return warp_reduce(v, f);
    else
      return block_reduce(v, f);
  }
};

template <bool kLog, int kGroup, class T>
__global__ void softmax_kernel(const T* x, T* y, int64_t outer, int64_t n, int64_t inner) {
  const Line<kGroup> line(outer, n, inner);
  if (!line.valid) return;  // a whole group leaves together
  const T* in = x + line.at;
  T* out = y + line.at;
  float top = -INFINITY;
  for (int64_t i = line.first; i < n; i += line.step) top = fmaxf(top, static_cast<float>(in[i * line.stride]));
  top = line.combine(top, Larger{});
  float total = 0;
  for (int64_t i = line.first; i < n; i += line.step) total += expf(static_cast<float>(in[i * line.stride]) - top);
  total = line.combine(total, Plus{});
  const float shift = kLog ? top + logf(total) : top, scale = 1 / total;
  for (int64_t i = line.first; i < n; i += line.step) {
    const float v = static_cast<float>(in[i * line.stride]) - shift;
    out[i * line.stride] = static_cast<T>(kLog ? v : expf(v) * scale);
  }
}

template <bool kLog, int kGroup, class T>
__global__ void softmax_backward_kernel(const T* y, const T* gy, T* gx, int64_t outer, int64_t n, int64_t inner) {
  const Line<kGroup> line(outer, n, inner);
  if (!line.valid) return;
  float total = 0;
  for (int64_t i = line.first; i < n; i += line.step) {
    const int64_t j = line.at + i * line.stride;
    total += kLog ? static_cast<float>(gy[j]) : static_cast<float>(y[j]) * static_cast<float>(gy[j]);
  }
  total = line.combine(total, Plus{});
  for (int64_t i = line.first; i < n; i += line.step) {
    const int64_t j = line.at + i * line.stride;
    const float v = static_cast<float>(y[j]), g = static_cast<float>(gy[j]);
    gx[j] = static_cast<T>(kLog ? g - expf(v) * total : v * (g - total));
  }
}

inline constexpr int kSoftmaxThreads = 256;

template <bool kLog, class T>
void softmax_cuda(const char* name, const T* x, T* y, int64_t outer, int64_t n, int64_t inner, Stream& stream) {
  if (inner > 1)
    launch(name, softmax_kernel<kLog, 1, T>, cover(outer * inner, kSoftmaxThreads), stream, x, y, outer, n, inner);
  else if (n <= 1024)
    launch(name, softmax_kernel<kLog, kWarp, T>, cover(outer * kWarp, kSoftmaxThreads), stream, x, y, outer, n, inner);
  else
    launch(name, softmax_kernel<kLog, kSoftmaxThreads, T>, cover(outer * kSoftmaxThreads, kSoftmaxThreads), stream, x, y, outer, n,
           inner);
}
template <bool kLog, class T>
void softmax_backward_cuda(const char* name, const T* y, const T* gy, T* gx, int64_t outer, int64_t n, int64_t inner,
                           Stream& stream) {
  constexpr int kT = kSoftmaxThreads;
  if (inner > 1)
    launch(name, softmax_backward_kernel<kLog, 1, T>, cover(outer * inner, kT), stream, y, gy, gx, outer, n, inner);
  else if (n <= 1024)
    launch(name, softmax_backward_kernel<kLog, kWarp, T>, cover(outer * kWarp, kT), stream, y, gy, gx, outer, n, inner);
  else
    launch(name, softmax_backward_kernel<kLog, kT, T>, cover(outer * kT, kT), stream, y, gy, gx, outer, n, inner);
}

}  // namespace flare
