#pragma once
#include "core/tensor.h"

namespace flare {

/// y[…,n] = Σ_{i≤n} x[…,i] along the last axis; with `reverse`, Σ_{i≥n}. Sums of bf16 run in f32 and are rounded once.
/// ShapeError for a scalar or a dtype that is not floating.
Tensor cumsum(const Tensor& x, bool reverse = false);

}  // namespace flare
