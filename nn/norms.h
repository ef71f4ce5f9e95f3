#pragma once
#include <string>

#include "nn/module.h"

namespace flare {

/// Normalisation of the last axis, of extent `width`: "layer" (weight and bias, eps 1e-5) or "rms" (weight only, eps the f32
/// machine epsilon, as torch.nn.RMSNorm). x: [..., width] -> the same. ConfigError on another kind.
class Norm : public Module {
 public:
  Norm(const std::string& kind, int64_t width);
  Tensor forward(const Tensor& x) const;

 private:
  bool rms_;
  Tensor weight_, bias_;
};

}  // namespace flare
