/// The mixer's tensor-core kernels at the sizes and values that break kernels: long and odd N, few or many latents, scores of +-80,
/// poisoned memory. Each error is held against that of the plain composition in the same precision. Without a GPU nothing runs
/// here; what is skipped is printed.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "autograd/node.h"
#include "core/gemm.h"
#include "ops/cast.h"
#include "ops/flare_mixer.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"
#include "ops/softmax.h"
#include "tests/tensor_fixtures.h"

using namespace flare;

namespace {

struct MixerCase {
  const char* label;
  int64_t B, H, M, N, D;
  double q_range = 1, k_range = 1;
  bool masked = false, q_per_sample = false;
};

struct Inputs5 {
  Tensor q, k, v, g, mask;
};
/// Numbers that `dtype` holds exactly.
Inputs5 inputs_of(const MixerCase& c, DType dtype) {
  const int64_t C = c.H * c.D;
  const auto random = [&](const Shape& shape, uint64_t seed, double range) {
    return dtype == DType::bf16 ? uniform_bf16(shape, seed, range) : uniform(shape, DType::f32, seed, range);
  };
  Inputs5 in{random(c.q_per_sample ? Shape{c.B, c.H, c.M, c.D} : Shape{c.H, c.M, c.D}, 1, c.q_range),
             random({c.B, c.N, C}, 2, c.k_range),
             random({c.B, c.N, C}, 3, 1),
             random({c.B, c.N, C}, 4, 1),
             {}};
  if (c.masked) {
    std::vector<uint8_t> live(static_cast<size_t>(c.B * c.N));
    for (size_t i = 0; i < live.size(); ++i) live[i] = i % 3 != 1 && (c.B == 1 || i / static_cast<size_t>(c.N) != 1);
    in.mask = Tensor::from(live, {c.B, c.N});
  }
  return in;
}

/// The composition with explicit weights, every op in the dtype of k.
Tensor plain(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const MixerCase& c) {
  const DType t = k.dtype();
  const auto heads = [&](const Tensor& x) { return transpose(reshape(x, {c.B, c.N, c.H, c.D}), 1, 2); };
  Tensor latents = cast(q, t);
  if (!c.q_per_sample) latents = expand(reshape(latents, {1, c.H, c.M, c.D}), {c.B, c.H, c.M, c.D});
  const Tensor scores = matmul(latents, heads(k), false, true);
  const Tensor live = mask ? cast_to(mask, t) : Tensor();
  const Tensor encode = softmax(mask ? scores + affine(live.viewed_as({c.B, 1, 1, c.N}), 1e30, -1e30) : scores, 3);
  const Tensor y = reshape(transpose(matmul(softmax(scores, 2), matmul(encode, heads(v)), true, false), 1, 2), k.shape());
  return mask ? y * live.viewed_as({c.B, c.N, 1}) : y;
}

/// y, dq, dk, dv on the CPU in f64.
using Results = std::vector<Tensor>;
template <class F> Results run(const Inputs5& in, DType dtype, Device device, const F& mixer) {
  const auto given = [&](const Tensor& x, DType t) {
    const Tensor moved = to_device(cast_to(x, t), device).detach();
    set_requires_grad(moved);
    return moved;
  };
  const Tensor q = given(in.q, param_dtype(dtype)), k = given(in.k, dtype), v = given(in.v, dtype);
  const Tensor mask = in.mask ? to_device(in.mask, device) : Tensor();
  const Tensor y = mixer(q, k, v, mask);
  backward(y, to_device(cast_to(in.g, dtype), device));
  Results r{y, grad(q), grad(k), grad(v)};
  for (Tensor& x : r) x = cast_to(to_device(x.detach(), Device::cpu), DType::f64);
  return r;
}
double error_of(const Tensor& x, const Tensor& expected) {
  double squares = 0, size = 0;
  for (int64_t i = 0; i < x.numel(); ++i) {
    const double a = x.data<double>()[i], b = expected.data<double>()[i];
    if (!std::isfinite(a)) return std::numeric_limits<double>::infinity();
    squares += (a - b) * (a - b), size += b * b;
  }
  return size > 0 ? std::sqrt(squares / size) : std::sqrt(squares);
}
bool same_bits(const Results& a, const Results& b) {
  for (size_t i = 0; i < a.size(); ++i)
    if (std::memcmp(a[i].data<double>(), b[i].data<double>(), static_cast<size_t>(a[i].bytes())) != 0) return false;
  return true;
}
/// Leaves NaN in memory that the allocator hands out next.
void poison(int64_t bytes) {
  std::vector<Tensor> blocks;
  for (int i = 0; i < 8; ++i)
    blocks.push_back(Tensor::full({bytes / 4}, std::numeric_limits<double>::quiet_NaN(), DType::f32, Device::cuda));
}
auto fused() {
  return [](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) { return flare_mixer(q, k, v, mask, 1.0); };
}

const MixerCase kCases[] = {
    {"width 16", 2, 2, 128, 1000, 16},
    {"width 8, mask", 2, 2, 64, 1500, 8, 1, 1, true},
    {"width 24, odd sizes", 2, 2, 33, 401, 24},
    {"width 32, many latents", 1, 2, 256, 700, 32},
    {"width 64", 1, 2, 200, 500, 64, 0.5, 1},
    {"more latents than a block takes", 1, 1, 700, 300, 16},
    {"2048 latents", 1, 1, 2048, 150, 16},
    {"one latent", 2, 2, 1, 100, 16},
    {"q per sample, mask", 3, 2, 40, 333, 16, 1, 1, true, true},
    {"scores of +-80", 1, 2, 100, 900, 16, 8, 4},
    {"scores of +-80, mask", 2, 2, 70, 700, 24, 5, 4, true},
    {"safe and large scores in one head", 1, 1, 64, 3000, 16, 4, 3},
    {"long enough for blocks of all warps", 1, 2, 70, 9001, 16},
    {"the same, width 32", 1, 2, 150, 9001, 32},
};

const char* const kNames[] = {"y", "dq", "dk", "dv"};
/// Errors of both against f64. Those of the plain composition are at least a few units in the last place: one that is exact by luck
/// sets no bar.
struct Comparison {
  double ours[4], plain[4];
  bool repeats;
};
Comparison compare_with_plain(const MixerCase& c, DType dtype) {
  const Inputs5 in = inputs_of(c, dtype);
  const Results exact = run(in, DType::f64, Device::cpu, fused());
  const Results base = run(in, dtype, Device::cuda, [&](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
    return plain(q, k, v, mask, c);
  });
  poison(int64_t{4} << 20);
  const Results first = run(in, dtype, Device::cuda, fused());
  poison(int64_t{4} << 20);
  Comparison r{};
  r.repeats = same_bits(first, run(in, dtype, Device::cuda, fused()));
  for (size_t i = 0; i < 4; ++i) {
    r.ours[i] = error_of(first[i], exact[i]);
    r.plain[i] = std::max(error_of(base[i], exact[i]), dtype == DType::bf16 ? 2e-3 : 2.5e-7);
  }
  return r;
}

}  // namespace

