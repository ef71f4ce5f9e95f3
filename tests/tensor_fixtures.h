#pragma once
/// Random tensors for tests.
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

namespace flare {

/// Uniform in [-range, range], numbers that f32 holds exactly.
inline Tensor uniform(const Shape& shape, DType dtype, uint64_t seed, double range = 1) {
  Rng rng(seed);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& x : values) x = static_cast<double>(static_cast<float>(range * (2 * rng.uniform() - 1)));
  return cast_to(Tensor::from(values, shape), dtype);
}
/// Uniform in [-range, range], f32 numbers that bf16 and tf32 hold exactly, so that every precision sees the same inputs.
inline Tensor uniform_bf16(const Shape& shape, uint64_t seed, double range) {
  Rng rng(seed);
  std::vector<float> values(static_cast<size_t>(shape.numel()));
  for (float& x : values) x = static_cast<float>(bf16(range * (2 * rng.uniform() - 1)));
  return Tensor::from(values, shape);
}

}  // namespace flare
