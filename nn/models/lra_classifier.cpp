#include "nn/models/lra_classifier.h"

#include "nn/dropout.h"
#include "ops/cast.h"
#include "ops/pointwise.h"
#include "ops/pool.h"
#include "ops/shaping.h"

namespace flare {

LraClassifier::LraClassifier(const ModelConfig& config, int64_t vocab, int64_t max_length, int64_t n_classes, bool two_towers,
                             uint64_t seed, int64_t input_width)
    : config_(config), two_towers_(two_towers) {
  Rng rng(seed);
  const int64_t channels = config.channels;
  const bool cls = config.pool == "cls";
  check<ConfigError>(cls || config.pool == "mean" || config.pool == "max", "model.pool: \"", config.pool,
                     "\" is not one of mean, max, cls");
  check<ConfigError>(
      config.position == "learned" || config.position == "sinusoidal" || config.position == "rope" || config.position == "none",
      "model.position: \"", config.position, "\" is not one of learned, sinusoidal, rope, none");
  check<ConfigError>(n_classes >= 2, "model: ", n_classes, " classes; a classifier needs at least 2");
  check<ConfigError>(config.blocks >= 1, "model.blocks: ", config.blocks, " must be at least 1");

  if (cls) add_parameter("cls_token", cls_token_, normal_tensor({channels}, 0.02, rng), false);
  if (vocab > 0) {
    token_emb_ = std::make_unique<TokenEmbedding>(vocab, channels, config.embedding_dropout, rng);
    add_child("token_emb", *token_emb_);
  } else {
    input_proj_ = std::make_unique<Linear>(input_width, channels, rng);
    add_child("input_proj", *input_proj_);
  }
  const int64_t max_tokens = max_length + (cls ? 1 : 0);
  if (config.position == "learned" || config.position == "sinusoidal") {
    pos_emb_ = std::make_unique<PositionEmbedding>(config.position, max_tokens, channels, rng);
    add_child("pos_emb", *pos_emb_);
  }
  for (int64_t i = 0; i < config.blocks; ++i) {
    blocks_.push_back(std::make_unique<Block>(config, rng, max_tokens));
    add_child(cat("blocks.", i), *blocks_.back());
  }

  const int64_t features = two_towers ? 2 * channels : channels, n_logits = n_classes == 2 ? 1 : n_classes;
  if (!cls) {
    final_norm_ = std::make_unique<Norm>(config.norm, channels);
    head_norm_ = std::make_unique<Norm>(config.norm, features);
    add_child("final_norm", *final_norm_);
    add_child("cls_proj.1", *head_norm_);
  }
  if (config.head == "mlp") {
    head_ = std::make_unique<Linear>(features, features, rng);
    head_out_ = std::make_unique<Linear>(features, n_logits, rng);
    add_child("cls_proj.2.0", *head_);
    add_child("cls_proj.2.2", *head_out_);
  } else {
    check<ConfigError>(config.head == "linear", "model.head: \"", config.head, "\" is not one of linear, mlp");
    head_ = std::make_unique<Linear>(features, n_logits, rng);
    add_child("cls_proj.2", *head_);
  }
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

Tensor LraClassifier::embed(const Tensor& input, Context& ctx) const {
  if (token_emb_) {
    const ScopeName scope("token_emb");
    return token_emb_->forward(input, ctx);
  }
  const ScopeName scope("input_proj");
  return apply_dropout(input_proj_->forward(cast(input, ctx.dtype)), config_.embedding_dropout, ctx);
}

Tensor LraClassifier::encode(const Tensor& input, const Tensor& given_mask, Context& ctx) {
  check(input.defined() && input.ndim() == (token_emb_ ? 2 : 3), "classifier: the input must be ",
        token_emb_ ? "tokens [B,N]" : "numbers [B,N,W]");
  check(!given_mask || given_mask.shape() == Shape({input.size(0), input.size(1)}), "classifier: mask ",
        given_mask ? given_mask.shape() : Shape{}, " and input ", input.shape(), " disagree");
  Tensor mask = config_.compat.skips_mask() ? Tensor{} : given_mask;
  Tensor x = embed(input, ctx);
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
  const ScopeName scope("pool");
  if (cls_token_) return reshape(slice(x, 1, 0, 1), {batch, channels});
  x = final_norm_->forward(x);
  return config_.pool == "mean" ? masked_mean(x, mask) : masked_max(x, mask);
}

Tensor LraClassifier::classify(const Tensor& features, Context& ctx) {
  const ScopeName scope("cls_proj");
  Tensor h = apply_dropout(features, config_.head_dropout, ctx);
  if (head_norm_) h = head_norm_->forward(h);
  h = head_->forward(h);
  if (head_out_) h = head_out_->forward(gelu_erf(h));
  return cast(h, param_dtype(ctx.dtype));
}

Tensor LraClassifier::forward(const Tensor& tokens, const Tensor& mask, Context& ctx) {
  check(!two_towers_, "classifier: this model compares two sequences; pass both");
  return classify(encode(tokens, mask, ctx), ctx);
}

Tensor LraClassifier::forward(const Tensor& tokens_a, const Tensor& mask_a, const Tensor& tokens_b, const Tensor& mask_b,
                              Context& ctx) {
  check(two_towers_, "classifier: this model takes one sequence, not two");
  const Tensor a = encode(tokens_a, mask_a, ctx), b = encode(tokens_b, mask_b, ctx);
  return classify(concat({a, b}, 1), ctx);
}

}  // namespace flare
