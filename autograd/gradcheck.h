#pragma once
#include <functional>
#include <string>
#include <vector>

#include "autograd/op.h"

namespace flare {

struct GradcheckResult {
  bool ok = true;
  double worst = 0;  // largest max|analytic - numeric| / max|analytic|, |numeric| over the inputs
  std::string message;
};

/// Compares the tape's gradient of <cotangent, f(inputs)> with central differences, for a random cotangent: a sum over the
/// output would hide errors (the sum of a softmax is constant). Inputs are f64 on the CPU; `check_input[i]` says which to
/// perturb. f is called twice per element.
GradcheckResult gradcheck(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                          const std::vector<bool>& check_input, double tolerance = 1e-6, uint64_t seed = 0);

/// The inputs a Sample describes, random by seed, on the CPU: `real` ones have `dtype`, `param` ones param_dtype(dtype). The
/// numbers are those of the f32 (for bf16: bf16) grid whatever the dtype, so that runs in several dtypes see equal inputs.
std::vector<Tensor> make_inputs(const Sample& sample, DType dtype, uint64_t seed = 0);
/// Which of them a derivative check perturbs.
std::vector<bool> differentiable_inputs(const Sample& sample);

/// max|a - b| / max|b| over all elements, as doubles; infinity when shapes differ or exactly one side is not finite.
double relative_difference(const Tensor& a, const Tensor& b);

}  // namespace flare
