#include "nn/residual_mlp.h"

#include "nn/dropout.h"
#include "ops/pointwise.h"
#include "ops/residual_mlp.h"

namespace flare {

Activation activation_by_name(const std::string& name) {
  if (name == "gelu") return [](const Tensor& x) { return gelu(x); };
  if (name == "gelu_erf") return [](const Tensor& x) { return gelu_erf(x); };
  if (name == "silu") return [](const Tensor& x) { return silu(x); };
  throw ConfigError(cat("model.activation: \"", name, "\" is not one of gelu, gelu_erf, silu"));
}

ResidualMlp::ResidualMlp(const ResidualMlpOptions& o, Rng& rng) : activation_(activation_by_name(o.activation)) {
  check<ConfigError>(o.layers >= -1, "residual mlp: ", o.layers, " inner layers; at least -1 (one linear layer)");
  if (o.layers == -1) {
    fc_ = std::make_unique<Linear>(o.in, o.out, rng);
    add_child("fc", *fc_);
    input_residual_ = output_residual_ = o.input_residual && o.output_residual && o.in == o.out;
    return;
  }
  input_residual_ = o.input_residual && o.in == o.hidden;
  output_residual_ = o.output_residual && o.hidden == o.out;
  begins_square_ = o.in == o.hidden && o.activation == "gelu";
  ends_square_ = o.hidden == o.out && o.activation == "gelu";
  fc1_ = std::make_unique<Linear>(o.in, o.hidden, rng);
  add_child("fc1", *fc1_);
  for (int64_t i = 0; i < o.layers; ++i) {
    fcs_.push_back(std::make_unique<Linear>(o.hidden, o.hidden, rng));
    add_child(cat("fcs.", i), *fcs_.back());
  }
  fc2_ = std::make_unique<Linear>(o.hidden, o.out, rng);
  add_child("fc2", *fc2_);
}

Tensor ResidualMlp::forward(const Tensor& x, const Tensor& mask, const Tensor& residual) const {
  const auto added = [&](const Tensor& y) { return residual ? residual + y : y; };
  if (fc_) return added(input_residual_ ? x + fc_->forward(x) : fc_->forward(x));
  const auto n_inner = static_cast<int64_t>(fcs_.size());
  const auto fused = [&](const Tensor& h, bool first, bool last) {  // the inner layers as one op, with or without fc1 and fc2
    std::vector<Tensor> weights, biases;
    const auto add = [&](const Linear& fc) { weights.push_back(fc.weight()), biases.push_back(fc.bias()); };
    if (first) add(*fc1_);
    for (const auto& fc : fcs_) add(*fc);
    if (last) add(*fc2_);
    return residual_mlp(h, weights, biases, mask, {!first || input_residual_, !last || output_residual_, !last},
                        last ? residual : Tensor());
  };
  if (begins_square_ && residual_mlp_fusable(x, n_inner + 1 + (ends_square_ ? 1 : 0))) {
    const Tensor h = fused(x, true, ends_square_);
    return ends_square_ ? h : fc2_->forward(h, residual);
  }
  Tensor h = activation_(fc1_->forward(x));
  if (input_residual_) h = x + h;
  if (ends_square_ && residual_mlp_fusable(h, n_inner + 1)) return fused(h, false, true);
  for (const auto& fc : fcs_) h = h + activation_(fc->forward(h));
  const Tensor y = fc2_->forward(h);
  return added(output_residual_ ? h + y : y);
}

PlainMlp::PlainMlp(int64_t in, int64_t hidden, int64_t out, const std::string& activation, double dropout, Rng& rng)
    : activation_(activation_by_name(activation)), dropout_(dropout), fc1_(in, hidden, rng), fc2_(hidden, out, rng) {
  add_child("fc1", fc1_);
  add_child("fc2", fc2_);
}

Tensor PlainMlp::forward(const Tensor& x, Context& ctx) const {
  return fc2_.forward(apply_dropout(activation_(fc1_.forward(x)), dropout_, ctx));
}

}  // namespace flare
