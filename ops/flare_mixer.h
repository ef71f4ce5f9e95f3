#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace flare {

/// The FLARE token mixer: tokens are encoded into M latents per head and decoded back, in O(N M) time and O(N) memory.
///   z = softmax over tokens of (scale q k^T) v,   y = softmax over latents of (scale k q^T) z      per head h: columns h*D ... of
///   k, v, y
/// q [H,M,D] learned (its gradient is summed over the batch) or [B,H,M,D], of the dtype of k or its param dtype; k, v [B,N,H*D],
/// any strides with the last axis contiguous are read in place; mask u8 [B,N], 1 = real token: others get no weight, their rows of
/// y are 0 and so are their gradients. With dropout_p > 0 both weight matrices get inverted dropout; rng is i64 {seed, step} on the
/// same device. Returns y [B,N,H*D]. ShapeError when shapes disagree, or for D > 128 on CUDA. Source: arXiv 2508.12594.
Tensor flare_mixer(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale, double dropout_p = 0,
                   const Tensor& rng = {}, uint64_t site = 0);

}  // namespace flare
