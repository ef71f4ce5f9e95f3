#include "nn/flare.h"

#include "autograd/node.h"
#include "core/beside.h"
#include "nn/attention.h"
#include "nn/dropout.h"
#include "ops/flare_mixer.h"
#include "ops/shaping.h"

namespace flare {
namespace {
constexpr int64_t kMostBytesBeside = 16 << 20;  // of x: the keys of more fill the GPU by themselves
}

FlareAttention::FlareAttention(const ModelConfig& config, Rng& rng)
    : heads_(config.heads),
      latents_(config.latents),
      width_(config.channels / config.heads),
      scale_(attention_scale(config)),
      attention_dropout_(config.attention_dropout),
      dropout_(config.dropout),
      rotary_(rotary_of(config)) {
  check<ConfigError>(latents_ >= 1, "model.latents: ", latents_, " must be at least 1");
  const int64_t channels = config.channels;
  add_parameter("latent_q", latent_q_, normal_tensor({channels, latents_}, 0.1, rng), config.compat.decays_latents());
  if (config.qk_norm) {
    q_norm_ = std::make_unique<Norm>(config.norm, width_);
    k_norm_ = std::make_unique<Norm>(config.norm, width_);
    add_child("q_norm", *q_norm_);
    add_child("k_norm", *k_norm_);
  }
  ResidualMlpOptions mlp;
  mlp.in = mlp.out = channels;
  mlp.hidden = static_cast<int64_t>(static_cast<double>(channels) * config.kv_ratio);
  mlp.layers = config.kv_layers;
  mlp.activation = config.activation;
  k_proj_ = std::make_unique<ResidualMlp>(mlp, rng);
  v_proj_ = std::make_unique<ResidualMlp>(mlp, rng);
  out_proj_ = std::make_unique<Linear>(channels, channels, rng);
  add_child("k_proj", *k_proj_);
  add_child("v_proj", *v_proj_);
  add_child("out_proj", *out_proj_);
}

Tensor FlareAttention::forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) {
  Tensor q = reshape(latent_q_, {heads_, latents_, width_});
  if (q_norm_) q = q_norm_->forward(q);
  const auto keys = [this, mask](const Tensor& of) {
    return apply_rotary(normalise_heads(k_proj_->forward(of, mask), heads_, k_norm_.get()), heads_, rotary_);
  };
  Tensor k, v;
  {
    const BesideScope both_at_once;
    {
      const Beside beside({x}, x.bytes() <= kMostBytesBeside);
      k = keys(x);
    }
    v = v_proj_->forward(x, mask);
  }
  if (ctx.recompute >= Recompute::keys) {
    remake_in_backward(k, [keys, x = source_of(x)] { return keys(x()); });
    remake_in_backward(v, [this, mask, x = source_of(x)] { return v_proj_->forward(x(), mask); });
  }
  if (ctx.on_routing) ctx.on_routing({q, k, mask, scale_});
  const uint64_t site = ctx.site();
  const Tensor y = flare_mixer(q, k, v, mask, scale_, active_dropout(attention_dropout_, ctx), ctx.rng, site);
  return finish_mixer(*out_proj_, y, dropout_, residual, ctx);
}

}  // namespace flare
