/// Closed forms of the reductions, softmax, norms, pooling, embedding and dropout; derivatives and CUDA are in test_ops.cpp.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/gradcheck.h"
#include "ops/dropout.h"
#include "ops/embedding.h"
#include "ops/norm.h"
#include "ops/pool.h"
#include "ops/reduce.h"
#include "ops/softmax.h"

using namespace flare;

namespace {

Tensor random_tensor(const Shape& shape, DType dtype, uint64_t seed, double lo = -1, double hi = 1) {
  const Sample s{"", {{.shape = shape, .lo = lo, .hi = hi}}, {}};
  return make_inputs(s, dtype, seed)[0];
}
Tensor counting(const Shape& shape) {
  std::vector<double> v(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < v.size(); ++i) v[i] = static_cast<double>(i);
  return Tensor::from(v, shape);
}
std::vector<Device> devices() { return cuda_available() ? std::vector{Device::cpu, Device::cuda} : std::vector{Device::cpu}; }
const double kNan = std::numeric_limits<double>::quiet_NaN();

}  // namespace

TEST_CASE("sum, mean and max over each axis") {
  const Tensor x = counting({2, 3});
  CHECK(sum(x, 0).to_vector() == std::vector<double>{3, 5, 7});
  CHECK(sum(x, -1).to_vector() == std::vector<double>{3, 12});
  CHECK(sum(x, 1, true).shape() == Shape{2, 1});
  CHECK(mean(x, 0).to_vector() == std::vector<double>{1.5, 2.5, 3.5});
  CHECK(max(x, 1).to_vector() == std::vector<double>{2, 5});
  CHECK(max(x, 0, true).shape() == Shape{1, 3});
  CHECK(sum_all(x).item() == 15);
  CHECK(mean_all(x).item() == 2.5);
  CHECK(sum_all(x).shape() == Shape{});
  CHECK(sum(Tensor::zeros({2, 0}, DType::f32), 1).to_vector() == std::vector<double>{0, 0});
  CHECK_THROWS_WITH_AS(sum(x, 2), doctest::Contains("axis 2"), ShapeError);
  CHECK_THROWS_AS(mean(Tensor::zeros({2, 0}, DType::f32), 1), ShapeError);
  CHECK_THROWS_AS(max(Tensor::zeros({2, 0}, DType::f32), 1), ShapeError);
  CHECK_THROWS_WITH_AS(sum(Tensor::zeros({2}, DType::i64), 0), doctest::Contains("i64"), ShapeError);
}

TEST_CASE("sum_to undoes broadcasting") {
  const Tensor x = counting({2, 3, 2});
  CHECK(sum_to(x, {2}).to_vector() == std::vector<double>{30, 36});
  CHECK(sum_to(x, {3, 1}).to_vector() == std::vector<double>{14, 22, 30});
  CHECK(sum_to(x, {1, 1}).shape() == Shape{1, 1});
  CHECK(sum_to(x, {}).item() == 66);
  CHECK(sum_to(x, {2, 1, 2}).to_vector() == std::vector<double>{6, 9, 24, 27});
  CHECK(sum_to(x, {2, 3, 2}).same_storage(x));
  CHECK_THROWS_AS(sum_to(x, {3}), ShapeError);
  CHECK_THROWS_AS(sum_to(x, {1, 2, 3, 2}), ShapeError);
}

TEST_CASE("long sums keep their precision in f32 and bf16") {
  for (Device device : devices()) {
    for (const Shape& shape : {Shape{1, 300000}, Shape{300000, 1}, Shape{100000, 3}}) {
      const Tensor x = Tensor::full(shape, 0.1, DType::f32, device);
      const double expected = static_cast<double>(x.numel()) * static_cast<double>(0.1f);
      CHECK(sum_all(x).item() == doctest::Approx(expected).epsilon(3e-6));
      CHECK(sum_all(sum(x, 0)).item() == doctest::Approx(expected).epsilon(3e-6));
    }
    // 4096 ones in bf16 would stick at 256 if they were added in bf16.
    CHECK(sum_all(Tensor::full({4096}, 1, DType::bf16, device)).item() == 4096);
  }
}

