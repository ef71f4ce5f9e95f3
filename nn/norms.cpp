#include "nn/norms.h"

#include <limits>

#include "ops/norm.h"

namespace flare {

Norm::Norm(const std::string& kind, int64_t width) : rms_(kind == "rms") {
  check<ConfigError>(kind == "layer" || kind == "rms", "model.norm: \"", kind, "\" is not one of layer, rms");
  add_parameter("weight", weight_, Tensor::full({width}, 1, DType::f32), false);
  if (!rms_) add_parameter("bias", bias_, Tensor::zeros({width}, DType::f32), false);
}

Tensor Norm::forward(const Tensor& x) const {
  return rms_ ? rms_norm(x, weight_, std::numeric_limits<float>::epsilon()) : layer_norm(x, weight_, bias_, 1e-5);
}

}  // namespace flare
