#pragma once
/// Device code of rope.
#include <cstdint>

#include "core/dtype.h"
#include "ops/kernels/vec.cuh"

namespace flare {

/// table[2·(n·half + i)] = cos, [… + 1] = sin of n·base^(-i/half). In double: n·frequency in float would be off by 1e-4 radians
/// after a few thousand tokens. It has N·D/2 entries, a small fraction of x, so the cost does not show.
static __global__ void rope_table_kernel(float* table, int64_t n_entries, int64_t half, double base, double sign) {
  after_previous();
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= n_entries) return;
  const int64_t n = e / half, i = e - n * half;
  const double angle = sign * static_cast<double>(n) * pow(base, -static_cast<double>(i) / static_cast<double>(half));
  double s, c;
  sincos(angle, &s, &c);
  table[2 * e] = static_cast<float>(c);
  table[2 * e + 1] = static_cast<float>(s);
}

/// One thread turns the pairs of kVec neighbouring elements of one head; the table comes from L2.
template <int kVec, class T>
__global__ void rope_kernel(const T* x, const float* table, T* y, int64_t n_packs, int64_t tokens, int64_t packs_per_token,
                            int64_t packs_per_head) {
  after_previous();
  const int64_t p = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (p >= n_packs) return;
  const int64_t token = p / packs_per_token, pack = (p - token * packs_per_token) % packs_per_head;
  float v[kVec], turn[kVec];
  load_vec<kVec>(x + p * kVec, v);
  load_vec<kVec>(table + (token % tokens * packs_per_head + pack) * kVec, turn);
#pragma unroll
  for (int i = 0; i < kVec; i += 2) {
    const float a = v[i], b = v[i + 1];
    v[i] = a * turn[i] - b * turn[i + 1], v[i + 1] = a * turn[i + 1] + b * turn[i];
  }
  store_vec<kVec>(y + p * kVec, v);
}

}  // namespace flare