TEST_CASE("the gradient of max goes to the first maximal element, and NaN wins") {
  for (Device device : devices()) {
    const Tensor x = to_device(Tensor::from<float>({1, 5, 5, 2, 7, 7, 0, 7}, {2, 4}), device);
    set_requires_grad(x);
    backward(sum_all(max(x, 1)));
    CHECK(grad(x).to_vector() == std::vector<double>{0, 1, 0, 0, 1, 0, 0, 0});
    const Tensor y = to_device(Tensor::from<float>({1, static_cast<float>(kNan), 3, -1, -2, -3}, {2, 3}), device);
    CHECK(std::isnan(max(y, 1).item(0)));
    CHECK(max(y, 1).item(1) == -1);
    CHECK(std::isnan(max(y, 0).item(1)));
    const float inf = std::numeric_limits<float>::infinity();
    CHECK(max(to_device(Tensor::from<float>({-inf, -inf}, {1, 2}), device), 1).item() == -inf);
  }
}

TEST_CASE("softmax rows sum to 1, also for large logits") {
  for (Device device : devices()) {
    const Tensor x = to_device(random_tensor({7, 33}, DType::f32, 1, -300, 300), device);
    for (double total : sum(softmax(x), -1).to_vector()) CHECK(total == doctest::Approx(1).epsilon(1e-6));
    for (double total : sum(softmax(x, 0), 0).to_vector()) CHECK(total == doctest::Approx(1).epsilon(1e-6));
    const std::vector<double> logs = log_softmax(x).to_vector(), probabilities = softmax(x).to_vector();
    for (size_t i = 0; i < logs.size(); ++i)
      if (probabilities[i] > 1e-30) CHECK(std::exp(logs[i]) == doctest::Approx(probabilities[i]).epsilon(1e-4));
  }
  const Tensor two = softmax(Tensor::from<double>({0, std::log(3.0)}, {2}));
  CHECK(two.item(0) == doctest::Approx(0.25));
  CHECK(two.item(1) == doctest::Approx(0.75));
  CHECK_THROWS_WITH_AS(softmax(two, 3), doctest::Contains("axis 3"), ShapeError);
}

TEST_CASE("layer norm and RMS norm against hand values") {
  const Tensor x = Tensor::from<double>({1, 2, 3, 4}, {1, 4}), one = Tensor::full({4}, 1, DType::f64),
               half = Tensor::full({4}, 0.5, DType::f64);
  const std::vector<double> y = layer_norm(x, one, half, 0).to_vector(), z = rms_norm(x, one, 0).to_vector();
  for (size_t i = 0; i < 4; ++i) {
    CHECK(y[i] == doctest::Approx((static_cast<double>(i) - 1.5) / std::sqrt(1.25) + 0.5));
    CHECK(z[i] == doctest::Approx((static_cast<double>(i) + 1) / std::sqrt(7.5)));
  }
  CHECK_THROWS_WITH_AS(layer_norm(x, Tensor::full({3}, 1, DType::f64), half), doctest::Contains("weight must be f64 [4]"),
                       ShapeError);
  CHECK_THROWS_AS(rms_norm(cast_to(x, DType::bf16), one), ShapeError);
}

