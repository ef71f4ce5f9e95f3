#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace flare {

/// What one forward pass needs besides weights and inputs.
struct Context {
  bool training = false;     // dropout acts only when true
  DType dtype = DType::f32;  // of the activations: f32, bf16 (weights stay f32), or f64 on the CPU
  Tensor rng;                // i64 [2] = {seed, step} on the device; needed while training with dropout
  uint64_t next_site = 0;    // numbers the random calls of one pass; set to 0 before each forward
  uint64_t site() { return next_site++; }
};

}  // namespace flare
