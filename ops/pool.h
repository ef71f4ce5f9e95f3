#pragma once
#include "core/tensor.h"

namespace flare {

/// Mean over the tokens whose mask is not 0: y[b,c] = Σ_n mask[b,n]·x[b,n,c] / Σ_n mask[b,n].  x: [B,N,C], mask: u8 [B,N] or
/// undefined (all tokens) -> [B,C]. A sample without any token gives 0 and passes no gradient. Sums run in f32.
Tensor masked_mean(const Tensor& x, const Tensor& mask = {});
/// Maximum over the tokens whose mask is not 0, shapes as above; NaN wins. The gradient goes to the first maximal token. A
/// sample without any token gives 0 and passes no gradient.
Tensor masked_max(const Tensor& x, const Tensor& mask = {});

}  // namespace flare
