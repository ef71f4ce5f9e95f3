#pragma once
#include "core/tensor.h"

namespace flare {

/// Layer norm over the last axis: y = (x - μ) / √(σ² + eps) ⊙ weight + bias, σ² the biased variance.  x: [...,C], weight, bias:
/// [C] of param_dtype(x) -> [...,C] of x's dtype. Statistics in f32 (f64 for f64); keeps μ and 1/σ, 8 bytes a row.
/// Source: Ba et al., arXiv 1607.06450.
Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps = 1e-5);
/// RMS norm over the last axis: y = x / √(mean x² + eps) ⊙ weight; shapes and dtypes as above.  Source: arXiv 1910.07467.
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps = 1e-6);

}  // namespace flare
