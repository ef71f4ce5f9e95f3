#pragma once
#include "autograd/op.h"

namespace flare {

/// x converted to another floating dtype; the gradient is converted back. Returns x itself when it has that dtype.
Tensor cast(const Tensor& x, DType dtype);

}  // namespace flare
