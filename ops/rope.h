#pragma once
#include "core/tensor.h"

namespace flare {

/// Rotary position embedding: in each head the pair (x[2i], x[2i+1]) of token n turns by the angle n·base^(-2i/D). It keeps
/// norms, and products of rotated vectors depend on the distance of their tokens only. x [B,N,C], C = heads·D, D even -> [B,N,C].
/// ShapeError when heads does not divide C or D is odd. Source: Su et al., RoFormer, arXiv 2104.09864, eq. 34.
Tensor rope(const Tensor& x, int64_t heads, double base = 10000.0);

}  // namespace flare
