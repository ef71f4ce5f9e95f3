#include "nn/flare_pp.h"

#include "nn/attention.h"
#include "nn/dropout.h"
#include "ops/cast.h"
#include "ops/flare_mixer.h"
#include "ops/sdpa.h"
#include "ops/shaping.h"

namespace flare {

FlarePlusPlus::FlarePlusPlus(const ModelConfig& config, Rng& rng)
    : channels_(config.channels),
      heads_(config.heads),
      latents_(config.latents),
      width_(config.channels / config.heads),
      scale_(attention_scale(config)),
      attention_dropout_(config.attention_dropout),
      dropout_(config.dropout),
      rotary_(rotary_of(config)) {
  check<ConfigError>(latents_ >= 1, "model.latents: ", latents_, " must be at least 1");
  add_parameter("q_seed", q_seed_, normal_tensor({1, heads_, latents_, width_}, 1.0, rng), config.compat.decays_latents());
  if (config.qk_norm) {
    q_norm_ = std::make_unique<Norm>(config.norm, width_);
    k_norm_ = std::make_unique<Norm>(config.norm, width_);
    add_child("q_norm", *q_norm_);
    add_child("k_norm", *k_norm_);
  }
  in_projection_ = std::make_unique<Linear>(channels_, 4 * channels_, rng);
  out_linear_ = std::make_unique<Linear>(channels_, channels_, rng);
  add_child("in_projection", *in_projection_);
  add_child("out_linear", *out_linear_);
}

Tensor FlarePlusPlus::forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) {
  const Tensor all = in_projection_->forward(x);
  const auto part = [&](int64_t i) { return slice(all, 2, i * channels_, channels_); };
  const Tensor a = split_heads(apply_rotary(part(0), heads_, rotary_), heads_), b = split_heads(part(1), heads_);
  const Tensor k = apply_rotary(normalise_heads(part(2), heads_, k_norm_.get()), heads_, rotary_), v = part(3);
  const double p = active_dropout(attention_dropout_, ctx);
  const Tensor seeds = cast(reshape(q_seed_, {heads_, latents_, width_}), x.dtype());
  const uint64_t query_site = ctx.site(), mixer_site = ctx.site();
  Tensor q = sdpa(seeds, a, b, mask, scale_, p, ctx.rng, query_site).out;
  if (q_norm_) q = q_norm_->forward(q);
  if (ctx.on_routing) ctx.on_routing({q, k, mask, scale_});
  const Tensor y = flare_mixer(q, k, v, mask, scale_, p, ctx.rng, mixer_site);
  return finish_mixer(*out_linear_, y, dropout_, residual, ctx);
}

}  // namespace flare
