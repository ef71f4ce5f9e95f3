#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "ops/cast.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shaping.h"

using namespace flare;

namespace {
Tensor leaf(const std::vector<double>& v) {
  const Tensor x = Tensor::from(v, {static_cast<int64_t>(v.size())});
  set_requires_grad(x);
  return x;
}
}  // namespace

TEST_CASE("gradients of a shared input add up") {
  const Tensor x = leaf({2, 3});
  backward(sum_all(x * x + x));
  CHECK(grad(x).to_vector() == std::vector<double>{5, 7});
  backward(sum_all(x));  // accumulation over calls
  CHECK(grad(x).to_vector() == std::vector<double>{6, 8});
  clear_grad(x);
  CHECK_FALSE(grad(x).defined());
}

TEST_CASE("one cotangent handed to two leaves stays two gradients") {
  const Tensor x = leaf({1, 1}), y = leaf({2, 2});
  backward(x + y, Tensor::from<double>({3, 4}, {2}));
  backward(sum_all(x));
  CHECK(grad(x).to_vector() == std::vector<double>{4, 5});
  CHECK(grad(y).to_vector() == std::vector<double>{3, 4});
}

TEST_CASE("a gradient keeps nobody else's bytes") {
  const Tensor x = leaf({1, 2, 3, 4}), g = Tensor::from<double>({5, 6, 7, 8}, {2, 2});
  backward(reshape(x, {2, 2}), g);  // the gradient of x views g
  fill(g, 0);
  CHECK(grad(x).to_vector() == std::vector<double>{5, 6, 7, 8});
  const Tensor y = leaf({1, 2}), h = Tensor::from<double>({3, 4}, {2});
  backward(y, h);
  fill(h, 0);
  CHECK(grad(y).to_vector() == std::vector<double>{3, 4});
}

TEST_CASE("no gradient is recorded without need") {
  const Tensor x = leaf({1});
  {
    const NoGrad no_grad;
    CHECK_FALSE(requires_grad(x * x));
  }
  CHECK(requires_grad(x * x));
  CHECK_FALSE(requires_grad((x * x).detach()));
  const Tensor plain = Tensor::from<double>({1}, {1});
  CHECK_FALSE(requires_grad(plain * plain));
}

TEST_CASE("misuse is named") {
  const Tensor x = leaf({1, 2});
  const Tensor y = sum_all(exp(x));
  backward(y);
  CHECK_THROWS_WITH_AS(backward(y), doctest::Contains("was freed by an earlier backward"), ShapeError);
  const Tensor kept = sum_all(exp(x));
  backward(kept, {}, true);
  CHECK_NOTHROW(backward(kept));
  CHECK_THROWS_WITH_AS(backward(exp(x)), doctest::Contains("needs a cotangent"), ShapeError);
  CHECK_THROWS_WITH_AS(backward(Tensor::from<double>({1}, {1})), doctest::Contains("requires a gradient"), ShapeError);
  const Tensor w = x * 1.0;
  const Tensor z = sum_all(w * w);
  fill(w, 3);
  CHECK_THROWS_WITH_AS(backward(z), doctest::Contains("written to in place"), ShapeError);
  CHECK_THROWS_AS(set_requires_grad(Tensor::from<int64_t>({1}, {1})), ShapeError);
  CHECK_THROWS_AS(set_requires_grad(exp(x)), ShapeError);
  CHECK_THROWS_WITH_AS(backward(x + x, Tensor::from<double>({1}, {1})), doctest::Contains("cotangent [1]"), ShapeError);
}

TEST_CASE("depth is no limit, for backward and for dropping a graph") {
  const Tensor x = leaf({1});
  Tensor y = x;
  for (int i = 0; i < 200000; ++i) y = affine(y, 1, 0);
  backward(y);
  CHECK(grad(x).item() == 1);
  Tensor z = x;
  for (int i = 0; i < 200000; ++i) z = affine(z, 1, 0);
  z = Tensor();
}

TEST_CASE("gradients of views reach their base") {
  const Tensor x = leaf({1, 2, 3});
  const auto f = [](const std::vector<Tensor>& in) { return mul(in[0], exp(in[0])) / (square(in[0]) + 1.0); };
  const GradcheckResult r = gradcheck(f, {x.detach()}, {true});
  CHECK(r.ok);
  CHECK(r.worst < 1e-8);
}

TEST_CASE("an observer sees each op") {
  std::vector<std::string> seen;
  op_observer() = [&](const char* op, std::span<const Tensor>) { seen.push_back(ScopeName::current() + ":" + op); };
  {
    const ScopeName outer("blocks.0"), inner("att");
    (void)exp(leaf({1}));
  }
  op_observer() = nullptr;
  CHECK(seen == std::vector<std::string>{"blocks.0.att:exp"});
}

TEST_CASE("cast passes the cotangent back in the input's dtype") {
  const Tensor x = Tensor::from<float>({1.5f, -2.25f}, {2});
  set_requires_grad(x);
  const Tensor y = cast(x, DType::bf16);
  CHECK(y.dtype() == DType::bf16);
  backward(y, Tensor::from<float>({0.5f, 4.0f}, {2}));
  CHECK(grad(x).dtype() == DType::f32);
  CHECK(grad(x).to_vector() == std::vector<double>{0.5, 4});
}
