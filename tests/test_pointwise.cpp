#include <doctest/doctest.h>

#include <cmath>

#include "autograd/gradcheck.h"
#include "ops/pointwise.h"

using namespace flare;

TEST_CASE("activations at known points") {
  const Tensor x = Tensor::from<double>({-1, 0, 1, 2}, {4});
  const auto close = [](const Tensor& y, std::vector<double> expected) {
    for (size_t i = 0; i < expected.size(); ++i)
      CHECK(y.item(static_cast<int64_t>(i)) == doctest::Approx(expected[i]).epsilon(1e-9));
  };
  close(gelu(x), {-0.15880800939172324, 0, 0.8411919906082768, 1.9545976940877752});      // PyTorch, approximate="tanh"
  close(gelu_erf(x), {-0.15865525393145707, 0, 0.8413447460685429, 1.9544997361036416});  // PyTorch, exact
  close(silu(x), {-0.2689414213699951, 0, 0.7310585786300049, 1.7615941559557646});
  close(relu(x), {0, 0, 1, 2});
  close(elu_plus_one(x), {std::exp(-1.0), 1, 2, 3});
  close(affine(x, 2, 1), {-1, 1, 3, 5});
}

TEST_CASE("the flat side of relu and abs") {
  const Tensor x = Tensor::from<double>({-2, -0.5, 3}, {3});
  set_requires_grad(x);
  backward(relu(x) + abs(x), Tensor::from<double>({1, 1, 1}, {3}));
  CHECK(grad(x).to_vector() == std::vector<double>{-1, -1, 2});
}

TEST_CASE("elu_plus_one does not cancel where elu nears -1") {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor y = elu_plus_one(Tensor::full({1}, -30, dtype));
    CHECK(y.item() == doctest::Approx(std::exp(-30.0)).epsilon(0.01));
  }
}

TEST_CASE("NaN passes through") {
  const Tensor x = Tensor::from<float>({std::nanf("")}, {1});
  CHECK(std::isnan(relu(x).item()));
  CHECK(std::isnan(elu_plus_one(x).item()));
  CHECK(std::isnan(gelu(x).item()));
  CHECK(std::isnan(exp(x).item()));
}

TEST_CASE("mixed dtypes and shapes are refused with both named") {
  const Tensor a = Tensor::zeros({2, 3}, DType::f32), b = Tensor::zeros({2, 3}, DType::f64), c = Tensor::zeros({4}, DType::f32);
  CHECK_THROWS_WITH_AS(a + b, "add: needs two tensors of one floating dtype, got f32 and f64", ShapeError);
  CHECK_THROWS_WITH_AS(a * c, doctest::Contains("mul: shapes [2,3] and [4] do not broadcast"), ShapeError);
  CHECK_THROWS_AS(exp(Tensor::zeros({2}, DType::i64)), ShapeError);
}