TEST_CASE("mixer on the GPU: error at most twice that of the plain composition in the same precision, bit for bit repeatable") {
  if (!cuda_available()) {
    fmt::print("test_mixer: {} cases in 2 precisions skipped: no GPU\n", std::size(kCases));
    return;
  }
  for (const MixerCase& c : kCases)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Comparison r = compare_with_plain(c, dtype);
      CHECK_MESSAGE(r.repeats, std::string(c.label), " ", std::string(name_of(dtype)), ": bits differ between runs");
      for (size_t i = 0; i < 4; ++i)
        CHECK_MESSAGE(r.ours[i] <= 2 * r.plain[i], std::string(c.label), " ", std::string(name_of(dtype)), " ",
                      std::string(kNames[i]), ": error ", r.ours[i], ", plain ", r.plain[i]);
    }
}

// Padding has score 0. Where every real score of a latent lies below -88, its weight there is beyond f32, and must not reach dq.
TEST_CASE("mixer on the GPU: scores all far below 0, beside padding") {
  if (!cuda_available()) return;
  for (const int64_t D : {16, 64})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const MixerCase c{"far below 0", 2, 2, 40, 333, D, 0.05, 0.05, true};
      Inputs5 in = inputs_of(c, dtype);
      const double side = std::sqrt(120.0 / static_cast<double>(D));  // q.k is about -120
      in.q = cast_to(affine(cast_to(in.q, DType::f32), 1, -side), dtype);
      in.k = cast_to(affine(cast_to(in.k, DType::f32), 1, side), dtype);
      const Results exact = run(in, DType::f64, Device::cpu, fused()), ours = run(in, dtype, Device::cuda, fused());
      for (size_t i = 0; i < 4; ++i) {
        const std::vector<double> values = ours[i].to_vector();
        const auto n_bad = std::count_if(values.begin(), values.end(), [](double x) { return !std::isfinite(x); });
        CHECK_MESSAGE(n_bad == 0, "D ", D, ", ", std::string(name_of(dtype)), ": ", n_bad, " of ", values.size(), " values of ",
                      std::string(kNames[i]), " are not finite");
      }
      if (dtype == DType::f32) CHECK(error_of(ours[0], exact[0]) < 1e-2);
    }
}

