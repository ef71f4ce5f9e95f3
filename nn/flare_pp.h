#pragma once
#include "nn/linear.h"
#include "nn/mixer.h"
#include "nn/norms.h"

namespace flare {

/// FLARE++ token mixer: FLARE whose queries are themselves an encode of the input, O(N·M) per head.
///   [a, b, k, v] = in_projection x           one linear map C -> 4C
///   Q = softmax(s·seeds·aᵀ)·b                [B,H,M,D]  queries for this input
///   y = out_linear(softmax(s·k·Qᵀ)·(softmax(s·Q·kᵀ)·v))      x: [B,N,C] -> [B,N,C],  s = D^-1/2 unless configured
/// `q_seed` [1,H,M,D] ~ N(0,1). Rotary position acts on a and k; qk_norm normalises Q (q_norm) and k (k_norm) per head.
/// Source: arXiv 2608.11519.
class FlarePlusPlus : public Mixer {
 public:
  FlarePlusPlus(const ModelConfig& config, Rng& rng);
  Tensor forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) override;

 private:
  int64_t channels_, heads_, latents_, width_;
  double scale_, attention_dropout_, dropout_;
  Rotary rotary_;
  Tensor q_seed_;
  std::unique_ptr<Norm> q_norm_, k_norm_;
  std::unique_ptr<Linear> in_projection_, out_linear_;
};

}  // namespace flare
