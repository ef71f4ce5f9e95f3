#pragma once
#include "core/tensor.h"

namespace flare {

// Losses are computed and returned in f32 (f64 for f64 inputs), whatever the dtype of the activations, as a tensor of shape [].
// A label out of range throws DataError on the CPU; on CUDA, where nothing may wait for the device, its row adds no loss and
// gets no gradient (the loader checks the data beforehand).

/// Mean over the batch of -log softmax(logits)[label].  logits: [B,K], labels: i64 [B] in [0, K).
Tensor cross_entropy(const Tensor& logits, const Tensor& labels);
/// Mean of max(x,0) - x·y + log(1 + exp(-|x|)).  logits: [B] or [B,1], labels: i64 [B] of 0 and 1.
Tensor bce_with_logits(const Tensor& logits, const Tensor& labels);
/// Mean of (pred - target)² over all elements; same shapes.
Tensor mse(const Tensor& pred, const Tensor& target);
/// Mean over the samples b of ‖pred_b - target_b‖₂ / ‖target_b‖₂.  pred, target: [B,...] of equal shape; mask: u8 [B,N] (then
/// they are [B,N,...], and masked tokens count in neither norm) or undefined. A sample whose target norm is 0 adds 0; where the
/// two agree exactly the gradient is 0.
Tensor relative_l2(const Tensor& pred, const Tensor& target, const Tensor& mask = {});
/// Number of rows whose largest logit (the first of equals) is at the label; one logit a row predicts 1 when it is positive.
/// logits: [B,K], [B,1] or [B], labels: i64 [B] -> i64 []. Not differentiable. A row of NaN is never correct.
Tensor correct_count(const Tensor& logits, const Tensor& labels);

}  // namespace flare
