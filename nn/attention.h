#pragma once
#include "nn/linear.h"
#include "nn/mixer.h"
#include "nn/norms.h"

namespace flare {

/// Multi-head softmax attention, the O(N²) baseline:  y = out_proj(softmax(s·q·kᵀ)·v) per head, s = D^-1/2 unless configured.
/// Parameters: qkv_proj [3C,C] (rows q, then k, then v), out_proj [C,C], with qk_norm also q_norm, k_norm of width D.
/// Source: Vaswani et al., arXiv 1706.03762, section 3.2.
class SoftmaxAttention : public Mixer {
 public:
  SoftmaxAttention(const ModelConfig& config, Rng& rng);
  Tensor forward(const Tensor& x, const Tensor& mask, Context& ctx) override;

 private:
  int64_t channels_, heads_;
  double scale_, attention_dropout_, dropout_;
  Rotary rotary_;
  std::unique_ptr<Norm> q_norm_, k_norm_;
  Linear qkv_proj_, out_proj_;
};

/// [B,N,C] as heads: [B,H,N,D], a view of a contiguous x.
Tensor split_heads(const Tensor& x, int64_t heads);
/// The inverse: [B,H,N,D] -> [B,N,C].
Tensor merge_heads(const Tensor& x);
/// Normalises each head of x: [B,N,C]; x itself when norm is null.
Tensor normalise_heads(const Tensor& x, int64_t heads, const Norm* norm);

}  // namespace flare
