#include "datasets/pde/random_field.h"

#include <cmath>
#include <numbers>

#include "core/gemm.h"

namespace flare {

using std::numbers::pi;

RandomField::RandomField(int64_t modes, double tau, double alpha) : modes_(modes), tau_(tau), alpha_(alpha) {
  check<ConfigError>(modes >= 2 && tau > 0 && alpha > 0, "random field: needs at least 2 modes and positive tau and alpha, got ",
                     modes, ", ", tau, ", ", alpha);
}

double RandomField::deviation(int64_t k1, int64_t k2) const {
  if (k1 == 0 && k2 == 0) return 0;
  const auto weight = [](int64_t k) { return k == 0 ? 1.0 : std::numbers::sqrt2; };
  const double wave = pi * pi * static_cast<double>(k1 * k1 + k2 * k2);
  return weight(k1) * weight(k2) * std::pow(tau_, alpha_ - 1) * std::pow(wave + tau_ * tau_, -alpha_ / 2);
}

Tensor RandomField::draw(Rng& rng) const {
  const Tensor c = Tensor::empty({modes_, modes_}, DType::f64);
  for (int64_t k1 = 0; k1 < modes_; ++k1)
    for (int64_t k2 = 0; k2 < modes_; ++k2) c.data<double>()[k1 * modes_ + k2] = deviation(k1, k2) * rng.normal();
  return c;
}

CosineGrid::CosineGrid(int64_t nodes, int64_t modes)
    : nodes_(nodes), modes_(modes), cosines_(Tensor::empty({nodes, modes}, DType::f64)) {
  check<ConfigError>(nodes >= 2, "cosine grid: needs at least 2 nodes, got ", nodes);
  // The angle is reduced in integers: cos(π k i/(n-1)) has period 2(n-1) in k·i.
  const int64_t period = 2 * (nodes - 1);
  for (int64_t i = 0; i < nodes; ++i)
    for (int64_t k = 0; k < modes; ++k)
      cosines_.data<double>()[i * modes + k] = std::cos(pi * static_cast<double>(i * k % period) / static_cast<double>(nodes - 1));
}

Tensor CosineGrid::evaluate(const Tensor& coefficients) const {
  check(coefficients.shape() == Shape{modes_, modes_} && coefficients.dtype() == DType::f64,
        "cosine grid: coefficients must be f64 [", modes_, ",", modes_, "], got ", coefficients.dtype(), " ", coefficients.shape());
  const Tensor half = Tensor::empty({nodes_, modes_}, DType::f64), values = Tensor::empty({nodes_, nodes_}, DType::f64);
  GemmArgs g;  // half = C·c
  g.dtype = g.out_dtype = DType::f64;
  g.m = nodes_;
  g.n = g.k = modes_;
  g.a = cosines_.raw();
  g.b = coefficients.raw();
  g.c = half.raw();
  g.lda = g.ldb = g.ldc = modes_;
  gemm_cpu(g);
  g.transpose_b = true;  // values = half·Cᵀ
  g.n = nodes_;
  g.a = half.raw();
  g.b = cosines_.raw();
  g.c = values.raw();
  g.ldc = nodes_;
  gemm_cpu(g);
  return values;
}

}  // namespace flare
