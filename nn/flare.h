#pragma once
#include "nn/linear.h"
#include "nn/mixer.h"
#include "nn/norms.h"
#include "nn/residual_mlp.h"

namespace flare {

/// FLARE token mixer: routes N tokens through M learned latents and back, O(N·M) per head.
///   k = k_proj x,  v = v_proj x            residual MLPs
///   z = softmax(s·q·kᵀ)·v                  encode   q: [H,M,D], z: [B,H,M,D]
///   y = out_proj(softmax(s·k·qᵀ)·z)        decode   x: [B,N,C], C = H·D -> [B,N,C]
/// `latent_q` is stored [C,M] and read as [H,M,D] without moving data, ~ N(0, 0.1²). Rotary position acts on k alone; qk_norm
/// normalises q and k per head. Source: arXiv 2508.12594, section 3. Checked against explicit weight matrices by the golden files.
class FlareAttention : public Mixer {
 public:
  FlareAttention(const ModelConfig& config, Rng& rng);
  Tensor forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) override;

 private:
  int64_t heads_, latents_, width_;
  double scale_, attention_dropout_, dropout_;
  Rotary rotary_;
  Tensor latent_q_;
  std::unique_ptr<Norm> q_norm_, k_norm_;
  std::unique_ptr<ResidualMlp> k_proj_, v_proj_;
  std::unique_ptr<Linear> out_proj_;
};

}  // namespace flare
