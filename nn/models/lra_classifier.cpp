#include "nn/models/lra_classifier.h"

#include "nn/dropout.h"
#include "nn/initialise.h"
#include "ops/cast.h"
#include "ops/pointwise.h"
#include "ops/pool.h"
#include "ops/shaping.h"

namespace flare {

LraClassifier::LraClassifier(const ModelConfig& config, int64_t vocab, int64_t max_length, int64_t n_classes, bool two_towers,
                             uint64_t seed, int64_t input_width)
    : LraEncoder(config, vocab, max_length, input_width, seed), two_towers_(two_towers) {
  check<ConfigError>(n_classes >= 2, "model: ", n_classes, " classes; a classifier needs at least 2");
  const int64_t features = two_towers ? 2 * config.channels : config.channels, n_logits = n_classes == 2 ? 1 : n_classes;
  if (config.pool != "cls") {
    head_norm_ = std::make_unique<Norm>(config.norm, features);
    add_child("cls_proj.1", *head_norm_);
  }
  if (config.head == "mlp") {
    head_ = std::make_unique<Linear>(features, features, rng_);
    head_out_ = std::make_unique<Linear>(features, n_logits, rng_);
    add_child("cls_proj.2.0", *head_);
    add_child("cls_proj.2.2", *head_out_);
  } else {
    check<ConfigError>(config.head == "linear", "model.head: \"", config.head, "\" is not one of linear, mlp");
    head_ = std::make_unique<Linear>(features, n_logits, rng_);
    add_child("cls_proj.2", *head_);
  }
  initialise(*this, config);
}

Tensor LraClassifier::pooled(const Tensor& input, const Tensor& mask, Context& ctx) {
  const Tensor x = encode(input, mask, ctx);
  const ScopeName scope("pool");
  if (config_.pool == "cls") return reshape(slice(x, 1, 0, 1), {x.size(0), x.size(2)});
  return config_.pool == "mean" ? masked_mean(x, counted(mask)) : masked_max(x, counted(mask));
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
  return classify(pooled(tokens, mask, ctx), ctx);
}

Tensor LraClassifier::forward(const Tensor& tokens_a, const Tensor& mask_a, const Tensor& tokens_b, const Tensor& mask_b,
                              Context& ctx) {
  check(two_towers_, "classifier: this model takes one sequence, not two");
  const Tensor a = pooled(tokens_a, mask_a, ctx), b = pooled(tokens_b, mask_b, ctx);
  return classify(concat({a, b}, 1), ctx);
}

}  // namespace flare
