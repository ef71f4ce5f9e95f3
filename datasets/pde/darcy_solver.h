#pragma once
#include <cstdint>
#include <memory>

#include "core/tensor.h"

namespace flare {

/// Steady Darcy flow on the unit square, -∇·(a ∇u) = f with u = 0 on the boundary, on n x n nodes of spacing h = 1/(n-1):
///   Σ over the four neighbours q of p of  ½(a_p + a_q) (u_p - u_q) / h² = f_p     at every inner node p,
/// the five-point scheme with arithmetic means on the faces of Li et al. (arXiv 2010.08895). Second order in h where a is smooth,
/// first order at its jumps. One sparse Cholesky factorisation (Eigen) a call; the elimination order, nested dissection, is
/// found once for all. Not for use by two threads at a time.
class DarcySolver {
 public:
  explicit DarcySolver(int64_t nodes);
  ~DarcySolver();
  /// a: f64 [n,n], positive; f: f64 [n,n] or undefined for f = 1 -> u: f64 [n,n], zero on the boundary. NumericError unless the
  /// matrix is positive definite.
  Tensor solve(const Tensor& a, const Tensor& f = {});

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// ‖f - A u‖₂ / ‖f‖₂ over the inner nodes, from the stencil itself.
double darcy_residual(const Tensor& a, const Tensor& u, const Tensor& f = {});

}  // namespace flare
