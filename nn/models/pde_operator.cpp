#include "nn/models/pde_operator.h"

#include "nn/initialise.h"
#include "ops/cast.h"

namespace flare {

PdeOperator::PdeOperator(const ModelConfig& given, int64_t in_channels, int64_t out_channels, uint64_t seed, int64_t n_points)
    : skip_mask_(given.compat.skips_mask()), n_points_(find_mixer(given.mixer).per_position ? n_points : 0) {
  check<ConfigError>(in_channels >= 1 && out_channels >= 1, "operator: ", in_channels, " input and ", out_channels,
                     " output channels");
  check<ConfigError>(given.blocks >= 1, "model.blocks: ", given.blocks, " must be at least 1");
  ModelConfig config = given;
  config.position = "none";  // mesh points have coordinates, not positions
  Rng rng(seed);
  ResidualMlpOptions mlp;
  mlp.layers = config.io_layers;
  mlp.hidden = config.channels;
  mlp.activation = config.activation;
  mlp.in = in_channels;
  mlp.out = config.channels;
  mlp.input_residual = false;
  in_proj_ = std::make_unique<ResidualMlp>(mlp, rng);
  mlp.in = config.channels;
  mlp.out = out_channels;
  mlp.input_residual = true;
  mlp.output_residual = false;
  out_norm_ = std::make_unique<Norm>(config.norm, config.channels);
  out_mlp_ = std::make_unique<ResidualMlp>(mlp, rng);
  add_child("in_proj", *in_proj_);
  add_child("out_proj.0", *out_norm_);
  add_child("out_proj.1", *out_mlp_);
  for (int64_t i = 0; i < config.blocks; ++i) {
    blocks_.push_back(std::make_unique<Block>(config, rng, n_points_));
    add_child(cat("blocks.", i), *blocks_.back());
  }
  initialise(*this, config);
}

Tensor PdeOperator::forward(const Tensor& x, const Tensor& mask, Context& ctx) {
  check(x.defined() && x.ndim() == 3, "operator: x must be [B,N,channels]");
  check(n_points_ == 0 || x.size(1) == n_points_, "operator: x has ", x.size(1), " points; this mixer's weights are for ",
        n_points_);
  check(!mask || (mask.ndim() == 2 && mask.size(0) == x.size(0) && mask.size(1) == x.size(1)), "operator: mask ",
        mask ? mask.shape() : Shape{}, " and x ", x.shape(), " disagree");
  Tensor h;
  {
    const ScopeName scope("in_proj");
    h = in_proj_->forward(cast(x, ctx.dtype));
  }
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const ScopeName scope(cat("blocks.", i));
    h = blocks_[i]->forward(h, skip_mask_ ? Tensor{} : mask, ctx);
  }
  const ScopeName scope("out_proj");
  return cast(out_mlp_->forward(out_norm_->forward(h)), param_dtype(ctx.dtype));
}

}  // namespace flare
