#pragma once
#include "nn/attention.h"

namespace flare {

/// Linformer, a baseline of cost O(N·M) per head: learned maps over the token axis shorten keys and values to M rows.
///   y = out_proj(softmax(s·q·(E k)ᵀ)·(F v)) per head,   E, F: [M, max_tokens], shared by the heads of a block ("headwise")
/// A sample of N <= max_tokens tokens meets the first N columns of E and F; more tokens are a ShapeError. Masked tokens are zeroed,
/// after position and norms, before E and F: they add nothing, so longer padding changes no result. The softmax runs over all M
/// rows whatever N is. Rotary position rotates q and k, so that logit i, r is Σ_j E[r,j] q_iᵀR_{j-i}k_j.
/// Parameters, beside QkvMixer's: e_proj, f_proj ~ N(0, 1/max_tokens), with weight decay; M = model.latents; s = D^-1/2 unless
/// configured. Source: Wang et al., arXiv 2006.04768, equation 7 and section 4.
class Linformer : public QkvMixer {
 public:
  Linformer(const ModelConfig& config, Rng& rng, int64_t max_tokens);
  Tensor forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) override;

 private:
  int64_t max_tokens_;
  Tensor e_proj_, f_proj_;
};

}  // namespace flare
