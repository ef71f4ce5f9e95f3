#pragma once
/// What the tests of the baseline mixers share: their names, a narrow configuration, one forward pass.
#include <memory>

#include "nn/mixer.h"
#include "tests/nn_fixtures.h"
#include "tests/tensor_fixtures.h"

inline const std::vector<std::string> kBaselines = {"linear", "linformer", "performer"};
inline constexpr int64_t kLongest = 12;

inline ModelConfig narrow(const std::string& mixer) {
  ModelConfig c;
  c.mixer = mixer;
  c.channels = 8;
  c.heads = 2;
  c.latents = 6;
  return c;
}

inline Tensor run(Mixer& mixer, const Tensor& x, const Tensor& mask = {}) {
  Context ctx;
  ctx.dtype = x.dtype();
  return mixer.forward(x, mask, {}, ctx);
}
