#include <doctest/doctest.h>

#include "autograd/gradcheck.h"
#include "ops/cast.h"
#include "ops/norm.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shaping.h"
#include "tests/tensor_fixtures.h"

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

TEST_CASE("autograd: a norm adds its gradient to what came past it, whoever was first") {
  const Tensor w = uniform({6}, DType::f64, 1), b = uniform({6}, DType::f64, 2), gy = uniform({5, 6}, DType::f64, 3);
  const auto gradient = [&](auto function) {
    const Tensor x = uniform({5, 6}, DType::f64, 4);
    set_requires_grad(x);
    backward(function(affine(x, 2, 0)), gy);
    return grad(x).to_vector();
  };
  const auto norm = [&](const Tensor& h) { return layer_norm(h, w, b, 1e-5); };
  const std::vector<double> through = gradient(norm), past = gradient([](const Tensor&h) { return square(h); });
  const std::vector<double> norm_first = gradient([&](const Tensor& h) {
    const Tensor y = norm(h);
    return y + square(h);
  });
  const std::vector<double> norm_last = gradient([&](const Tensor& h) {
    const Tensor s = square(h);
    return s + norm(h);
  });
  for (size_t i = 0; i < through.size(); ++i) {
    CHECK(norm_first[i] == doctest::Approx(through[i] + past[i]).epsilon(1e-12));
    CHECK(norm_last[i] == doctest::Approx(through[i] + past[i]).epsilon(1e-12));
  }
}

TEST_CASE("autograd: slices add to their parts of one gradient, and leave alone what others hold") {
  const Tensor gy = uniform({3, 4}, DType::f64, 5);
  const auto gradient = [&](auto function) {
    const Tensor x = uniform({3, 7}, DType::f64, 6);
    set_requires_grad(x);
    backward(function(affine(x, 1, 0)), gy);
    return grad(x).to_vector();
  };
  const auto part = [](const Tensor& h, int64_t start) { return square(slice(h, 1, start, 4)); };
  std::vector<double> expected(21, 0);
  for (const int64_t start : {0, 3, 2}) {  // they overlap
    const std::vector<double> one = gradient([&](const Tensor& h) { return part(h, start); });
    for (size_t i = 0; i < one.size(); ++i) expected[i] += one[i];
  }
  const std::vector<double> all = gradient([&](const Tensor& h) { return part(h, 0) + part(h, 3) + part(h, 2); });
  for (size_t i = 0; i < all.size(); ++i) CHECK(all[i] == doctest::Approx(expected[i]).epsilon(1e-12));

  // The cotangent of h + 0 goes to h as it is; a slice that wrote into it would change what `kept` collects.
  const Tensor x = uniform({3, 7}, DType::f64, 7), kept = uniform({3, 7}, DType::f64, 8), g = uniform({3, 7}, DType::f64, 9);
  set_requires_grad(x);
  set_requires_grad(kept);
  const Tensor h = affine(x, 1, 0), left = slice(h, 1, 0, 4);
  const Tensor y = (h + kept) + pad_zero(left, 1, 0, 3);
  backward(y, g);
  CHECK(grad(kept).to_vector() == g.to_vector());
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 7; ++c) CHECK(grad(x).item(r * 7 + c) == doctest::Approx((c < 4 ? 2 : 1) * g.item(r * 7 + c)));
}
