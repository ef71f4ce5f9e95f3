#pragma once
/// Elementary functions in the three places they are needed: double (the oracle, plain <cmath>), float on the GPU (CUDA's own),
/// float on the CPU (branch-free polynomials, so that loops over them vectorise; <cmath> calls would not).
#include <bit>
#include <cmath>
#include <cstdint>

#include "core/hd.h"

namespace flare {

FLARE_HD double exp_of(double x) { return ::exp(x); }
FLARE_HD double log_of(double x) { return ::log(x); }
FLARE_HD double tanh_of(double x) { return ::tanh(x); }
FLARE_HD double erf_of(double x) { return ::erf(x); }
FLARE_HD double sqrt_of(double x) { return ::sqrt(x); }
FLARE_HD float log_of(float x) { return ::logf(x); }
FLARE_HD float erf_of(float x) { return ::erff(x); }
FLARE_HD float sqrt_of(float x) { return ::sqrtf(x); }

/// exp(x), within 2 ulp; 0 below -87.3 (no denormals), infinity above 88.7, NaN for NaN.
FLARE_HD float exp_of(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  // x = n ln2 + r, |r| <= ln2/2: exp(r) by its degree-6 minimax polynomial, 2^n by the exponent bits. ln2 is split in two so
  // that r is exact.
  const float clamped = x < -87.3f ? -87.3f : (x > 88.7f ? 88.7f : x);
  const float n = std::nearbyint(clamped * 1.44269504f);
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  const float y = (p * r * r + r) + 1.0f;
  // 2^n in two factors: n reaches 128, which one exponent cannot hold.
  const int32_t i = static_cast<int32_t>(n), half = i >> 1;
  const float scale_a = std::bit_cast<float>((half + 127) << 23), scale_b = std::bit_cast<float>((i - half + 127) << 23);
  const float result = y * scale_a * scale_b;
  return x < -87.3f ? 0.0f : (x > 88.7228f ? INFINITY : (x == x ? result : x));
#endif
}

/// exp(x) for x <= 0, within 2 ulp and in half the time of exp_of; 0 below -87.3, NaN for NaN.
FLARE_HD double exp_of_negative(double x) { return ::exp(x); }
FLARE_HD float exp_of_negative(float x) {
#if defined(__CUDA_ARCH__)
  return ::expf(x);
#else
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which then sits in the low bits
  const float clamped = x < -87.3f ? -87.3f : x;
  const float shifted = clamped * 1.44269504f + kRound, n = shifted - kRound;
  const float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // as in exp_of
  float p = 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  const float scale = std::bit_cast<float>((std::bit_cast<uint32_t>(shifted) << 23) + (127u << 23));  // 2^n
  return x < -87.3f ? 0.0f : ((p * r * r + r) + 1.0f) * scale;
#endif
}

/// tanh(x), within 3 ulp.
FLARE_HD float tanh_of(float x) {
#if defined(__CUDA_ARCH__)
  return ::tanhf(x);
#else
  const float a = x < 0 ? -x : x;
  const float large = 1.0f - 2.0f / (exp_of(a > 10.0f ? 20.0f : 2.0f * a) + 1.0f);
  const float s = x * x;  // odd polynomial where the subtraction above would cancel
  float p = -5.70498872745e-3f;
  p = p * s + 2.06390887954e-2f;
  p = p * s + -5.37397155531e-2f;
  p = p * s + 1.33314422036e-1f;
  p = p * s + -3.33332819422e-1f;
  const float small = x + x * s * p;
  return a < 0.625f ? small : (x < 0 ? -large : (x > 0 ? large : x));
#endif
}

/// The logistic function 1 / (1 + exp(-x)).
template <class T> FLARE_HD T sigmoid_of(T x) { return T(1) / (T(1) + exp_of(-x)); }

}  // namespace flare
