#pragma once
#include <memory>
#include <string>
#include <vector>

#include "nn/context.h"
#include "nn/linear.h"

namespace flare {

/// Activation by its configuration name: gelu (tanh form), gelu_erf, silu. ConfigError on another.
using Activation = Tensor (*)(const Tensor&);
Activation activation_by_name(const std::string& name);

/// MLP of FLARE.py with residuals around every layer whose width does not change.  x: [..., in] -> [..., out]
///   h = act(fc1 x) (+ x when input_residual and in = hidden);  h += act(fcs[i] h), `layers` times;
///   y = fc2 h (+ h when output_residual and hidden = out).
/// On CUDA one fused op where widths and activation allow (ops/residual_mlp.h), else layer by layer.
/// layers = -1 is the single map y = fc x (+ x when both residuals are asked for and in = out).
struct ResidualMlpOptions {
  int64_t in = 0, hidden = 0, out = 0, layers = 2;
  bool input_residual = true, output_residual = true;
  std::string activation = "gelu";
};
class ResidualMlp : public Module {
 public:
  ResidualMlp(const ResidualMlpOptions& options, Rng& rng);
  /// mask: rows that are 0 there may come out as zeros, without a gradient; nothing that matters may depend on them. residual:
  /// [..., out] to add to the result, or undefined.
  Tensor forward(const Tensor& x, const Tensor& mask = {}, const Tensor& residual = {}) const;

 private:
  Activation activation_;
  bool input_residual_, output_residual_, begins_square_ = false, ends_square_ = false;  // square layers can run as one op
  std::unique_ptr<Linear> fc_, fc1_, fc2_;
  std::vector<std::unique_ptr<Linear>> fcs_;
};

/// The transformer's MLP: y = fc2(dropout(act(fc1 x))), without residuals.  x: [..., in] -> [..., out]
class PlainMlp : public Module {
 public:
  PlainMlp(int64_t in, int64_t hidden, int64_t out, const std::string& activation, double dropout, Rng& rng);
  Tensor forward(const Tensor& x, Context& ctx) const;

 private:
  Activation activation_;
  double dropout_;
  Linear fc1_, fc2_;
};

}  // namespace flare
