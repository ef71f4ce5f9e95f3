#include "nn/linear_attention.h"

#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shaping.h"

namespace flare {

Tensor feature_totals(const Tensor& phi, const Tensor& psi) {
  const Tensor total = sum(psi, 1);  // [B,H,F]
  return matmul(transpose(phi, 1, 2), reshape(total, {total.size(0), total.size(1), total.size(2), 1}));
}

Tensor attend_by_features(const Tensor& phi, const Tensor& psi, const Tensor& v, const Tensor& denominator, double epsilon) {
  const Tensor routed = matmul(transpose(psi, 1, 2), transpose(v, 1, 2), true);  // [B,H,F,D]
  return matmul(transpose(phi, 1, 2), routed) / (epsilon > 0 ? denominator + epsilon : denominator);
}

LinearAttention::LinearAttention(const ModelConfig& config, Rng& rng) : QkvMixer(config, rng) {
  refuse_attention_dropout("linear");
}

Tensor LinearAttention::forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) {
  constexpr double kEpsilon = 1e-15;  // its square, in the derivative of the quotient, is still a number in f32
  const Heads h = project(x);
  const Tensor phi = elu_plus_one(h.q);
  Tensor psi = elu_plus_one(h.k);
  if (mask) psi = psi * mask_factors(mask, 4, psi.dtype());
  return finish(attend_by_features(rotate(phi), rotate(psi), h.v, feature_totals(phi, psi), kEpsilon), residual, ctx);
}

}  // namespace flare
