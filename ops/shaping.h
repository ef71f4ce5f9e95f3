#pragma once
#include <vector>

#include "core/tensor.h"

namespace flare {

/// Another shape of equal numel; one extent may be -1. Shares storage, except that a non-contiguous x is packed first.
Tensor reshape(const Tensor& x, const Shape& shape);
/// Axes a and b exchanged. A view.
Tensor transpose(const Tensor& x, int a, int b);
/// Elements start … start+length-1 of an axis. A view.
Tensor slice(const Tensor& x, int axis, int64_t start, int64_t length);
/// x stretched to `shape` by the NumPy rule. A view with stride 0 along stretched axes: do not write to it.
Tensor expand(const Tensor& x, const Shape& shape);
/// The tensors joined along an axis; all other extents and the dtypes agree.
Tensor concat(const std::vector<Tensor>& xs, int axis);
/// Zeros placed before and after x along an axis: the adjoint of slice.
Tensor pad_zero(const Tensor& x, int axis, int64_t before, int64_t after);
/// y[…,k,…] = x[…,index[k],…] along an axis; index i64 [K] -> extent K there. Any dtype; the gradient adds repeated rows in the
/// order of k, so it is deterministic. ShapeError for an index outside x; on CUDA, where the host does not look at the
/// values, such rows are NaN (0 for integers).
Tensor gather(const Tensor& x, const Tensor& index, int axis);

}  // namespace flare
