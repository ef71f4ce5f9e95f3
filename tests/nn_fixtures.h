#pragma once
/// What the tests of models and of optimizers share: a small classifier's configuration and inputs, and messages of errors.
#include "nn/models/lra_classifier.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shaping.h"
#include "tests/golden.h"

using namespace flare;

inline std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu};
  if (cuda_available()) all.push_back(Device::cuda);
  return all;
}

inline ModelConfig small_config(const std::string& mixer = "flare") {
  ModelConfig c;
  c.mixer = mixer;
  c.blocks = 2;
  c.channels = 16;
  c.heads = 4;
  c.latents = 8;
  c.kv_layers = c.ffn_layers = 1;
  return c;
}

inline Tensor random_tokens(int64_t b, int64_t n, int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int64_t> values(static_cast<size_t>(b * n));
  for (int64_t& v : values) v = static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocab)));
  return Tensor::from(values, {b, n});
}

/// What an E thrown by `f` says; empty when nothing is thrown.
template <class E, class F> inline std::string message_of(const F& f) {
  try {
    f();
  } catch (const E& e) { return e.what(); }
  return "";
}
