#include "nn/attention.h"

#include "nn/dropout.h"
#include "ops/sdpa.h"
#include "ops/shaping.h"

namespace flare {

Tensor split_heads(const Tensor& x, int64_t heads) {
  return transpose(reshape(x, {x.size(0), x.size(1), heads, x.size(2) / heads}), 1, 2);
}

Tensor merge_heads(const Tensor& x) { return reshape(transpose(x, 1, 2), {x.size(0), x.size(2), x.size(1) * x.size(3)}); }

Tensor normalise_heads(const Tensor& x, int64_t heads, const Norm* norm) {
  if (!norm) return x;
  return reshape(norm->forward(reshape(x, {x.size(0), x.size(1), heads, x.size(2) / heads})), x.shape());
}

QkvMixer::QkvMixer(const ModelConfig& config, Rng& rng)
    : heads_(config.heads),
      width_(config.channels / config.heads),
      scale_(attention_scale(config)),
      attention_dropout_(config.attention_dropout),
      dropout_(config.dropout),
      rotary_(rotary_of(config)),
      qkv_proj_(config.channels, 3 * config.channels, rng, config.qkv_bias),
      out_proj_(config.channels, config.channels, rng) {
  if (config.qk_norm) {
    q_norm_ = std::make_unique<Norm>(config.norm, width_);
    k_norm_ = std::make_unique<Norm>(config.norm, width_);
    add_child("q_norm", *q_norm_);
    add_child("k_norm", *k_norm_);
  }
  add_child("qkv_proj", qkv_proj_);
  add_child("out_proj", out_proj_);
}

QkvMixer::Heads QkvMixer::project(const Tensor& x) const {
  // Heads first, then q, k, v as views of one tensor: no copies before the attention kernel.
  const Tensor qkv = reshape(qkv_proj_.forward(x), {x.size(0), x.size(1), 3 * heads_, width_});
  Heads h{slice(qkv, 2, 0, heads_), slice(qkv, 2, heads_, heads_), slice(qkv, 2, 2 * heads_, heads_)};
  if (q_norm_) {
    h.q = q_norm_->forward(h.q);
    h.k = k_norm_->forward(h.k);
  }
  return h;
}

Tensor QkvMixer::rotate(const Tensor& t) const {
  if (rotary_ == Rotary::none) return t;
  return reshape(apply_rotary(reshape(t, {t.size(0), t.size(1), t.size(2) * t.size(3)}), heads_, rotary_), t.shape());
}

Tensor QkvMixer::finish(const Tensor& y, const Tensor& residual, Context& ctx) const {
  return finish_mixer(out_proj_, merge_heads(y), dropout_, residual, ctx);
}

void QkvMixer::refuse_attention_dropout(const std::string& mixer) const {
  check<ConfigError>(attention_dropout_ == 0, "model.attention_dropout: ", attention_dropout_, ", but the mixer ", mixer,
                     " forms no attention weights to drop; set it to 0");
}

Tensor SoftmaxAttention::forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) {
  const Heads h = project(x);
  const uint64_t site = ctx.site();
  const Tensor y = sdpa(transpose(rotate(h.q), 1, 2), transpose(rotate(h.k), 1, 2), transpose(h.v, 1, 2), mask, scale_,
                        active_dropout(attention_dropout_, ctx), ctx.rng, site)
                       .out;
  return finish(y, residual, ctx);
}

}  // namespace flare
