#include "nn/linear.h"

#include "ops/linear.h"

namespace flare {

Linear::Linear(int64_t in, int64_t out, Rng& rng, bool bias) {
  check<ConfigError>(in >= 1 && out >= 1, "linear: cannot map ", in, " to ", out, " features");
  add_parameter("weight", weight_, normal_tensor({out, in}, 0.02, rng), true);
  if (bias) add_parameter("bias", bias_, Tensor::zeros({out}, DType::f32), false);
}

Tensor Linear::forward(const Tensor& x, const Tensor& residual) const { return linear(x, weight_, bias_, residual); }

}  // namespace flare
