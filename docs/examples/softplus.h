#pragma once
#include "ops/pointwise.h"

namespace flare {

/// softplus(x) = log(1 + exp(x)), elementwise.  x: [any] -> [any].  Source: Dugas et al., NIPS 2000.
struct Softplus : UnaryDefaults {
  static constexpr const char* name = "softplus";
  template <class T> FLARE_HD static T forward(T x) {
    // log(1+exp(x)) = max(x,0) + log(1+exp(-|x|)) never overflows.
    return (x > T(0) ? x : T(0)) + log_of(T(1) + exp_of(x > T(0) ? -x : x));
  }
  template <class T> FLARE_HD static T derivative(T x, T /*y*/) { return sigmoid_of(x); }
};

}  // namespace flare
