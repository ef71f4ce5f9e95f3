#pragma once
/// Reductions inside a warp and a block. All orders are fixed, so the bits repeat.
#include <cstdint>

namespace flare {

inline constexpr int kWarp = 32;

struct Plus {
  __device__ float operator()(float a, float b) const { return a + b; }
};
struct Larger {
  __device__ float operator()(float a, float b) const { return fmaxf(a, b); }
};

/// Combines the values of the 32 lanes; every lane gets the result. All lanes must take part.
template <class F> __device__ __forceinline__ float warp_reduce(float v, F combine) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) v = combine(v, __shfl_xor_sync(0xffffffffu, v, step));
  return v;
}
__device__ __forceinline__ float warp_sum(float v) { return warp_reduce(v, Plus{}); }
__device__ __forceinline__ float warp_max(float v) { return warp_reduce(v, Larger{}); }

/// Combines the values of all threads of a one-dimensional block of whole warps; every thread gets the result.
template <class F> __device__ __forceinline__ float block_reduce(float v, F combine) {
  __shared__ float of_warp[kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp, n_warps = blockDim.x / kWarp;
  v = warp_reduce(v, combine);
  if (n_warps == 1) return v;
  if (lane == 0) of_warp[warp] = v;
  __syncthreads();
  v = of_warp[0];
  for (int w = 1; w < n_warps; ++w) v = combine(v, of_warp[w]);
  __syncthreads();  // of_warp may be written again by the next call
  return v;
}

}  // namespace flare
