#pragma once
#include <memory>

#include "nn/mixer.h"
#include "nn/norms.h"
#include "nn/residual_mlp.h"

namespace flare {

/// Pre-norm block:  x += att(norm1 x);  x += mlp(norm2 x).  x: [B,N,C], mask: u8 [B,N] or undefined -> [B,N,C].
/// max_tokens: see make_mixer.
class Block : public Module {
 public:
  Block(const ModelConfig& config, Rng& rng, int64_t max_tokens);
  Tensor forward(const Tensor& x, const Tensor& mask, Context& ctx);

 private:
  Norm norm1_, norm2_;
  std::unique_ptr<Mixer> att_;
  std::unique_ptr<ResidualMlp> residual_mlp_;  // one of the two
  std::unique_ptr<PlainMlp> plain_mlp_;
};

}  // namespace flare
