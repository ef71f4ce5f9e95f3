/// Hand values of the losses, and what they say to labels and shapes that cannot be; derivatives and CUDA are in test_ops.cpp.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/gradcheck.h"
#include "ops/loss.h"

using namespace flare;

namespace {
std::vector<Device> devices() { return cuda_available() ? std::vector{Device::cpu, Device::cuda} : std::vector{Device::cpu}; }
}  // namespace

TEST_CASE("cross-entropy against hand values") {
  for (Device device : devices()) {
    const float a = std::log(2.0f);
    const Tensor logits = to_device(Tensor::from<float>({0, a, 0, 1000, 0, 0}, {2, 3}), device);
    const Tensor labels = to_device(Tensor::from<int64_t>({1, 0}, {2}), device);
    set_requires_grad(logits);
    const Tensor loss = cross_entropy(logits, labels);
    CHECK(loss.shape() == Shape{});
    CHECK(loss.item() == doctest::Approx(std::log(2.0) / 2).epsilon(1e-6));  // rows: -log(2/4) and 0
    backward(loss);
    const std::vector<double> g = grad(logits).to_vector(), expected{0.125, -0.25, 0.125, 0, 0, 0};
    for (size_t i = 0; i < g.size(); ++i) CHECK(g[i] == doctest::Approx(expected[i]).epsilon(1e-5));
    const Tensor low = cross_entropy(cast_to(logits.detach(), DType::bf16), labels);
    CHECK(low.dtype() == DType::f32);
    CHECK(low.item() == doctest::Approx(std::log(2.0) / 2).epsilon(1e-2));
    const Tensor uniform = cross_entropy(Tensor::zeros({5, 10}, DType::f32, device), Tensor::zeros({5}, DType::i64, device));
    CHECK(uniform.item() == doctest::Approx(std::log(10.0)).epsilon(1e-6));
  }
}

TEST_CASE("labels out of range") {
  const Tensor logits = Tensor::zeros({2, 3}, DType::f32);
  for (int64_t bad : {int64_t{3}, int64_t{-1}, int64_t{1} << 40}) {
    const Tensor labels = Tensor::from<int64_t>({0, bad}, {2});
    CHECK_THROWS_WITH_AS(cross_entropy(logits, labels), doctest::Contains(cat("label ", bad, " of sample 1").c_str()), DataError);
    CHECK_THROWS_AS(bce_with_logits(Tensor::zeros({2}, DType::f32), labels), DataError);
    CHECK(correct_count(logits, labels).item() == 1);
    if (!cuda_available()) continue;
    const Tensor x = to_device(logits, Device::cuda), y = to_device(labels, Device::cuda);
    set_requires_grad(x);
    const Tensor loss = cross_entropy(x, y);
    CHECK(loss.item() == doctest::Approx(std::log(3.0) / 2).epsilon(1e-6));
    backward(loss);
    CHECK(grad(x).to_vector()[3] == 0);
    CHECK(bce_with_logits(Tensor::zeros({2}, DType::f32, Device::cuda), y).item() ==
          doctest::Approx(std::log(2.0) / 2).epsilon(1e-6));
  }
}

TEST_CASE("losses name the shapes they cannot take") {
  const Tensor x = Tensor::zeros({4, 3}, DType::f32), y = Tensor::zeros({4}, DType::i64);
  CHECK_THROWS_WITH_AS(cross_entropy(x, Tensor::zeros({3}, DType::i64)), doctest::Contains("labels must be i64 [4], got i64 [3]"),
                       ShapeError);
  CHECK_THROWS_WITH_AS(cross_entropy(x, Tensor::zeros({4}, DType::f32)), doctest::Contains("got f32"), ShapeError);
  CHECK_THROWS_AS(cross_entropy(Tensor::zeros({4}, DType::f32), y), ShapeError);
  CHECK_THROWS_AS(cross_entropy(Tensor::zeros({0, 3}, DType::f32), Tensor::zeros({0}, DType::i64)), ShapeError);
  CHECK_THROWS_WITH_AS(bce_with_logits(x, y), doctest::Contains("[4,3]"), ShapeError);
  CHECK_THROWS_WITH_AS(mse(x, Tensor::zeros({3, 4}, DType::f32)), doctest::Contains("[4,3] and target f32 [3,4]"), ShapeError);
  CHECK_THROWS_AS(relative_l2(x, x, Tensor::zeros({4, 2}, DType::u8)), ShapeError);
  CHECK_THROWS_AS(relative_l2(x, x, Tensor::zeros({4, 3}, DType::f32)), ShapeError);
  CHECK_THROWS_AS(correct_count(x, Tensor::zeros({3}, DType::i64)), ShapeError);
}

