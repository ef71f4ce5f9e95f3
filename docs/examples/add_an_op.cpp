/// The examples of docs/add_an_op.md at work; tests/test_docs.cpp checks that the page quotes them word for word. What every op
/// must satisfy (derivative, CPU against CUDA, strided inputs, bf16) is not repeated here: tests/test_ops.cpp meets cumsum in the
/// registry.
#include <doctest/doctest.h>

#include <cmath>

#include "autograd/node.h"
#include "autograd/op.h"
#include "docs/examples/cumsum.h"
#include "docs/examples/softplus.h"
#include "ops/pointwise.h"

using namespace flare;

TEST_CASE("cumsum at known values") {
  const Tensor x = Tensor::from<float>({1, 2, 3, 10, 20, 30}, {2, 3});
  CHECK(cumsum(x).to_vector() == std::vector<double>{1, 3, 6, 10, 30, 60});
  CHECK(cumsum(x, true).to_vector() == std::vector<double>{6, 5, 3, 60, 50, 30});
  CHECK(cumsum(Tensor::zeros({2, 0}, DType::f32)).numel() == 0);
  CHECK_THROWS_WITH_AS(cumsum(Tensor::zeros({3}, DType::i64)), "cumsum: needs a floating dtype, got i64", ShapeError);
  CHECK_THROWS_WITH_AS(cumsum(Tensor::zeros({}, DType::f32)), "cumsum: needs at least one axis, got a scalar", ShapeError);
}

TEST_CASE("cumsum is on the tape") {
  const Tensor x = Tensor::from<double>({1, 2, 3}, {3});
  set_requires_grad(x);
  backward(cumsum(square(x)), Tensor::from<double>({1, 1, 1}, {3}));
  CHECK(grad(x).to_vector() == std::vector<double>{6, 8, 6});  // 2x · (3, 2, 1)
}

TEST_CASE("cumsum is in the registry, where tests/test_ops.cpp finds it") { CHECK(find_op("cumsum").samples().size() == 5); }

TEST_CASE("softplus and its derivative") {
  CHECK(Softplus::forward(0.0) == doctest::Approx(std::log(2.0)).epsilon(1e-12));
  CHECK(Softplus::forward(800.0) == 800);
  CHECK(Softplus::forward(-800.0) == 0);
  for (double x = Softplus::lo; x <= Softplus::hi; x += 0.25) {
    const double h = 1e-5, numeric = (Softplus::forward(x + h) - Softplus::forward(x - h)) / (2 * h);
    CHECK(Softplus::derivative(x, Softplus::forward(x)) == doctest::Approx(numeric).epsilon(1e-8));
  }
}
