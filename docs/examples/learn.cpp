/// The examples of docs/learn at work; tests/test_docs.cpp checks that the pages quote them word for word, and
/// tests/test_docs_learn.cpp that the numbers on the pages are what these computations give.
#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "autograd/node.h"
#include "core/allocator.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shaping.h"
#include "ops/softmax.h"

using namespace flare;

TEST_CASE("learn: a view shares its storage") {
  const Tensor x = Tensor::from<float>({0, 1, 2, 3, 4, 5}, {2, 3});
  const Tensor t = transpose(x, 0, 1);
  CHECK(t.shape() == Shape{3, 2});
  CHECK(t.strides() == Shape{1, 3});
  CHECK(t.same_storage(x));
  CHECK_FALSE(t.is_contiguous());
  fill(x, 7);  // writes to the storage, so the view sees it
  CHECK(t.to_vector() == std::vector<double>{7, 7, 7, 7, 7, 7});
}

TEST_CASE("learn: stride 0 repeats") {
  const Tensor bias = Tensor::from<float>({10, 20, 30}, {3});
  const Tensor rows = expand(bias, {2, 3});
  CHECK(rows.strides() == Shape{0, 1});
  CHECK(rows.to_vector() == std::vector<double>{10, 20, 30, 10, 20, 30});
  CHECK(rows.storage()->bytes == 3 * 4);
}

TEST_CASE("learn: a freed block comes back") {
  const auto address = [] { return Tensor::empty({1000003}, DType::u8).raw(); };
  const void* first = address();
  CHECK(address() == first);
}

TEST_CASE("learn: the tape of y = x² + x") {
  const Tensor x = Tensor::from<double>({3}, {1});
  set_requires_grad(x);
  const Tensor y = square(x) + x;
  const Node& add = *y.tape()->producer;
  CHECK(std::string(add.name) == "add");
  CHECK(std::string(add.inputs[0]->producer->name) == "square");
  CHECK(add.inputs[1] == x.tape());  // x is a leaf: nothing produced it
  CHECK(add.order > add.inputs[0]->producer->order);
  backward(y);
  CHECK(grad(x).item() == 7);  // 2x + 1: both paths added up
}

TEST_CASE("learn: gradients accumulate until they are cleared") {
  const Tensor x = Tensor::from<double>({3}, {1});
  set_requires_grad(x);
  backward(square(x));
  backward(square(x));
  CHECK(grad(x).item() == 12);
  clear_grad(x);
  CHECK_FALSE(grad(x).defined());
}

TEST_CASE("learn: nothing is recorded under NoGrad") {
  const Tensor x = Tensor::from<double>({3}, {1});
  set_requires_grad(x);
  const NoGrad no_grad;
  CHECK_FALSE(requires_grad(square(x)));
}

TEST_CASE("learn: a saved tensor that was overwritten is noticed") {
  const Tensor x = Tensor::from<double>({3}, {1});
  set_requires_grad(x);
  const Tensor y = square(x);  // keeps x: its derivative is 2x
  fill(x, 100);
  CHECK_THROWS_AS(backward(y), ShapeError);
}

TEST_CASE("learn: a deep tape needs no deep stack") {
  const Tensor x = Tensor::from<double>({1}, {1});
  set_requires_grad(x);
  Tensor y = x;
  for (int i = 0; i < 200000; ++i) y = y + 0.0;
  backward(y);
  CHECK(grad(x).item() == 1);
}

TEST_CASE("learn: summing the output hides a wrong derivative of softmax") {
  // The softmax of a row sums to 1 whatever x is, so the gradient of the sum is 0, and so is twice the gradient.
  const Tensor x = Tensor::from<double>({0.3, -0.2, 0.9}, {1, 3});
  set_requires_grad(x);
  backward(sum(softmax(x), 1));
  for (const double g : grad(x).to_vector()) CHECK(std::abs(g) < 1e-15);
}
