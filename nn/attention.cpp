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

SoftmaxAttention::SoftmaxAttention(const ModelConfig& config, Rng& rng)
    : channels_(config.channels),
      heads_(config.heads),
      scale_(attention_scale(config)),
      attention_dropout_(config.attention_dropout),
      dropout_(config.dropout),
      rotary_(rotary_of(config)),
      qkv_proj_(channels_, 3 * channels_, rng, config.qkv_bias),
      out_proj_(channels_, channels_, rng) {
  if (config.qk_norm) {
    q_norm_ = std::make_unique<Norm>(config.norm, channels_ / heads_);
    k_norm_ = std::make_unique<Norm>(config.norm, channels_ / heads_);
    add_child("q_norm", *q_norm_);
    add_child("k_norm", *k_norm_);
  }
  add_child("qkv_proj", qkv_proj_);
  add_child("out_proj", out_proj_);
}

Tensor SoftmaxAttention::forward(const Tensor& x, const Tensor& mask, Context& ctx) {
  const int64_t width = channels_ / heads_;
  // Heads first, then q, k, v as views of one tensor: no copies before the attention kernel.
  const Tensor qkv = reshape(qkv_proj_.forward(x), {x.size(0), x.size(1), 3 * heads_, width});
  Tensor q = slice(qkv, 2, 0, heads_), k = slice(qkv, 2, heads_, heads_);
  const Tensor v = slice(qkv, 2, 2 * heads_, heads_);
  if (q_norm_) {
    q = q_norm_->forward(q);
    k = k_norm_->forward(k);
  }
  if (rotary_ != Rotary::none) {
    const auto rotate = [&](const Tensor& t) { return reshape(apply_rotary(reshape(t, x.shape()), heads_, rotary_), t.shape()); };
    q = rotate(q);
    k = rotate(k);
  }
  const uint64_t site = ctx.site();
  const Tensor y = sdpa(transpose(q, 1, 2), transpose(k, 1, 2), transpose(v, 1, 2), mask, scale_,
                        active_dropout(attention_dropout_, ctx), ctx.rng, site)
                       .out;
  return apply_dropout(out_proj_.forward(merge_heads(y)), dropout_, ctx);
}

}  // namespace flare
