#pragma once
#include <cstdint>

#include "core/tensor.h"

namespace flare {

/// out: [B,H,Nq,D]. lse = log sum_j exp(scale q.k_j), [B,H,Nq], f32 (f64 for f64); not differentiable.
struct SdpaResult {
  Tensor out, lse;
};
/// Scaled dot-product attention: out = dropout(softmax(scale q k^T + mask)) v.
/// q [B,H,Nq,D], or [1,H,Nq,D] / [H,Nq,D] shared over the batch (its gradient is then summed over it); k, v [B,H,Nk,D]. Any
/// strides with the last axis contiguous are read in place. key_mask u8 [B,Nk], 1 = attend; a row without any key is 0 and its
/// lse 0. With dropout_p > 0 rng is i64 {seed, step} on the same device. Nothing of size Nq x Nk is stored. A q of another
/// float dtype is cast to that of k. ShapeError when the shapes disagree, or for D > 128 on CUDA.
/// On CUDA the matrix units do the work, in f32 on operands split into three bf16 parts; with dropout the plain kernels do. The
/// results repeat bit for bit.
SdpaResult sdpa(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& key_mask, double scale, double dropout_p = 0,
                const Tensor& rng = {}, uint64_t site = 0);

}  // namespace flare
