#pragma once
#include <memory>
#include <vector>

#include "nn/block.h"
#include "nn/embedding.h"

namespace flare {

/// Sequence classifier of the Long Range Arena benchmarks, parameter names and arithmetic of FLARE.py's wrapper:
///   x = token embedding (cls: a learned token goes in front);  for each block: x = block(x + position);
///   mean, max: head(norm(pool(final_norm x)));  cls: head of the first token, without norms. Two towers are concatenated.
/// tokens: i64 [B,N], N <= max_length; mask: u8 [B,N], 0 at padding, or undefined -> logits [B,K] in the parameters' dtype, K = 1
/// when n_classes is 2 (the sign decides), else n_classes. Padding reaches no result unless compat.no_mask.
/// With vocab 0 the inputs are numbers instead, [B,N,input_width], and a linear layer takes the place of the token embedding.
class LraClassifier : public Module {
 public:
  LraClassifier(const ModelConfig& config, int64_t vocab, int64_t max_length, int64_t n_classes, bool two_towers, uint64_t seed,
                int64_t input_width = 1);
  Tensor forward(const Tensor& tokens, const Tensor& mask, Context& ctx);
  Tensor forward(const Tensor& tokens_a, const Tensor& mask_a, const Tensor& tokens_b, const Tensor& mask_b, Context& ctx);

 private:
  Tensor embed(const Tensor& input, Context& ctx) const;
  Tensor encode(const Tensor& tokens, const Tensor& mask, Context& ctx);
  Tensor classify(const Tensor& features, Context& ctx);

  ModelConfig config_;
  bool two_towers_;
  Tensor cls_token_;                            // [C], pool "cls" only
  std::unique_ptr<TokenEmbedding> token_emb_;   // of tokens
  std::unique_ptr<Linear> input_proj_;          // of numbers
  std::unique_ptr<PositionEmbedding> pos_emb_;  // learned and sinusoidal only
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<Norm> final_norm_, head_norm_;  // mean and max only
  std::unique_ptr<Linear> head_, head_out_;       // head_out_: head "mlp" only
};

}  // namespace flare
