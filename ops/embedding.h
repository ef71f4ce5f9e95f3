#pragma once
#include "core/tensor.h"

namespace flare {

/// y[...,c] = weight[tokens[...], c].  tokens: i64 [...], weight: [V,C] -> [...,C] of out_dtype; the gradient of weight is summed
/// in f32 (f64 for f64) in a fixed order and has weight's dtype. A token outside [0, V) throws DataError on the CPU; on CUDA,
/// where nothing may wait for the device, it gives a row of zeros and no gradient (the loader checks the data beforehand).
Tensor embedding(const Tensor& tokens, const Tensor& weight, DType out_dtype);

}  // namespace flare
