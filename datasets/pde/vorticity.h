#pragma once
#include <cstdint>
#include <functional>
#include <memory>

#include "core/rng.h"
#include "core/tensor.h"

namespace flare {

/// Incompressible flow on the periodic unit square in vorticity form, by Fourier series:
///   ∂ω/∂t + u·∇ω = ν Δω + f,   u = (∂ψ/∂y, -∂ψ/∂x),   -Δψ = ω,   f = 0.1 (sin 2π(x+y) + cos 2π(x+y))
/// at the points (i/n, j/n), i along rows of [n,n]. Products are taken at the points and cut to wave numbers below n/3, where they
/// are free of aliasing (the 2/3 rule). A step is Crank-Nicolson for Δ and Heun's method for the rest: second order in dt, where
/// the published code (Li et al., arXiv 2010.08895) takes Euler's and smaller steps. Four complex and two real transforms of n² a
/// step (Eigen's FFT). Not for use by two threads at a time.
class VorticitySolver {
 public:
  VorticitySolver(int64_t n, double viscosity, double dt, bool is_forced = true);
  ~VorticitySolver();
  /// vorticity: f64 [n,n] of mean 0; waves of n/3 and more are dropped.
  void set(const Tensor& vorticity);
  void draw(Rng& rng);  // draw_vorticity
  void step();
  Tensor vorticity();
  Tensor convection();  // u·∇ω, cut to the waves that are kept

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Waves with |k1|, |k2| below this are kept on n² points.
constexpr int64_t vorticity_cut(int64_t n) { return (n + 2) / 3; }

/// A Gaussian field with mean 0 and covariance 7³ (-Δ + 49)^(-5/2): wave(k1, k2, re, im) gets the coefficient of one of each pair
/// k, -k with |k1|, |k2| < cut; the other's is its conjugate. Drawn from long to short waves, so the same rng gives the same field
/// on every grid, as far as the grid resolves it.
void draw_vorticity(Rng& rng, int64_t cut, const std::function<void(int64_t k1, int64_t k2, double re, double im)>& wave);

/// Standard deviation of the real and of the imaginary part of a drawn coefficient at wave number (k1,k2).
double vorticity_deviation(int64_t k1, int64_t k2);

}  // namespace flare
