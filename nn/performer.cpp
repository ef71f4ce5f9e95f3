#include "nn/performer.h"

#include <cmath>

#include "nn/linear_attention.h"
#include "ops/cast.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shaping.h"
#include "ops/softmax.h"

namespace flare {
namespace {

using Vector = std::vector<double>;

Vector normal_vector(int64_t width, Rng& rng) {
  Vector v(static_cast<size_t>(width));
  for (double& x : v) x = rng.normal();
  return v;
}
double dot(const Vector& a, const Vector& b) {
  double total = 0;
  for (size_t i = 0; i < a.size(); ++i) total += a[i] * b[i];
  return total;
}

}  // namespace

Tensor orthogonal_features(int64_t n_features, int64_t width, Rng& rng) {
  std::vector<float> rows;
  std::vector<Vector> block;  // unit vectors
  for (int64_t i = 0; i < n_features; ++i) {
    if (i % width == 0) block.clear();
    Vector direction;
    double length = 0;
    do {  // again in the event, of probability 0, that the draw lies in the span of the block
      direction = normal_vector(width, rng);
      for (int pass = 0; pass < 2; ++pass)  // the second removes what rounding left of the first
        for (const Vector& unit : block) {
          const double along = dot(direction, unit);
          for (size_t d = 0; d < unit.size(); ++d) direction[d] -= along * unit[d];
        }
      length = std::sqrt(dot(direction, direction));
    } while (length < 1e-6);
    for (double& x : direction) x /= length;
    const Vector other = normal_vector(width, rng);
    const double norm = std::sqrt(dot(other, other));
    for (const double x : direction) rows.push_back(static_cast<float>(norm * x));
    block.push_back(direction);
  }
  return Tensor::from(rows, {n_features, width});
}

Performer::Performer(const ModelConfig& config, Rng& rng) : QkvMixer(config, rng) {
  check<ConfigError>(config.latents >= 1, "model.latents: ", config.latents, " must be at least 1");
  refuse_attention_dropout("performer");
  add_buffer("random_features", random_features_, orthogonal_features(config.latents, width_, rng));
}

Tensor Performer::forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) {
  constexpr double kMasked = 1e30;  // below every exponent, and finite so that differences are too
  const Heads h = project(x);
  const DType wide = param_dtype(x.dtype());
  const Tensor omega = cast(random_features_ * std::sqrt(scale_), x.dtype());
  const Tensor q = rotate(h.q), k = rotate(h.k);

  // What is small is added first.
  Tensor bias = (-0.5 * scale_) * sum(square(cast(k, wide)), 3, true);  // [B,N,H,1]
  if (mask) bias = bias + affine(mask_factors(mask, 4, wide), kMasked, -kMasked);
  const Tensor of_k = matmul_unrounded(k, omega, false, true) + bias;  // [B,N,H,M]
  const Tensor largest = max(of_k.detach(), 1, true);                  // [B,1,H,M]
  const Tensor psi = cast(exp(of_k - largest), x.dtype());
  const Tensor phi = cast(softmax(matmul_unrounded(q, omega, false, true) + largest, 3), x.dtype());
  return finish(attend_by_features(phi, psi, h.v, feature_totals(phi, psi), 0), residual, ctx);
}

}  // namespace flare
