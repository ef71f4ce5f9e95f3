#pragma once
#include "core/tensor.h"

namespace flare {

/// Sum over one axis (negative: from the end): y = Σ_r x[…,r,…]; keepdim leaves it with extent 1. Sums of bf16 run in f32 and
/// are rounded once. Deterministic on every device. ShapeError when the axis is outside x.
Tensor sum(const Tensor& x, int axis, bool keepdim = false);
/// Mean over one axis; ShapeError when its extent is 0.
Tensor mean(const Tensor& x, int axis, bool keepdim = false);
/// Maximum over one axis; NaN wins. The gradient goes to the first maximal element. ShapeError when the extent is 0.
Tensor max(const Tensor& x, int axis, bool keepdim = false);
/// Sum and mean of all elements -> [].
Tensor sum_all(const Tensor& x);
Tensor mean_all(const Tensor& x);
/// The adjoint of broadcasting: sums x down to `shape`, which must broadcast to x's shape. x itself when they are equal.
Tensor sum_to(const Tensor& x, const Shape& shape);

}  // namespace flare
