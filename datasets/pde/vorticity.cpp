#include "datasets/pde/vorticity.h"

#include <cmath>
#include <complex>
#include <cstdlib>
#include <numbers>
#include <vector>

#include <unsupported/Eigen/FFT>

#include "core/check.h"

namespace flare {

using std::numbers::pi;
using Complex = std::complex<double>;
using Grid = std::vector<Complex>;

// Values lie as [x][y], coefficients of exp(2πi(k1 x + k2 y)) as [k2][k1]: then a transform is one along rows, a transposition, and
// one along rows, and the rows of waves that are cut need not be transformed at all.
struct VorticitySolver::Impl {
  int64_t n, cut;  // waves with |k| < cut are kept
  double viscosity, dt;
  bool is_forced;
  Eigen::FFT<double> fft;
  Grid omega, slope, trial, trial_slope;  // coefficients
  Grid velocity, gradient;                // at points: u + iv, ∂ω/∂x + i ∂ω/∂y
  std::vector<double> product;            // at points
  Grid half, pair, line;                  // scratch: transformed along one axis; two rows, one row

  Impl(int64_t n_, double viscosity_, double dt_, bool is_forced_)
      : n(n_), cut(vorticity_cut(n_)), viscosity(viscosity_), dt(dt_), is_forced(is_forced_) {
    check<ConfigError>(n >= 8 && n % 2 == 0, "vorticity: a grid of ", n, " points a side; it must be even and at least 8");
    check<ConfigError>(viscosity >= 0 && dt > 0, "vorticity: needs viscosity >= 0 and dt > 0, got ", viscosity, " and ", dt);
    fft.SetFlag(Eigen::FFT<double>::Unscaled);
    for (Grid* g : {&omega, &slope, &trial, &trial_slope, &velocity, &gradient, &half}) g->resize(static_cast<size_t>(n * n));
    product.resize(static_cast<size_t>(n * n));
    for (Grid* g : {&pair, &line}) g->resize(static_cast<size_t>(n));
  }

  int64_t wave(int64_t row) const { return row < n / 2 ? row : row - n; }
  size_t at(int64_t k1, int64_t k2) const { return static_cast<size_t>((k2 + n) % n * n + (k1 + n) % n); }
  bool is_kept(int64_t k) const { return std::abs(k) < cut; }
  /// body(index, k1, k2) for every wave that is kept.
  template <class Body> void for_waves(const Body& body) const {
    for (int64_t r = 0; r < n; ++r) {
      if (!is_kept(wave(r))) continue;
      for (int64_t c = 0; c < n; ++c)
        if (is_kept(wave(c))) body(static_cast<size_t>(r * n + c), wave(c), wave(r));
    }
  }

  void transpose(const Grid& from, Grid& to) const {
    constexpr int64_t kBlock = 16;  // two blocks lie in the first cache
    for (int64_t i0 = 0; i0 < n; i0 += kBlock)
      for (int64_t j0 = 0; j0 < n; j0 += kBlock)
        for (int64_t i = i0; i < std::min(i0 + kBlock, n); ++i)
          for (int64_t j = j0; j < std::min(j0 + kBlock, n); ++j)
            to[static_cast<size_t>(j * n + i)] = from[static_cast<size_t>(i * n + j)];
  }
  /// Coefficients -> values. Overwrites `values` and `half`.
  void to_points(const Grid& coefficients, Grid& values) {
    for (int64_t r = 0; r < n; ++r) {
      if (is_kept(wave(r))) {
        fft.inv(&half[static_cast<size_t>(r * n)], &coefficients[static_cast<size_t>(r * n)], n);
      } else {
        std::fill_n(&half[static_cast<size_t>(r * n)], n, Complex{});
      }
    }
    transpose(half, values);
    std::swap(values, half);
    for (int64_t r = 0; r < n; ++r) fft.inv(&values[static_cast<size_t>(r * n)], &half[static_cast<size_t>(r * n)], n);
  }
  /// Real values -> coefficients, those of the waves that are kept; the others become 0. Overwrites `half`. Two rows are one
  /// complex transform z, from which those of the rows are (z_k + z*_-k)/2 and (z_k - z*_-k)/2i; and half the waves give the
  /// others.
  void to_waves(const std::vector<double>& values, Grid& coefficients) {
    for (int64_t r = 0; r < n; r += 2) {
      for (int64_t c = 0; c < n; ++c)
        pair[static_cast<size_t>(c)] =
            Complex(values[static_cast<size_t>(r * n + c)], values[static_cast<size_t>((r + 1) * n + c)]);
      fft.fwd(line.data(), pair.data(), n);
      for (int64_t k = 0; k < cut; ++k) {
        const Complex z = line[static_cast<size_t>(k)], mirrored = std::conj(line[static_cast<size_t>(k == 0 ? 0 : n - k)]);
        half[static_cast<size_t>(k * n + r)] = 0.5 * (z + mirrored);
        half[static_cast<size_t>(k * n + r + 1)] = Complex(0, -0.5) * (z - mirrored);
      }
    }
    std::fill(coefficients.begin(), coefficients.end(), Complex{});
    const double scale = 1 / static_cast<double>(n * n);
    for (int64_t k2 = 0; k2 < cut; ++k2) {
      fft.fwd(line.data(), &half[static_cast<size_t>(k2 * n)], n);
      for (int64_t k1 = k2 == 0 ? 0 : 1 - cut; k1 < cut; ++k1) {
        const Complex value = line[static_cast<size_t>((k1 + n) % n)] * scale;
        coefficients[at(-k1, -k2)] = std::conj(value);
        coefficients[at(k1, k2)] = value;
      }
    }
  }

