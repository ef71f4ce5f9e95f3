/// The reader's ladder: every rung against the op in f64 on the CPU. The rungs are CUDA kernels; without a GPU what is not run is
/// counted and printed.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include "autograd/gradcheck.h"
#include "ops/flare_mixer.h"
#include "ops/mixer_ladder.h"
#include "tests/tensor_fixtures.h"

using namespace flare;

namespace {

struct LadderCase {
  std::string label;
  int64_t B, H, M, N, D;
  bool masked = false, q_per_sample = false, strided = false;
  double q_range = 1, k_range = 1;
};
/// More queries and keys than a tile, fewer than one, borders inside tiles, and chunks (split-token cuts 1500 tokens in six).
const LadderCase kCases[] = {
    {"width 8", 2, 2, 70, 333, 8},
    {"width 16, mask", 2, 2, 130, 1500, 16, true},
    {"width 32", 1, 3, 64, 128, 32},
    {"width 64, mask", 1, 2, 5, 700, 64, true},
    {"one latent, one token", 2, 2, 1, 1, 16},
    {"q per sample", 3, 2, 20, 90, 16, true, true},
    {"strided", 2, 2, 20, 1100, 16, true, false, true},
    {"large scores", 1, 2, 40, 1100, 16, true, false, false, 4, 5},
};

double tolerance_of(const std::string& rung, DType dtype, const LadderCase& c) {
  // bf16 rounds weights, z and y to 8 bits, and q times the scale to a part in 512 of scores near 80.
  if (dtype == DType::bf16) return c.q_range > 1 ? 0.15 : 2e-2;
  if (rung == "tensor-core" || rung == "split-token") return 2e-3;  // tf32: weights and z are rounded to 11 bits
  return c.q_range > 1 ? 1e-4 : 1e-5;  // scores near 80 are rounded by 4e-6, and the weights by as many parts
}

void run_case(const LadderCase& c, DType dtype, int& ran) {
  const int64_t C = c.H * c.D;
  const Tensor q = uniform_bf16(c.q_per_sample ? Shape{c.B, c.H, c.M, c.D} : Shape{c.H, c.M, c.D}, 1, c.q_range);
  const Tensor k = uniform_bf16({c.B, c.N, C}, 2, c.k_range), v = uniform_bf16({c.B, c.N, C}, 3, 1);
  Tensor mask;
  if (c.masked) {
    std::vector<uint8_t> live(static_cast<size_t>(c.B * c.N));
    for (size_t i = 0; i < live.size(); ++i) live[i] = i % 3 != 1 && i / static_cast<size_t>(c.N) != 1;  // sample 1 is padding only
    mask = Tensor::from(live, {c.B, c.N});
  }
  const double scale = 0.7;
  const NoGrad no_grad;
  const Tensor expected = flare_mixer(cast_to(q, DType::f64), cast_to(k, DType::f64), cast_to(v, DType::f64), mask, scale);
  const auto on_gpu = [&](const Tensor& x) {
    const Tensor moved = to_device(cast_to(x, dtype), Device::cuda);
    if (!c.strided) return moved;
    const Tensor wide = Tensor::full({c.B, c.N, 2 * C}, 1e30, dtype, Device::cuda);  // what lies between must not be read
    const Tensor part = wide.view({c.B, c.N, C}, {2 * c.N * C, 2 * C, 1}, C);
    copy(moved, part);
    return part;
  };
  const Tensor kd = on_gpu(k), vd = on_gpu(v), qd = to_device(q, Device::cuda), md = mask ? to_device(mask, Device::cuda) : mask;
  for (const std::string& rung : mixer_rungs()) {
    INFO(c.label, " ", dtype, " ", rung);
    const Tensor y = mixer_ladder(rung, qd, kd, vd, md, scale);
    CHECK(y.dtype() == dtype);
    const double error = relative_difference(cast_to(to_device(y, Device::cpu), DType::f64), expected);
    CHECK_MESSAGE(error <= tolerance_of(rung, dtype, c), error, " > ", tolerance_of(rung, dtype, c));
    CHECK(relative_difference(mixer_ladder(rung, qd, kd, vd, md, scale), y) == 0);
    ++ran;
  }
}

}  // namespace

TEST_CASE("every rung of the ladder against the op") {
  const auto cases = static_cast<int>(2 * std::size(kCases) * mixer_rungs().size());
  if (!cuda_available()) {
    fmt::print("ladder: 0 cases ran, {} skipped\n    no GPU on this machine\n", cases);
    return;
  }
  int ran = 0;
  for (const LadderCase& c : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) run_case(c, dtype, ran);
  CHECK(ran == cases);
  fmt::print("ladder: {} cases ran, 0 skipped\n", ran);
}

TEST_CASE("the ladder says what it does not take, and its last rung is the op") {
  const Tensor q = uniform_bf16({2, 3, 8}, 1, 1), k = uniform_bf16({1, 9, 16}, 2, 1), v = uniform_bf16({1, 9, 16}, 3, 1);
  CHECK(relative_difference(mixer_ladder("final", q, k, v, {}, 0.5), flare_mixer(q, k, v, {}, 0.5)) == 0);
  CHECK_THROWS_WITH_AS(mixer_ladder("fast", q, k, v, {}, 1),
                       "mixer_ladder: no rung \"fast\"; there are naive, tiled, tensor-core, split-token and final", ConfigError);
  CHECK_THROWS_AS(mixer_ladder("tiled", q, k, v, {}, 1), DeviceError);
  CHECK_THROWS_AS(
      mixer_ladder("tiled", uniform_bf16({1, 3, 24}, 1, 1), uniform_bf16({1, 9, 24}, 2, 1), uniform_bf16({1, 9, 24}, 3, 1), {}, 1),
      ShapeError);
  CHECK_THROWS_AS(mixer_ladder("naive", q, k, uniform_bf16({1, 8, 16}, 3, 1), {}, 1), ShapeError);
  set_requires_grad(q);
  CHECK_FALSE(requires_grad(mixer_ladder("final", q, k, v, {}, 0.5)));
}
