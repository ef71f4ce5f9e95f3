#pragma once
#include "core/tensor.h"

namespace flare {

/// y = x·Wᵀ + b + r over the last axis. x [...,in], weight [out,in], bias [out] or undefined, residual r [...,out] of x's dtype or
/// undefined -> [...,out] in x's dtype. Weight and bias have param_dtype(x.dtype()), and so have their gradients: f32 beside bf16
/// activations, summed in f32. The product is rounded to x's dtype, the sums are taken together in f32. On CUDA, in f32, a square
/// weight of a width that residual_mlp has, with a bias, is one layer of that op: one launch.
/// ShapeError when the extents or dtypes disagree.
Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias = {}, const Tensor& residual = {});
/// Sum over all axes but the last: x [...,C] -> [C] in param_dtype(x.dtype()). Deterministic: fixed row blocks, added in order.
Tensor column_sum(const Tensor& x);

}  // namespace flare