TEST_CASE("layer norm of bf16 rows has f32 statistics on every path") {
  for (Device device : devices()) {
    for (int64_t c : {8, 128, 132, 200, 256, 512, 768, 1024, 1030, 5}) {
      INFO("width ", c);
      const Tensor x = to_device(random_tensor({37, c}, DType::bf16, 3, 50, 60), device);  // a large mean beside a small spread
      const Tensor weight = to_device(random_tensor({c}, DType::f32, 4, 0.5, 1.5), device);
      const Tensor bias = to_device(random_tensor({c}, DType::f32, 5), device);
      set_requires_grad(x);
      set_requires_grad(weight);
      set_requires_grad(bias);
      const Tensor y = layer_norm(x, weight, bias);
      const Tensor gy = to_device(random_tensor({37, c}, DType::bf16, 6), device);
      backward(y, gy);
      const auto exact = [](const Tensor& t) {
        const Tensor e = cast_to(to_device(t.detach(), Device::cpu), DType::f64);
        set_requires_grad(e);
        return e;
      };
      const Tensor ex = exact(x), ew = exact(weight), eb = exact(bias);
      const Tensor ey = layer_norm(ex, ew, eb);
      backward(ey, cast_to(to_device(gy, Device::cpu), DType::f64));
      CHECK(relative_difference(y, ey) < 5e-3);
      CHECK(relative_difference(grad(x), grad(ex)) < 5e-3);
      CHECK(relative_difference(grad(weight), grad(ew)) < 1e-5);
      CHECK(relative_difference(grad(bias), grad(eb)) < 1e-5);
    }
  }
}