TEST_CASE("binary cross-entropy against hand values, also far from zero") {
  for (Device device : devices()) {
    const Tensor x = to_device(Tensor::from<float>({0, 200, -200, 200}, {4, 1}), device);
    const Tensor y = to_device(Tensor::from<int64_t>({1, 1, 0, 0}, {4}), device);
    set_requires_grad(x);
    const Tensor loss = bce_with_logits(x, y);
    CHECK(loss.item() == doctest::Approx((std::log(2.0) + 200) / 4).epsilon(1e-6));
    backward(loss);
    const std::vector<double> g = grad(x).to_vector(), expected{-0.125, 0, 0, 0.25};
    CHECK(grad(x).shape() == Shape{4, 1});
    for (size_t i = 0; i < 4; ++i) CHECK(g[i] == doctest::Approx(expected[i]).epsilon(1e-6));
  }
}

TEST_CASE("mean squared error and relative L2 against hand values") {
  for (Device device : devices()) {
    const Tensor p = to_device(Tensor::from<float>({1, 2, 3, 4, 3, 8}, {2, 3}), device);
    const Tensor t = to_device(Tensor::from<float>({1, 2, 5, 4, 0, 4}, {2, 3}), device);
    CHECK(mse(p, t).item() == doctest::Approx((4 + 9 + 16) / 6.0).epsilon(1e-6));
    CHECK(relative_l2(p, t).item() == doctest::Approx((2 / std::sqrt(30.0) + 5 / std::sqrt(32.0)) / 2).epsilon(1e-6));
    const Tensor mask = to_device(Tensor::from<uint8_t>({1, 1, 0, 0, 1, 1}, {2, 3}), device);
    CHECK(relative_l2(p, t, mask).item() == doctest::Approx((0 + 5 / 4.0) / 2).epsilon(1e-6));
    // bf16 predictions meet f32 targets in f32.
    const Tensor low = cast_to(p, DType::bf16);
    set_requires_grad(low);
    const Tensor loss = mse(low, t);
    CHECK(loss.dtype() == DType::f32);
    CHECK(loss.item() == doctest::Approx(29 / 6.0).epsilon(1e-6));
    backward(loss);
    CHECK(grad(low).dtype() == DType::bf16);
    CHECK(grad(low).item(5) == doctest::Approx(4 / 3.0).epsilon(1e-2));
  }
}

TEST_CASE("relative L2 stays finite where its ratio is not defined") {
  for (Device device : devices()) {
    // Sample 0 is exact, sample 1 has a zero target, sample 2 is off by a quarter.
    const Tensor p = to_device(Tensor::from<float>({3, 4, 1, 1, 5, 0}, {3, 2}), device);
    const Tensor t = to_device(Tensor::from<float>({3, 4, 0, 0, 4, 0}, {3, 2}), device);
    set_requires_grad(p);
    set_requires_grad(t);
    const Tensor loss = relative_l2(p, t);
    CHECK(loss.item() == doctest::Approx(0.25 / 3).epsilon(1e-6));
    backward(loss);
    const std::vector<double> gp = grad(p).to_vector(), gt = grad(t).to_vector();
    for (size_t i = 0; i < 4; ++i) {
      CHECK(gp[i] == 0);
      CHECK(gt[i] == 0);
    }
    CHECK(gp[4] == doctest::Approx(0.25 / 3).epsilon(1e-6));
    CHECK(gt[4] == doctest::Approx(-(0.25 + 0.0625) / 3).epsilon(1e-6));
  }
}

TEST_CASE("counting correct answers") {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (Device device : devices()) {
    const Tensor x = to_device(Tensor::from<float>({0, 2, 1, 3, 3, 0, nan, nan, nan, -5, -4, nan}, {4, 3}), device);
    CHECK(correct_count(x, to_device(Tensor::from<int64_t>({1, 0, 0, 1}, {4}), device)).item() == 3);
    CHECK(correct_count(x, to_device(Tensor::from<int64_t>({2, 1, 2, 2}, {4}), device)).item() == 0);
    const Tensor one = to_device(Tensor::from<float>({0.5, -0.5, 0, nan}, {4, 1}), device);
    CHECK(correct_count(one, to_device(Tensor::from<int64_t>({1, 0, 0, 0}, {4}), device)).item() == 3);
    CHECK(correct_count(one, to_device(Tensor::from<int64_t>({0, 1, 1, 1}, {4}), device)).dtype() == DType::i64);
    CHECK(correct_count(one, to_device(Tensor::from<int64_t>({0, 1, 1, 1}, {4}), device)).item() == 0);
  }
  const Tensor x = Tensor::zeros({2, 3}, DType::f32);
  set_requires_grad(x);
  CHECK_THROWS_WITH_AS(backward(correct_count(x, Tensor::zeros({2}, DType::i64))), doctest::Contains("correct_count"), ShapeError);
}
