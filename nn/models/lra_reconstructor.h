#pragma once
#include <memory>

#include "nn/models/lra_encoder.h"

namespace flare {

/// Restores hidden tokens, so that an encoder learns from sequences without labels; its weights are the classifier's but for the
/// heads. A learned vector, mask_token [C], is the embedding of token `vocab`; at every hidden position
///   logits = token_proj(final_norm x)
/// Source: masked language modelling, Devlin et al., arXiv 1810.04805, section 3.1, without its random and kept tokens; as
/// pretraining on a task's own inputs, Amos et al., arXiv 2310.02980.
class LraReconstructor : public LraEncoder {
 public:
  /// ConfigError as the encoder's, for pool "cls", which has no norm over all tokens, and for a vocabulary below 1.
  LraReconstructor(const ModelConfig& config, int64_t vocab, int64_t max_length, uint64_t seed);
  /// tokens i64 [B,N], hidden ones = vocab; mask as the encoder's; rows i64 [B,K]: b·N + n of the positions asked for
  /// -> logits [B,K,V] in the parameters' dtype.
  Tensor forward(const Tensor& tokens, const Tensor& mask, const Tensor& rows, Context& ctx);

 private:
  Tensor mask_token_;
  std::unique_ptr<Linear> token_proj_;
};

}  // namespace flare
