#pragma once
#include "nn/attention.h"

namespace flare {

/// Performer (FAVOR+), a baseline of cost O(N·M·D) per head: an unbiased estimate of the softmax kernel by positive orthogonal
/// random features, exp(s·qᵀk) = E[exp(ωᵀq' - |q'|²/2)·exp(ωᵀk' - |k'|²/2)], q' = √s·q, k' = √s·k, ω ~ N(0,I).
///   y_i = out_proj( Σ_j φ(q_i)ᵀφ(k_j) v_j / Σ_j φ(q_i)ᵀφ(k_j) ),   j over unmasked tokens, s = D^-1/2 unless configured
/// `random_features` [M,D], M = model.latents, one draw for each block, shared by its heads: see orthogonal_features. It is a
/// buffer: drawn from the model's seed when the model is made, kept in checkpoints, never trained and never drawn again (the
/// paper's redrawing is left out, so that a model is a function of its file).
/// Stabilisers: factors that depend on i alone, or on the feature alone when ψ takes them and φ gives them back, leave y as it is.
///   ψ_f(k_j) = exp(ω_fᵀk'_j - |k'_j|²/2 - c_f),  c_f = max over j of the rest;   φ(q_i) = softmax over f of (ω_fᵀq'_i + c_f)
/// The paper has one constant c for all f and adds a small ε to each feature; with one for each f no exponent exceeds 0 and no
/// denominator falls below 1, so nothing is added. Exponents are f32 for bf16, as are all sums over tokens. Rotary position rotates
/// q and k before the features. attention_dropout is a ConfigError. Source: Choromanski et al., arXiv 2009.14794, lemma 1,
/// section 2.4.
class Performer : public QkvMixer {
 public:
  Performer(const ModelConfig& config, Rng& rng);
  Tensor forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) override;

 private:
  Tensor random_features_;
};

/// M rows that are each N(0, I_D), those of one block of D orthogonal: directions by Gram-Schmidt on normal vectors, lengths of
/// normal vectors drawn for themselves. f32 [M,D] on the CPU, computed in f64.
Tensor orthogonal_features(int64_t n_features, int64_t width, Rng& rng);

}  // namespace flare
