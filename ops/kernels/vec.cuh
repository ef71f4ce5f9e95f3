#pragma once
/// Loads and stores of kVec neighbours in one instruction, converted to and from float.
#include <cstdint>

#include "core/dtype.h"

namespace flare {

template <class T, int kVec> struct alignas(sizeof(T) * kVec) Pack { T v[kVec]; };

/// p must be aligned to sizeof(T) * kVec bytes.
template <int kVec, class T> __device__ __forceinline__ void load_vec(const T* p, float (&out)[kVec]) {
  const Pack<T, kVec> pack = *reinterpret_cast<const Pack<T, kVec>*>(p);
#pragma unroll
  for (int j = 0; j < kVec; ++j) out[j] = static_cast<float>(pack.v[j]);
}
template <int kVec, class T> __device__ __forceinline__ void store_vec(T* p, const float (&in)[kVec]) {
  Pack<T, kVec> pack;
#pragma unroll
  for (int j = 0; j < kVec; ++j) pack.v[j] = static_cast<T>(in[j]);
  *reinterpret_cast<Pack<T, kVec>*>(p) = pack;
}

/// Whether rows of `inner` elements of size `bytes` at p can be read kVec at a time.
inline bool fits_vec(const void* p, int64_t inner, int64_t bytes, int vec) {
  return inner % vec == 0 && reinterpret_cast<uintptr_t>(p) % static_cast<uintptr_t>(bytes * vec) == 0;
}

}  // namespace flare
