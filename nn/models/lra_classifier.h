#pragma once
#include <memory>

#include "nn/models/lra_encoder.h"

namespace flare {

/// Sequence classifier of the Long Range Arena benchmarks, parameter names and arithmetic of FLARE.py's wrapper:
///   x = token embedding (cls: a learned token goes in front);  for each block: x = block(x + position);
///   mean, max: head(norm(pool(final_norm x)));  cls: head of the first token, without norms. Two towers are concatenated.
/// tokens: i64 [B,N], N <= max_length; mask: u8 [B,N], 0 at padding, or undefined -> logits [B,K] in the parameters' dtype, K = 1
/// when n_classes is 2 (the sign decides), else n_classes. Padding reaches no result unless compat.no_mask.
/// With vocab 0 the inputs are numbers instead, [B,N,input_width], and a linear layer takes the place of the token embedding.
class LraClassifier : public LraEncoder {
 public:
  LraClassifier(const ModelConfig& config, int64_t vocab, int64_t max_length, int64_t n_classes, bool two_towers, uint64_t seed,
                int64_t input_width = 1);
  Tensor forward(const Tensor& tokens, const Tensor& mask, Context& ctx);
  Tensor forward(const Tensor& tokens_a, const Tensor& mask_a, const Tensor& tokens_b, const Tensor& mask_b, Context& ctx);

 private:
  Tensor pooled(const Tensor& input, const Tensor& mask, Context& ctx);
  Tensor classify(const Tensor& features, Context& ctx);

  bool two_towers_;
  std::unique_ptr<Norm> head_norm_;          // mean and max only
  std::unique_ptr<Linear> head_, head_out_;  // head_out_: head "mlp" only
};

}  // namespace flare
