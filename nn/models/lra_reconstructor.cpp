#include "nn/models/lra_reconstructor.h"

#include "nn/initialise.h"
#include "ops/cast.h"
#include "ops/shaping.h"

namespace flare {

LraReconstructor::LraReconstructor(const ModelConfig& config, int64_t vocab, int64_t max_length, uint64_t seed)
    : LraEncoder(config, vocab, max_length, 1, seed) {
  check<ConfigError>(config.pool != "cls", "model.pool: cls cannot restore tokens; choose mean or max");
  check<ConfigError>(vocab >= 1, "model: a vocabulary of ", vocab, " tokens; restoring needs at least 1");
  add_parameter("mask_token", mask_token_, normal_tensor({config.channels}, 0.02, rng_), false);
  token_proj_ = std::make_unique<Linear>(config.channels, vocab, rng_);
  add_child("token_proj", *token_proj_);
  initialise(*this, config);
}

Tensor LraReconstructor::forward(const Tensor& tokens, const Tensor& mask, const Tensor& rows, Context& ctx) {
  check(rows.defined() && rows.ndim() == 2 && rows.size(0) == tokens.size(0), "reconstructor: the rows must be [B,K] for tokens ",
        tokens.shape());
  const Tensor x = encode(tokens, mask, ctx, mask_token_);
  const ScopeName scope("token_proj");
  const int64_t batch = rows.size(0), k = rows.size(1), channels = config_.channels;
  const Tensor hidden = gather(reshape(x, {-1, channels}), reshape(rows, {batch * k}), 0);
  return cast(reshape(token_proj_->forward(hidden), {batch, k, -1}), param_dtype(ctx.dtype));
}

}  // namespace flare
