#include "nn/models/lra_encoder.h"

#include "nn/dropout.h"
#include "ops/cast.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"

namespace flare {

LraEncoder::LraEncoder(const ModelConfig& config, int64_t vocab, int64_t max_length, int64_t input_width, uint64_t seed)
    : config_(config), rng_(seed) {
  const int64_t channels = config.channels;
  const bool cls = config.pool == "cls";
  check<ConfigError>(cls || config.pool == "mean" || config.pool == "max", "model.pool: \"", config.pool,
                     "\" is not one of mean, max, cls");
  const bool added = config.position == "learned" || config.position == "sinusoidal" || config.position == "grid";
  check<ConfigError>(added || config.position == "rope" || config.position == "none", "model.position: \"", config.position,
                     "\" is not one of learned, sinusoidal, grid, rope, none");
  check<ConfigError>(config.blocks >= 1, "model.blocks: ", config.blocks, " must be at least 1");

  if (cls) add_parameter("cls_token", cls_token_, normal_tensor({channels}, 0.02, rng_), false);
  if (vocab > 0) {
    token_emb_ = std::make_unique<TokenEmbedding>(vocab, channels, config.embedding_dropout, rng_);
    add_child("token_emb", *token_emb_);
  } else {
    input_proj_ = std::make_unique<Linear>(input_width, channels, rng_);
    add_child("input_proj", *input_proj_);
  }
  const int64_t max_tokens = max_length + (cls ? 1 : 0);
  if (added) {
    pos_emb_ = std::make_unique<PositionEmbedding>(config.position, max_tokens, channels, rng_);
    add_child("pos_emb", *pos_emb_);
  }
  for (int64_t i = 0; i < config.blocks; ++i) {
    blocks_.push_back(std::make_unique<Block>(config, rng_, max_tokens));
    add_child(cat("blocks.", i), *blocks_.back());
  }
  if (cls) return;
  final_norm_ = std::make_unique<Norm>(config.norm, channels);
  add_child("final_norm", *final_norm_);
}

namespace {
/// The mask of a sequence with one more, valid, token in front.
Tensor with_class_token(const Tensor& mask) {
  const int64_t b = mask.size(0), n = mask.size(1);
  const Tensor wider = Tensor::empty({b, n + 1}, DType::u8, mask.device());
  fill(wider.view({b, 1}, {n + 1, 1}), 1);
  copy(mask, wider.view({b, n}, {n + 1, 1}, 1));
  return wider;
}
}  // namespace

Tensor LraEncoder::embed(const Tensor& input, Context& ctx, const Tensor& mask_token) const {
  if (token_emb_) {
    const ScopeName scope("token_emb");
    return token_emb_->forward(input, ctx, mask_token);
  }
  const ScopeName scope("input_proj");
  return apply_dropout(input_proj_->forward(cast(input, ctx.dtype)), config_.embedding_dropout, ctx);
}

Tensor LraEncoder::encode(const Tensor& input, const Tensor& given_mask, Context& ctx, const Tensor& mask_token) {
  check(input.defined() && input.ndim() == (token_emb_ ? 2 : 3), "classifier: the input must be ",
        token_emb_ ? "tokens [B,N]" : "numbers [B,N,W]");
  check(!given_mask || given_mask.shape() == Shape({input.size(0), input.size(1)}), "classifier: mask ",
        given_mask ? given_mask.shape() : Shape{}, " and input ", input.shape(), " disagree");
  Tensor mask = counted(given_mask);
  Tensor x = embed(input, ctx, mask_token);
  const int64_t batch = input.size(0), channels = config_.channels;
  if (cls_token_) {
    x = concat({expand(reshape(cast(cls_token_, ctx.dtype), {1, 1, channels}), {batch, 1, channels}), x}, 1);
    if (mask) mask = with_class_token(mask);
  }
  const Tensor position = pos_emb_ ? pos_emb_->forward(x.size(1), ctx) : Tensor{};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const ScopeName scope(cat("blocks.", i));
    x = blocks_[i]->forward(position ? x + position : x, mask, ctx);
  }
  if (!final_norm_) return x;
  const ScopeName scope("final_norm");
  return final_norm_->forward(x);
}

}  // namespace flare
