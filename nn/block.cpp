#include "nn/block.h"

#include "autograd/node.h"
#include "ops/pointwise.h"

namespace flare {

Block::Block(const ModelConfig& config, Rng& rng, int64_t max_tokens)
    : norm1_(config.norm, config.channels), norm2_(config.norm, config.channels), att_(make_mixer(config, rng, max_tokens)) {
  add_child("norm1", norm1_);
  add_child("norm2", norm2_);
  add_child("att", *att_);
  const int64_t hidden = static_cast<int64_t>(static_cast<double>(config.channels) * config.ffn_ratio);
  if (config.ffn == "residual") {
    ResidualMlpOptions mlp;
    mlp.in = mlp.out = config.channels;
    mlp.hidden = hidden;
    mlp.layers = config.ffn_layers;
    mlp.activation = config.activation;
    residual_mlp_ = std::make_unique<ResidualMlp>(mlp, rng);
    add_child("mlp", *residual_mlp_);
  } else {
    check<ConfigError>(config.ffn == "plain", "model.ffn: \"", config.ffn, "\" is not one of residual, plain");
    plain_mlp_ = std::make_unique<PlainMlp>(config.channels, hidden, config.channels, config.activation, config.dropout, rng);
    add_child("mlp", *plain_mlp_);
  }
}

namespace {
Tensor normalise(const Norm& norm, const Tensor& x, const Context& ctx) {
  const Tensor normed = norm.forward(x);
  if (ctx.recompute >= Recompute::norms) remake_in_backward(normed, [&norm, x = source_of(x)] { return norm.forward(x()); });
  return normed;
}
}  // namespace

Tensor Block::forward(const Tensor& x, const Tensor& mask, Context& ctx) {
  Tensor h;
  {
    const ScopeName scope("att");
    h = att_->forward(normalise(norm1_, x, ctx), mask, x, ctx);
  }
  const ScopeName scope("mlp");
  const Tensor normed = normalise(norm2_, h, ctx);
  return residual_mlp_ ? residual_mlp_->forward(normed, mask, h) : h + plain_mlp_->forward(normed, ctx);
}

}  // namespace flare
