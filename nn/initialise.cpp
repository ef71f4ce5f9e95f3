#include "nn/initialise.h"

#include <cmath>

namespace flare {
namespace {

constexpr double kDrawn = 0.02;

void scale(const Tensor& x, double factor) {
  if (factor == 1) return;
  check(x.device() == Device::cpu && x.dtype() == DType::f32, "initialise: weights must be f32 on the CPU, as they are when made");
  float* values = x.data<float>();
  for (int64_t i = 0; i < x.numel(); ++i) values[i] = static_cast<float>(values[i] * factor);
}

}  // namespace

void initialise(Module& model, const ModelConfig& config) {
  check<ConfigError>(config.init_gain >= 0, "model.init_gain: ", config.init_gain, " is negative");
  check<ConfigError>(config.embedding_std > 0, "model.embedding_std: ", config.embedding_std, " must be above 0");
  for (const Parameter& p : model.parameters()) {
    if (config.position == "grid" && p.name.ends_with("pos_scale")) scale(p.value, config.embedding_std / kDrawn);
    if (p.value.ndim() != 2 || !p.name.ends_with(".weight")) continue;
    if (p.name.ends_with("token_embed.weight") || p.name.ends_with("pe.weight"))
      scale(p.value, config.embedding_std / kDrawn);
    else if (config.init_gain > 0)
      scale(p.value, config.init_gain / std::sqrt(static_cast<double>(p.value.size(1))) / kDrawn);
  }
}

}  // namespace flare
