#pragma once
#include "nn/module.h"

namespace flare {

/// y = x·Wᵀ + b.  x: [..., in] -> [..., out];  weight [out, in] ~ N(0, 0.02²), bias [out] = 0 (absent without `bias`).
class Linear : public Module {
 public:
  Linear(int64_t in, int64_t out, Rng& rng, bool bias = true);
  Tensor forward(const Tensor& x, const Tensor& residual = {}) const;
  const Tensor& weight() const { return weight_; }
  const Tensor& bias() const { return bias_; }

 private:
  Tensor weight_, bias_;
};

}  // namespace flare
