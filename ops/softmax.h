#pragma once
#include "core/tensor.h"

namespace flare {

/// y = exp(x - max x) / Σ exp(x - max x) along one axis (negative: from the end); x: [any] -> same shape and dtype, statistics
/// in f32 (f64 for f64). A row of -inf alone gives NaN. ShapeError when the axis is outside x.
Tensor softmax(const Tensor& x, int axis = -1);
/// log softmax(x) = x - max x - log Σ exp(x - max x), shapes as above.
Tensor log_softmax(const Tensor& x, int axis = -1);

}  // namespace flare
