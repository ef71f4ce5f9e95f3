#pragma once
#include "nn/attention.h"

namespace flare {

/// Linear attention, a baseline of cost O(N·D²) per head: the softmax kernel is replaced by a product of positive features.
///   y_i = out_proj( Σ_j φ(q_i)ᵀφ(k_j) v_j / (Σ_j φ(q_i)ᵀφ(k_j) + ε) ),   φ(x) = elu(x) + 1, ε = 1e-15, j over unmasked tokens
/// Every token sees every other. With rotary position the features of the numerator are rotated, R_iφ(q_i) and R_jφ(k_j), those of
/// the denominator are not (arXiv 2104.09864, equation 19). A sample without any token gives y = 0 before out_proj. model.scale has
/// no meaning here; attention_dropout is a ConfigError. Source: Katharopoulos et al., arXiv 2006.16236, equations 5 and 7.
class LinearAttention : public QkvMixer {
 public:
  LinearAttention(const ModelConfig& config, Rng& rng);
  Tensor forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) override;
};

/// Attention by features, without a matrix N x N:  y_i = φ_iᵀ(Σ_j ψ_j v_jᵀ) / (d_i + ε).
/// phi, psi: [B,N,H,F], v: [B,N,H,D], denominator d: [B,H,N,1] -> [B,H,N,D]. Sums over tokens run in f32 for bf16.
Tensor attend_by_features(const Tensor& phi, const Tensor& psi, const Tensor& v, const Tensor& denominator, double epsilon);
/// d_i = φ_iᵀ Σ_j ψ_j:  [B,N,H,F] twice -> [B,H,N,1].
Tensor feature_totals(const Tensor& phi, const Tensor& psi);

}  // namespace flare