  /// out = u·∇ω of the coefficients w. Two real fields fit into one complex transform:
  ///   u + iv = Σ 2π (k1 + i k2) ψ_k e_k,   ∂ω/∂x + i ∂ω/∂y = Σ 2πi (k1 + i k2) ω_k e_k,   ψ_k = ω_k / (4π² |k|²).
  void convect(const Grid& w, Grid& out) {
    std::fill(out.begin(), out.end(), Complex{});
    for_waves([&](size_t i, int64_t k1, int64_t k2) {
      const auto square = static_cast<double>(k1 * k1 + k2 * k2);
      if (square > 0) out[i] = Complex(static_cast<double>(k1), static_cast<double>(k2)) * w[i] / (2 * pi * square);
    });
    to_points(out, velocity);
    for_waves([&](size_t i, int64_t k1, int64_t k2) {
      out[i] = 2 * pi * Complex(-static_cast<double>(k2), static_cast<double>(k1)) * w[i];
    });
    to_points(out, gradient);
    for (size_t i = 0; i < product.size(); ++i) product[i] = (std::conj(velocity[i]) * gradient[i]).real();
    to_waves(product, out);
  }

  /// out = f - u·∇ω.
  void explicit_part(const Grid& w, Grid& out) {
    convect(w, out);
    for_waves([&](size_t i, int64_t, int64_t) { out[i] = -out[i]; });
    if (!is_forced) return;
    const Complex wave_of_force(0.05, -0.05);  // 0.1 (sin θ + cos θ) = c exp(iθ) + its conjugate
    out[at(1, 1)] += wave_of_force;
    out[at(-1, -1)] += std::conj(wave_of_force);
  }

  void step() {
    explicit_part(omega, slope);
    const auto advance = [&](size_t i, int64_t k1, int64_t k2, const Complex& rest) {
      const double half_rate = 0.5 * dt * viscosity * 4 * pi * pi * static_cast<double>(k1 * k1 + k2 * k2);
      return ((1 - half_rate) * omega[i] + dt * rest) / (1 + half_rate);
    };
    for_waves([&](size_t i, int64_t k1, int64_t k2) { trial[i] = advance(i, k1, k2, slope[i]); });
    explicit_part(trial, trial_slope);
    for_waves([&](size_t i, int64_t k1, int64_t k2) { omega[i] = advance(i, k1, k2, 0.5 * (slope[i] + trial_slope[i])); });
  }

  Tensor real_values(const Grid& coefficients) {
    to_points(coefficients, velocity);
    const Tensor out = Tensor::empty({n, n}, DType::f64);
    for (size_t i = 0; i < velocity.size(); ++i) out.data<double>()[i] = velocity[i].real();
    return out;
  }
};

VorticitySolver::VorticitySolver(int64_t n, double viscosity, double dt, bool is_forced)
    : impl_(std::make_unique<Impl>(n, viscosity, dt, is_forced)) {}
VorticitySolver::~VorticitySolver() = default;

void VorticitySolver::set(const Tensor& vorticity) {
  Impl& s = *impl_;
  check(vorticity.shape() == Shape{s.n, s.n} && vorticity.dtype() == DType::f64 && vorticity.is_contiguous(),
        "vorticity: expected f64 [", s.n, ",", s.n, "], got ", vorticity.dtype(), " ", vorticity.shape());
  std::copy_n(vorticity.data<double>(), s.n * s.n, s.product.begin());
  s.to_waves(s.product, s.omega);
}

double vorticity_deviation(int64_t k1, int64_t k2) {
  const double wave = 4 * pi * pi * static_cast<double>(k1 * k1 + k2 * k2);
  return std::pow(7, 1.5) * std::pow(wave + 49, -1.25) / std::numbers::sqrt2;
}

void draw_vorticity(Rng& rng, int64_t cut, const std::function<void(int64_t, int64_t, double, double)>& wave) {
  for (int64_t r = 1; r < cut; ++r)  // the waves around the square of side 2r
    for (int64_t k2 = 0; k2 <= r; ++k2)
      for (int64_t k1 = -r; k1 <= r; ++k1) {
        if (std::max(std::abs(k1), k2) != r || (k2 == 0 && k1 < 0)) continue;
        const double deviation = vorticity_deviation(k1, k2), re = rng.normal(), im = rng.normal();
        wave(k1, k2, deviation * re, deviation * im);
      }
}

void VorticitySolver::draw(Rng& rng) {
  Impl& s = *impl_;
  std::fill(s.omega.begin(), s.omega.end(), Complex{});
  draw_vorticity(rng, s.cut, [&](int64_t k1, int64_t k2, double re, double im) {
    s.omega[s.at(k1, k2)] = Complex(re, im);
    s.omega[s.at(-k1, -k2)] = Complex(re, -im);
  });
}

void VorticitySolver::step() { impl_->step(); }
Tensor VorticitySolver::vorticity() { return impl_->real_values(impl_->omega); }
Tensor VorticitySolver::convection() {
  impl_->convect(impl_->omega, impl_->slope);
  return impl_->real_values(impl_->slope);
}

}  // namespace flare
