#pragma once
#include <cstdint>
#include <functional>

#include "core/tensor.h"

namespace flare {

/// What a model computes again in backward in place of keeping it, each level with those before it. Bits do not change.
///   norms   the normalised inputs of mixers and MLPs, from the residual stream: two tensors [B,N,C] a block
///   keys    keys and values of flare's mixer, by their MLPs: two more
enum class Recompute { none, norms, keys };

/// What a FLARE or FLARE++ mixer routes by in one pass: the softmaxes of its logits scale·q·kᵀ.
struct Routing {
  Tensor q;     // [H,M,D], or [B,H,M,D] where the queries depend on the sample
  Tensor k;     // [B,N,H·D]
  Tensor mask;  // u8 [B,N] (0: padding) or undefined
  double scale = 1;
};

/// What one forward pass needs besides weights and inputs.
struct Context {
  bool training = false;     // dropout acts only when true
  DType dtype = DType::f32;  // of the activations: f32, bf16 (weights stay f32), or f64 on the CPU
  Tensor rng;                // i64 [2] = {seed, step} on the device; needed while training with dropout
  Recompute recompute = Recompute::none;
  std::function<void(const Routing&)> on_routing;  // when set, sees every such mixer in turn; ScopeName::current() says which
  uint64_t next_site = 0;                          // numbers the random calls of one pass; set to 0 before each forward
  uint64_t site() { return next_site++; }
};

}  // namespace flare
