#pragma once
#include <cstdint>
#include <numbers>

#include "core/hd.h"

namespace flare {

/// A complex number as cuFFT's transforms lay it out.
struct alignas(16) ComplexValue {
  double re = 0, im = 0;
};

/// The arithmetic of BatchedVorticity between its transforms, one wave or one point of one flow at a time: for its kernels, and for
/// the test that takes the same steps on the host. A real field has conjugate coefficients at k and -k, so a state holds one wave
/// of each pair, [count()]: those with k1 > 0, or k1 = 0 and k2 > 0, in the order of (k1,k2). The wave 0 is 0. Arrays of a flow:
///   spectra  [2,n,n]    coefficients [k1][k2] of u + iv and of ∂ω/∂x + i ∂ω/∂y. Only waves that are kept are written: clear it
///   once. fields   [2,n,n]    their values at the points [x][y]: the inverse transform, not scaled products [n,n]      u·∇ω at the
///   points waves    [n,n/2+1]  its transform, not scaled, k2 >= 0 only
struct VorticityWaves {
  int n, cut;            // points a side; waves with |k1|, |k2| < cut are kept
  double half_rate, dt;  // ½ dt ν 4π²: times |k|², half of what viscosity takes in a step

  struct Wave {
    int k1, k2;
  };
  FLARE_HD int width() const { return 2 * cut - 1; }
  FLARE_HD int count() const { return (width() * width() - 1) / 2; }
  // In the square of all kept waves, row by row, 0 lies in the middle, and what follows it is one of each pair.
  FLARE_HD Wave wave(int p) const {
    const int q = p + count() + 1;
    return {q / width() - (cut - 1), q % width() - (cut - 1)};
  }
  /// Puts the coefficient of either wave of a pair into a state.
  FLARE_HD void set(int k1, int k2, const ComplexValue& value, ComplexValue* omega) const {
    const int p = k1 * width() + k2 - 1;
    if (p >= 0)
      omega[p] = value;
    else
      omega[-p - 2] = {value.re, -value.im};  // p(-k) = -2 - p(k)
  }

  FLARE_HD static double convected(const ComplexValue& velocity, const ComplexValue& gradient) {
    return velocity.re * gradient.re + velocity.im * gradient.im;
  }

  /// Wave p of half a step of Heun's method. The predictor keeps its slope and leaves omega; the corrector takes the mean of both
  /// slopes into omega. Each leaves the spectra from which the next products are made.
  template <bool is_corrector>
  FLARE_HD void advance(int p, const ComplexValue* waves, ComplexValue* omega, ComplexValue* slope, ComplexValue* spectra) const {
    const Wave k = wave(p);
    const ComplexValue w = omega[p];
    ComplexValue rest = explicit_part(waves, k);
    if constexpr (is_corrector)
      rest = {0.5 * (slope[p].re + rest.re), 0.5 * (slope[p].im + rest.im)};
    else
      slope[p] = rest;
    const double rate = half_rate * square(k), inverse = 1 / (1 + rate);
    const ComplexValue next = {((1 - rate) * w.re + dt * rest.re) * inverse, ((1 - rate) * w.im + dt * rest.im) * inverse};
    if constexpr (is_corrector) omega[p] = next;
    write_spectra(p, next, spectra);
  }

  /// The two spectra that wave p contributes to, at k and at -k:
  ///   u + iv = Σ 2π (k1 + i k2) ψ_k e_k,   ∂ω/∂x + i ∂ω/∂y = Σ 2πi (k1 + i k2) ω_k e_k,   ψ_k = ω_k / (4π² |k|²).
  FLARE_HD void write_spectra(int p, const ComplexValue& w, ComplexValue* spectra) const {
    const Wave k = wave(p);
    constexpr double two_pi = 2 * std::numbers::pi;
    const double to_velocity = 1 / (two_pi * square(k));
    for (int sign = 1; sign >= -1; sign -= 2) {
      const double k1 = sign * k.k1, k2 = sign * k.k2, im = sign * w.im;
      ComplexValue* const to = spectra + place(sign * k.k1, sign * k.k2);
      *to = {(k1 * w.re - k2 * im) * to_velocity, (k1 * im + k2 * w.re) * to_velocity};
      to[n * n] = {-(k2 * w.re + k1 * im) * two_pi, (k1 * w.re - k2 * im) * two_pi};
    }
  }

  /// In place of u + iv the vorticity itself, whose values are real.
  FLARE_HD void write_vorticity(int p, const ComplexValue& w, ComplexValue* spectra) const {
    const Wave k = wave(p);
    spectra[place(k.k1, k.k2)] = w;
    spectra[place(-k.k1, -k.k2)] = {w.re, -w.im};
  }

 private:
  FLARE_HD static double square(const Wave& k) { return static_cast<double>(k.k1 * k.k1 + k.k2 * k.k2); }
  FLARE_HD int place(int k1, int k2) const { return (k1 < 0 ? k1 + n : k1) * n + (k2 < 0 ? k2 + n : k2); }

  /// f - u·∇ω. The force 0.1 (sin 2π(x+y) + cos 2π(x+y)) has the one coefficient 0.05 - 0.05i at (1,1), and its conjugate.
  FLARE_HD ComplexValue explicit_part(const ComplexValue* waves, const Wave& k) const {
    const int row = n / 2 + 1;
    const double scale = 1.0 / (static_cast<double>(n) * n);
    const ComplexValue c = k.k2 >= 0 ? waves[k.k1 * row + k.k2] : waves[(n - k.k1) * row - k.k2];  // of -k, so conjugate
    ComplexValue out = {-scale * c.re, (k.k2 >= 0 ? -scale : scale) * c.im};
    if (k.k1 == 1 && k.k2 == 1) {
      out.re += 0.05;
      out.im -= 0.05;
    }
    return out;
  }
};

}  // namespace flare