TEST_CASE("masked pooling sees only the tokens that count") {
  for (Device device : devices()) {
    const Tensor x =
        to_device(Tensor::from<float>({1, -1, 2, -2, 90, 90, 5, -5, 80, 80, 70, 70, 9, 9, 9, 9, 9, 9}, {3, 3, 2}), device);
    const Tensor mask = to_device(Tensor::from<uint8_t>({1, 1, 0, 1, 0, 0, 0, 0, 0}, {3, 3}), device);
    set_requires_grad(x);
    const Tensor y = masked_mean(x, mask), z = masked_max(x, mask);
    CHECK(y.to_vector() == std::vector<double>{1.5, -1.5, 5, -5, 0, 0});
    CHECK(z.to_vector() == std::vector<double>{2, -1, 5, -5, 0, 0});
    backward(sum_all(y));
    CHECK(grad(x).to_vector() == std::vector<double>{0.5, 0.5, 0.5, 0.5, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    clear_grad(x);
    backward(sum_all(z));
    CHECK(grad(x).to_vector() == std::vector<double>{0, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
    CHECK(masked_mean(x).item(0) == 31);
    CHECK(masked_max(x).item(0) == 90);
    CHECK_THROWS_WITH_AS(masked_mean(x, to_device(Tensor::zeros({3, 2}, DType::u8), device)),
                         doctest::Contains("mask must be u8 [3,3]"), ShapeError);
    CHECK_THROWS_AS(masked_max(x, to_device(Tensor::zeros({3, 3}, DType::f32), device)), ShapeError);
  }
}

TEST_CASE("embedding picks rows, adds their gradients, and refuses strange tokens") {
  for (Device device : devices()) {
    const Tensor tokens = to_device(Tensor::from<int64_t>({2, 0, 2}, {1, 3}), device);
    const Tensor weight = to_device(Tensor::from<float>({1, 2, 3, 4, 5, 6}, {3, 2}), device);
    set_requires_grad(weight);
    for (DType dtype : {DType::f32, DType::bf16}) {
      const Tensor y = embedding(tokens, weight, dtype);
      CHECK(y.shape() == Shape{1, 3, 2});
      CHECK(y.dtype() == dtype);
      CHECK(y.to_vector() == std::vector<double>{5, 6, 1, 2, 5, 6});
      clear_grad(weight);
      backward(y, to_device(cast_to(counting({1, 3, 2}), dtype), device));
      CHECK(grad(weight).dtype() == DType::f32);
      CHECK(grad(weight).to_vector() == std::vector<double>{2, 3, 0, 0, 4, 6});
    }
    CHECK_THROWS_AS(embedding(tokens, weight, DType::f64), ShapeError);
    for (int64_t bad : {int64_t{3}, int64_t{-1}, int64_t{1} << 40}) {
      const Tensor wrong = to_device(Tensor::from<int64_t>({0, bad}, {2}), device);
      if (device == Device::cpu) {
        CHECK_THROWS_WITH_AS(embedding(wrong, weight, DType::f32), doctest::Contains(cat("token ", bad, " at position 1").c_str()),
                             DataError);
      } else {
        const Tensor y = embedding(wrong, weight, DType::f32);
        CHECK(y.to_vector() == std::vector<double>{1, 2, 0, 0});
        clear_grad(weight);
        backward(sum_all(y));
        CHECK(grad(weight).to_vector() == std::vector<double>{1, 1, 0, 0, 0, 0});
      }
    }
  }
}

TEST_CASE("the embedding gradient is exact and repeats for every size of vocabulary") {
  for (Device device : devices()) {
    for (int64_t v : {3, 16, 257, 1500}) {
      for (int64_t c : {5, 64}) {
        INFO("V ", v, " C ", c);
        const int64_t n = 5000;
        const Sample s{"", {{.kind = InputSpec::index, .shape = {n}, .lo = 0, .hi = static_cast<double>(v)}}, {}};
        const Tensor tokens = make_inputs(s, DType::f32, 9)[0], ones = Tensor::full({n, c}, 1, DType::bf16);
        const Tensor weight = Tensor::zeros({v, c}, DType::f32, device);
        set_requires_grad(weight);
        backward(embedding(to_device(tokens, device), weight, DType::bf16), to_device(ones, device));
        std::vector<double> count(static_cast<size_t>(v * c), 0);
        for (double id : tokens.to_vector())
          for (int64_t i = 0; i < c; ++i) ++count[static_cast<size_t>(static_cast<int64_t>(id) * c + i)];
        CHECK(grad(weight).to_vector() == count);
      }
    }
  }
}

TEST_CASE("dropout keeps its share, repeats by seed, step and site, and scales what it keeps") {
  const int64_t n = 40003;  // not a multiple of 4
  const Tensor x = Tensor::full({n}, 1, DType::f32);
  const auto rng = [](int64_t seed, int64_t step) { return Tensor::from<int64_t>({seed, step}, {2}); };
  const auto kept = [](const Tensor& y) {
    int64_t count = 0;
    for (double v : y.to_vector()) count += v != 0;
    return static_cast<double>(count) / static_cast<double>(y.numel());
  };
  for (double p : {0.1, 0.5, 0.9}) {
    const Tensor y = dropout(x, p, rng(1, 2), 3);
    CHECK(std::abs(kept(y) - (1 - p)) < 5 * std::sqrt(p * (1 - p) / static_cast<double>(n)));
    for (double v : y.to_vector())
      if (v != 0) {
        CHECK(v == doctest::Approx(1 / (1 - p)).epsilon(1e-6));
        break;
      }
    CHECK(dropout(x, p, rng(1, 2), 3).to_vector() == y.to_vector());
    for (Device device : devices())
      CHECK(dropout(to_device(x, device), p, to_device(rng(1, 2), device), 3).to_vector() == y.to_vector());
  }
  const std::vector<double> y = dropout(x, 0.5, rng(1, 2), 3).to_vector();
  for (const Tensor& other : {dropout(x, 0.5, rng(2, 2), 3), dropout(x, 0.5, rng(1, 3), 3), dropout(x, 0.5, rng(1, 2), 4),
                              dropout(x, 0.5, rng(1, 3), 2)}) {
    double agree = 0;  // independent masks agree in half of the places
    const std::vector<double> o = other.to_vector();
    for (size_t i = 0; i < y.size(); ++i) agree += (y[i] != 0) == (o[i] != 0);
    CHECK(std::abs(agree / static_cast<double>(n) - 0.5) < 0.0125);
  }
  set_requires_grad(x);
  backward(sum_all(dropout(x, 0.5, rng(1, 2), 3)));
  CHECK(grad(x).to_vector() == y);
  CHECK(dropout(x, 0, {}, 0).same_storage(x));
  CHECK_THROWS_WITH_AS(dropout(x, 1.0, rng(1, 2), 0), doctest::Contains("[0, 1)"), ShapeError);
  CHECK_THROWS_AS(dropout(x, -0.1, rng(1, 2), 0), ShapeError);
  CHECK_THROWS_WITH_AS(dropout(x, 0.1, Tensor(), 0), doctest::Contains("rng is missing"), ShapeError);
}
