#pragma once
#include <cstdint>

#include "core/rng.h"
#include "core/tensor.h"

namespace flare {

/// Gaussian random field on the unit square with mean 0 and covariance τ^(2α-2) (-Δ + τ²)^(-α), no flux through the boundary and
/// no constant part, as a finite cosine series (Karhunen-Loève):
///   U(x,y) = Σ_{k≠0} c_k cos(π k1 x) cos(π k2 y),   c_k = w_k1 w_k2 τ^(α-1) (π²(k1² + k2²) + τ²)^(-α/2) ξ_k,
/// ξ_k standard normal, w_0 = 1, w_k = √2. With α = 2, τ = 3 and modes = 421 it is the field of Li et al. (arXiv 2010.08895), whose
/// code takes the inverse cosine transform of the c_k. Being a series, it can be evaluated on any grid.
class RandomField {
 public:
  RandomField(int64_t modes, double tau, double alpha);
  /// The c_k of one field, f64 [modes,modes]; draws modes² normal numbers, row by row.
  Tensor draw(Rng& rng) const;
  /// Standard deviation of c_k: square roots of the covariance's eigenvalues times w_k1 w_k2.
  double deviation(int64_t k1, int64_t k2) const;

 private:
  int64_t modes_;
  double tau_, alpha_;
};

/// Evaluates cosine series on the grid x_i = i/(nodes-1), y_j = j/(nodes-1): two products with the matrix cos(π k x_i), which
/// at 421 nodes cost 20 ms; a fast transform would not be noticed beside the solver.
class CosineGrid {
 public:
  CosineGrid(int64_t nodes, int64_t modes);
  /// coefficients f64 [modes,modes] -> values f64 [nodes,nodes], x along rows of the matrix.
  Tensor evaluate(const Tensor& coefficients) const;

 private:
  int64_t nodes_, modes_;
  Tensor cosines_;  // [nodes,modes]
};

}  // namespace flare
