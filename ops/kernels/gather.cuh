#pragma once
/// Device code of gather and of its adjoint. One thread owns one element throughout.
#include <cstdint>

#include "core/dtype.h"

namespace flare {

/// What a row with an index outside the axis holds: something that cannot pass unnoticed.
template <class T> __device__ T no_such_row() {
  if constexpr (std::is_same_v<T, float> || std::is_same_v<T, double> || std::is_same_v<T, bf16>)
    return T(__int_as_float(0x7fc00000));
  else
    return T(0);
}

/// y [outer,count,inner] from x [outer,length,inner].
template <class T>
__global__ void gather_kernel(const T* x, const int64_t* index, T* y, int64_t n, int64_t count, int64_t length, int64_t inner) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= n) return;
  const int64_t row = e / inner, i = e - row * inner, o = row / count;
  const int64_t r = index[row - o * count];
  y[e] = r >= 0 && r < length ? x[(o * length + r) * inner + i] : no_such_row<T>();
}

static __global__ void positions_kernel(int32_t* out, int64_t n) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < n) out[i] = static_cast<int32_t>(i);
}

/// gx [outer,length,inner], already zero, from gy [outer,count,inner]; keys: the sorted indices, order: where each came from.
/// The thread whose sorted place starts a run of equal keys adds the run in order; the others have nothing to do.
template <class T>
__global__ void scatter_rows_kernel(const T* gy, const int64_t* keys, const int32_t* order, T* gx, int64_t n, int64_t count,
                                    int64_t inner, int64_t length) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= n) return;
  const int64_t row = e / inner, i = e - row * inner, o = row / count;
  int64_t place = row - o * count;
  const int64_t r = keys[place];
  if (r < 0 || r >= length || (place > 0 && keys[place - 1] == r)) return;
  acc_t<T> sum = 0;
  for (; place < count && keys[place] == r; ++place) sum += static_cast<acc_t<T>>(gy[(o * count + order[place]) * inner + i]);
  gx[(o * length + r) * inner + i] = T(sum);
}

}  // namespace flare
