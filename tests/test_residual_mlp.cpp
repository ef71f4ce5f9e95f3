/// The fused residual MLP beyond what its op samples say: padding in long runs, the module's choice between fused and plain, and
/// what a wrong call is told.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/node.h"
#include "core/device.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "nn/residual_mlp.h"
#include "ops/residual_mlp.h"

using namespace flare;

namespace {

struct Case {
  Tensor x, gy, mask;
  std::vector<Tensor> weights, biases;
};
Tensor random(const Shape& shape, double spread, Rng& rng) {
  const Tensor t = Tensor::empty(shape, DType::f32);
  for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>((2 * rng.uniform() - 1) * spread);
  return t;
}
/// Samples of N tokens of which the first few are real: whole tiles of padding, tiles with both, and full ones.
Case padded_case(int64_t batch, int64_t n_tokens, int64_t channels, int n_layers) {
  Rng rng(7);
  Case c;
  c.x = random({batch, n_tokens, channels}, 1, rng);
  c.gy = random({batch, n_tokens, channels}, 1, rng);
  c.mask = Tensor::zeros({batch, n_tokens}, DType::u8);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t i = 0; i < n_tokens * (b + 1) / (batch + 1); ++i) c.mask.data<uint8_t>()[b * n_tokens + i] = 1;
  for (int i = 0; i < n_layers; ++i) {
    c.weights.push_back(random({channels, channels}, 1.5 / std::sqrt(static_cast<double>(channels)), rng));
    c.biases.push_back(random({channels}, 1, rng));
  }
  return c;
}
/// y, the gradient of x, then of weights and biases, computed on `device` in `dtype`, read back.
std::vector<std::vector<double>> run(const Case& c, Device device, DType dtype) {
  const auto there = [&](const Tensor& t) { return to_device(clone(t), device); };
  const Tensor x = cast_to(there(c.x), dtype);
  set_requires_grad(x);
  std::vector<Tensor> weights, biases;
  for (size_t i = 0; i < c.weights.size(); ++i) {
    weights.push_back(cast_to(there(c.weights[i]), param_dtype(dtype)));
    biases.push_back(cast_to(there(c.biases[i]), param_dtype(dtype)));
    set_requires_grad(weights.back());
    set_requires_grad(biases.back());
  }
  const Tensor y = residual_mlp(x, weights, biases, there(c.mask));
  backward(y, cast_to(there(c.gy), dtype));
  std::vector<std::vector<double>> out{y.to_vector(), grad(x).to_vector()};
  for (const Tensor& w : weights) out.push_back(grad(w).to_vector());
  for (const Tensor& b : biases) out.push_back(grad(b).to_vector());
  return out;
}
double worst_relative(const std::vector<double>& a, const std::vector<double>& b) {
  double worst = 0, largest = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i])), largest = std::max(largest, std::abs(b[i]));
  return worst / largest;
}

}  // namespace

TEST_CASE("residual_mlp: padded rows are zeros and pass no gradient, whatever stands in them") {
  Case c = padded_case(3, 40, 64, 3);
  const auto before = run(c, Device::cpu, DType::f32);
  for (int64_t r = 0; r < c.mask.numel(); ++r)
    if (!c.mask.data<uint8_t>()[r])
      for (int64_t i = 0; i < 64; ++i) {
        CHECK(before[0][static_cast<size_t>(r * 64 + i)] == 0);
        CHECK(before[1][static_cast<size_t>(r * 64 + i)] == 0);
        c.x.data<float>()[r * 64 + i] = 50, c.gy.data<float>()[r * 64 + i] = -50;
      }
  CHECK(run(c, Device::cpu, DType::f32) == before);
}

