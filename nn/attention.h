#pragma once
#include "nn/linear.h"
#include "nn/mixer.h"
#include "nn/norms.h"

namespace flare {

/// What the mixers have in common in which every token has a query, a key and a value of its own: y = out_proj(attend(q, k, v)).
/// Parameters: qkv_proj [3C,C] (rows q, then k, then v), out_proj [C,C], with qk_norm also q_norm, k_norm of width D.
class QkvMixer : public Mixer {
 protected:
  QkvMixer(const ModelConfig& config, Rng& rng);
  struct Heads {
    Tensor q, k, v;  // [B,N,H,D]
  };
  /// x: [B,N,C] -> its queries and keys, normalised where qk_norm says so, and values; position is not yet in them.
  Heads project(const Tensor& x) const;
  /// The rotary position of t: [B,N,H,any even width]; t itself where the model has none.
  Tensor rotate(const Tensor& t) const;
  /// [B,H,N,D] -> [B,N,C], projected, with dropout.
  Tensor finish(const Tensor& y, const Tensor& residual, Context& ctx) const;
  /// ConfigError with attention_dropout, for mixers that form no weights it could act on.
  void refuse_attention_dropout(const std::string& mixer) const;

  int64_t heads_, width_;
  double scale_, attention_dropout_;

 private:
  double dropout_;
  Rotary rotary_;
  std::unique_ptr<Norm> q_norm_, k_norm_;
  Linear qkv_proj_, out_proj_;
};

/// Multi-head softmax attention, the O(N²) baseline:  y = out_proj(softmax(s·q·kᵀ)·v) per head, s = D^-1/2 unless configured.
/// Source: Vaswani et al., arXiv 1706.03762, section 3.2.
class SoftmaxAttention : public QkvMixer {
 public:
  SoftmaxAttention(const ModelConfig& config, Rng& rng) : QkvMixer(config, rng) {}
  Tensor forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) override;
};

/// [B,N,C] as heads: [B,H,N,D], a view of a contiguous x.
Tensor split_heads(const Tensor& x, int64_t heads);
/// The inverse: [B,H,N,D] -> [B,N,C].
Tensor merge_heads(const Tensor& x);
/// Normalises each head of x: [B,N,C]; x itself when norm is null.
Tensor normalise_heads(const Tensor& x, int64_t heads, const Norm* norm);

}  // namespace flare