// From operands of 8 bits the plain composition gets its scores without rounding, and ours, which take log2(e) into q, do not.
TEST_CASE("mixer on the GPU: scores of +-80 from operands of few bits have errors below 6e-6") {
  if (!cuda_available()) return;
  for (const MixerCase& c : kCases) {
    if (c.q_range <= 1) continue;
    const Inputs5 in = inputs_of(c, DType::bf16);
    const Results exact = run(in, DType::f64, Device::cpu, fused()), ours = run(in, DType::f32, Device::cuda, fused());
    for (size_t i = 0; i < 4; ++i)
      CHECK_MESSAGE(error_of(ours[i], exact[i]) < 6e-6, std::string(c.label), " ", std::string(kNames[i]));
  }
}

TEST_CASE("mixer on the GPU: a million and three tokens") {
  if (!cuda_available()) return;
  const MixerCase c{"1000003 tokens", 1, 2, 8, 1000003, 8};
  const Inputs5 in = inputs_of(c, DType::bf16);
  const Results exact = run(in, DType::f64, Device::cpu, fused());
  for (const DType dtype : {DType::f32, DType::bf16}) {
    poison(int64_t{64} << 20);
    const Results r = run(in, dtype, Device::cuda, fused());
    for (size_t i = 0; i < r.size(); ++i) CHECK(error_of(r[i], exact[i]) < (dtype == DType::f32 ? 1e-5 : 1.5e-2));
  }
}

TEST_CASE("mixer on the GPU: one token passes its value on, and q and k learn nothing") {
  if (!cuda_available()) return;
  const MixerCase c{"one token", 2, 2, 128, 1, 16};
  const Inputs5 in = inputs_of(c, DType::bf16);
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Results r = run(in, dtype, Device::cuda, fused());
    const double unit = dtype == DType::f32 ? 1e-6 : 1e-2;
    CHECK(error_of(r[0], cast_to(in.v, DType::f64)) < unit);
    CHECK(error_of(r[3], cast_to(in.g, DType::f64)) < unit);
    for (const size_t i : {1, 2})
      for (int64_t e = 0; e < r[i].numel(); ++e) CHECK(std::abs(r[i].data<double>()[e]) < 20 * unit);
  }
}

TEST_CASE("mixer on the GPU: tf32 is near f32, and off when switched off") {
  if (!cuda_available()) return;
  const MixerCase c{"tf32", 2, 2, 100, 900, 16};
  const Inputs5 in = inputs_of(c, DType::bf16);
  const Results exact = run(in, DType::f64, Device::cpu, fused());
  set_tf32(true);
  const Results coarse = run(in, DType::f32, Device::cuda, fused());
  set_tf32(false);
  const Results fine = run(in, DType::f32, Device::cuda, fused());
  for (size_t i = 0; i < exact.size(); ++i) {
    CHECK(error_of(coarse[i], exact[i]) < 3e-3);
    CHECK(error_of(fine[i], exact[i]) < 1e-5);
    CHECK(error_of(coarse[i], exact[i]) > 3 * error_of(fine[i], exact[i]));
  }
}

TEST_CASE("mixer on the GPU: rows that are not whole 16-byte units take the plain kernels") {
  if (!cuda_available()) return;
  const MixerCase c{"width 4", 2, 2, 10, 333, 4};
  const Inputs5 in = inputs_of(c, DType::bf16);
  const Results exact = run(in, DType::f64, Device::cpu, fused());
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Results r = run(in, dtype, Device::cuda, fused());
    for (size_t i = 0; i < r.size(); ++i) CHECK(error_of(r[i], exact[i]) < (dtype == DType::f32 ? 1e-5 : 2e-2));
  }
}