// 7 rows are less than a tile, 441 leave one half full, 10,500 make runs of several tiles; in f64 the layers run one by one.
TEST_CASE("residual_mlp on the CPU: tiles in f32 as layers in f64, the same bits on any number of threads") {
  const int threads = thread_count();
  for (const int64_t channels : {64, 128})
    for (const int64_t n_tokens : {7, 147, 3500}) {
      CAPTURE(channels);
      CAPTURE(n_tokens);
      const Case c = padded_case(n_tokens < 100 ? 1 : 3, n_tokens, channels, 4);
      const auto exact = run(c, Device::cpu, DType::f64), ours = run(c, Device::cpu, DType::f32);
      for (size_t i = 0; i < exact.size(); ++i) CHECK(worst_relative(ours[i], exact[i]) < 3e-6);
      for (const int n : {1, 3}) {
        set_thread_count(n);
        CHECK(run(c, Device::cpu, DType::f32) == ours);
      }
      set_thread_count(threads);
    }
  const Case none = padded_case(1, 0, 64, 2);
  for (const std::vector<double>& values : run(none, Device::cpu, DType::f32))
    for (const double v : values) CHECK(v == 0);
}

TEST_CASE("residual_mlp: runs of padding on CUDA as on the CPU, and the same bits again") {
  if (!cuda_available()) {
    MESSAGE("no GPU on this machine");
    return;
  }
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t channels : {64, 128, 256})
      for (const int64_t n_tokens : {70, 3000, 7001}) {
        if (channels == 256 && dtype == DType::f32) continue;  // no kernel: a weight alone overfills shared memory
        CAPTURE(channels);
        CAPTURE(n_tokens);
        const Case c = padded_case(3, n_tokens, channels, 3);
        const auto cpu = run(c, Device::cpu, dtype), cuda = run(c, Device::cuda, dtype);
        for (size_t i = 0; i < cpu.size(); ++i) CHECK(worst_relative(cuda[i], cpu[i]) < (dtype == DType::f32 ? 1e-5 : 2e-2));
        CHECK(run(c, Device::cuda, dtype) == cuda);
      }
}

TEST_CASE("residual_mlp: wrong calls say what is wrong") {
  Case c = padded_case(1, 4, 64, 2);
  CHECK_THROWS_WITH_AS(residual_mlp(c.x, {}, {}), "residual_mlp: takes 1 to 8 layers, got 0", ShapeError);
  CHECK_THROWS_WITH_AS(
      residual_mlp(c.x, {c.weights[0]}, {c.biases[0]}, {}, {true, false}),
      "residual_mlp: the input of a single layer is its last one's too; input_residual and output_residual must agree", ShapeError);
  CHECK_THROWS_WITH_AS(residual_mlp(c.x, c.weights, {c.biases[0]}), "residual_mlp: 2 weights and 1 biases", ShapeError);
  const Tensor wide = Tensor::zeros({64, 65}, DType::f32);
  CHECK_THROWS_WITH_AS(residual_mlp(c.x, {c.weights[0], wide}, c.biases),
                       "residual_mlp: weight 1 must be f32 [64,64] beside x f32 [1,4,64], got f32 [64,65]", ShapeError);
  CHECK_THROWS_WITH_AS(residual_mlp(c.x, c.weights, c.biases, Tensor::zeros({4}, DType::u8)),
                       "residual_mlp: mask must be u8 [1,4], got u8 [4]", ShapeError);
}

TEST_CASE("residual mlp: the module's plain layers and the op agree") {
  for (const bool residuals : {true, false}) {
    Rng rng(3), data(4);
    ResidualMlpOptions o;
    o.in = o.hidden = o.out = 64;
    o.layers = 1;
    o.input_residual = o.output_residual = residuals;
    const ResidualMlp mlp(o, rng);
    const Tensor x = random({9, 64}, 2, data);
    std::vector<Tensor> weights, biases;
    for (const Parameter& p : mlp.parameters()) (p.name.ends_with("weight") ? weights : biases).push_back(p.value);
    REQUIRE(weights.size() == 3);
    // Registration order is fc1, fcs.0, fc2.
    const std::vector<double> plain = mlp.forward(x).to_vector();
    CHECK(worst_relative(residual_mlp(x, weights, biases, {}, {residuals, residuals}).to_vector(), plain) < 1e-6);
  }
}
