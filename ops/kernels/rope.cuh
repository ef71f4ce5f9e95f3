#pragma once
/// Device code of rope.
#include <cstdint>

#include "core/dtype.h"

namespace flare {

/// table[2·(n·half + i)] = cos, [… + 1] = sin of n·base^(-i/half). In double: n·frequency in float would be off by 1e-4 radians
/// after a few thousand tokens. It has N·D/2 entries, a small fraction of x, so the cost does not show.
static __global__ void rope_table_kernel(float* table, int64_t n_entries, int64_t half, double base, double sign) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= n_entries) return;
  const int64_t n = e / half, i = e - n * half;
  const double angle = sign * static_cast<double>(n) * pow(base, -static_cast<double>(i) / static_cast<double>(half));
  double s, c;
  sincos(angle, &s, &c);
  table[2 * e] = static_cast<float>(c);
  table[2 * e + 1] = static_cast<float>(s);
}

/// One thread turns one pair: reads and writes two neighbouring elements, the table comes from L2.
template <class T>
__global__ void rope_kernel(const T* x, const float* table, T* y, int64_t n_pairs, int64_t tokens, int64_t pairs_per_token,
                            int64_t half) {
  const int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= n_pairs) return;
  const int64_t token = p / pairs_per_token, i = (p - token * pairs_per_token) % half, n = token % tokens;
  const float c = table[2 * (n * half + i)], s = table[2 * (n * half + i) + 1];
  const float a = static_cast<float>(x[2 * p]), b = static_cast<float>(x[2 * p + 1]);
  y[2 * p] = T(a * c - b * s);
  y[2 * p + 1] = T(a * s + b * c);
}

}  // namespace flare
