#pragma once
#include "core/tensor.h"

namespace flare {

/// y = op(a)·op(b), op(x) = xᵀ over the last two axes when its flag is set. [...,m,k] x [...,k,n] -> [...,m,n]; the leading axes
/// broadcast (NumPy rule). f64 (CPU), f32, bf16 with f32 sums. Strided operands are read in place where BLAS can.
/// ShapeError when k or the leading axes disagree, or the dtypes differ.
Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false);
/// The same with the unrounded f32 sums of bf16 operands as the result: y has param_dtype(a.dtype()). For weight gradients.
Tensor matmul_unrounded(const Tensor& a, const Tensor& b, bool transpose_a = false, bool transpose_b = false);

}  // namespace flare
