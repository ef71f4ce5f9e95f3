/// The attention ops against explicit weight matrices and invariants. Derivatives, CPU against CUDA and fused against plain run
/// over the ops' own samples in test_ops.cpp.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "autograd/gradcheck.h"
#include "autograd/op.h"
#include "ops/flare_mixer.h"
#include "ops/sdpa.h"
#include "tests/tensor_fixtures.h"

using namespace flare;

namespace {

Tensor mask_of(const Shape& shape, int64_t live) {  // the first `live` tokens of every sample
  std::vector<uint8_t> m(static_cast<size_t>(shape.numel()));
  for (size_t i = 0; i < m.size(); ++i) m[i] = static_cast<int64_t>(i) % shape[1] < live;
  return Tensor::from(m, shape);
}
double worst_entry(const Tensor& x) {
  double worst = 0;
  for (double v : x.to_vector()) worst = std::isfinite(v) ? std::max(worst, std::abs(v)) : INFINITY;
  return worst;
}

/// One head with explicit M x N weights in double: y = softmax_m(s k q^T) softmax_n(s q k^T) v, tokens outside `mask` left out.
std::vector<double> explicit_mixer(const std::vector<double>& q, const std::vector<double>& k, const std::vector<double>& v,
                                   const std::vector<bool>& mask, size_t M, size_t N, size_t D, double scale) {
  std::vector<double> s(M * N), z(M * D, 0.0), y(N * D, 0.0);
  for (size_t m = 0; m < M; ++m)
    for (size_t n = 0; n < N; ++n)
      for (size_t d = 0; d < D; ++d) s[m * N + n] += scale * q[m * D + d] * k[n * D + d];
  for (size_t m = 0; m < M; ++m) {
    double top = -INFINITY, sum = 0;
    for (size_t n = 0; n < N; ++n)
      if (mask[n]) top = std::max(top, s[m * N + n]);
    for (size_t n = 0; n < N; ++n)
      if (mask[n]) sum += std::exp(s[m * N + n] - top);
    for (size_t n = 0; n < N; ++n)
      if (mask[n])
        for (size_t d = 0; d < D; ++d) z[m * D + d] += std::exp(s[m * N + n] - top) / sum * v[n * D + d];
  }
  for (size_t n = 0; n < N; ++n) {
    if (!mask[n]) continue;
    double top = -INFINITY, sum = 0;
    for (size_t m = 0; m < M; ++m) top = std::max(top, s[m * N + n]);
    for (size_t m = 0; m < M; ++m) sum += std::exp(s[m * N + n] - top);
    for (size_t m = 0; m < M; ++m)
      for (size_t d = 0; d < D; ++d) y[n * D + d] += std::exp(s[m * N + n] - top) / sum * z[m * D + d];
  }
  return y;
}
Tensor explicit_mixer(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale) {
  const size_t H = static_cast<size_t>(q.size(0)), M = static_cast<size_t>(q.size(1)), D = static_cast<size_t>(q.size(2));
  const size_t B = static_cast<size_t>(k.size(0)), N = static_cast<size_t>(k.size(1)), C = H * D;
  const std::vector<double> qs = q.to_vector(), ks = k.to_vector(), vs = v.to_vector(),
                            ms = mask ? mask.to_vector() : std::vector<double>(B * N, 1);
  std::vector<double> y(B * N * C);
  for (size_t b = 0; b < B; ++b)
    for (size_t h = 0; h < H; ++h) {
      std::vector<double> kh(N * D), vh(N * D);
      std::vector<bool> mb(N);
      for (size_t n = 0; n < N; ++n) {
        mb[n] = ms[b * N + n] != 0;
        for (size_t d = 0; d < D; ++d)
          kh[n * D + d] = ks[(b * N + n) * C + h * D + d], vh[n * D + d] = vs[(b * N + n) * C + h * D + d];
      }
      const std::vector<double> qh(qs.begin() + static_cast<int64_t>(h * M * D),
                                   qs.begin() + static_cast<int64_t>((h + 1) * M * D));
      const std::vector<double> yh = explicit_mixer(qh, kh, vh, mb, M, N, D, scale);
      for (size_t n = 0; n < N; ++n)
        for (size_t d = 0; d < D; ++d) y[(b * N + n) * C + h * D + d] = yh[n * D + d];
    }
  return Tensor::from(y, k.shape());
}

struct MixerGrads {
  Tensor y, dq, dk, dv;
};
MixerGrads mixer_with_grads(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale, const Tensor& g) {
  const Tensor lq = q.detach(), lk = k.detach(), lv = v.detach();
  for (const Tensor& x : {lq, lk, lv}) set_requires_grad(x);
  const Tensor y = flare_mixer(lq, lk, lv, mask, scale);
  backward(y, g);
  return {y, grad(lq), grad(lk), grad(lv)};
}

}  // namespace

TEST_CASE("the mixer equals its two weight matrices") {
  for (const auto& [H, M, D, N] :
       std::vector<std::array<int64_t, 4>>{{2, 5, 4, 11}, {1, 130, 16, 300}, {3, 33, 8, 1500}, {2, 1, 24, 7}, {2, 7, 8, 1}}) {
    const Tensor q = uniform({H, M, D}, DType::f64, 1), k = uniform({2, N, H * D}, DType::f64, 2),
                 v = uniform({2, N, H * D}, DType::f64, 3);
    for (const Tensor& mask : {Tensor(), mask_of({2, N}, (N + 1) / 2)}) {
      const Tensor expected = explicit_mixer(q, k, v, mask, 0.7);
      CHECK(relative_difference(flare_mixer(q, k, v, mask, 0.7), expected) < 1e-13);
      const Tensor single = flare_mixer(cast_to(q, DType::f32), cast_to(k, DType::f32), cast_to(v, DType::f32), mask, 0.7);
      CHECK(relative_difference(single, expected) < 2e-6);
      const Tensor half = flare_mixer(cast_to(q, DType::f32), cast_to(k, DType::bf16), cast_to(v, DType::bf16), mask, 0.7);
      CHECK(relative_difference(half, expected) < 2e-2);
    }
  }
}

TEST_CASE("scores of any size stay finite and right") {
  const Tensor q = uniform({2, 9, 8}, DType::f64, 4, 5), k = uniform({1, 2000, 16}, DType::f64, 5, 8),
               v = uniform({1, 2000, 16}, DType::f64, 6);
  const Tensor expected = explicit_mixer(q, k, v, {}, 4.0);  // scores up to several hundred: exp overflows without a maximum
  CHECK(relative_difference(flare_mixer(q, k, v, {}, 4.0), expected) < 1e-12);
  const Tensor y = flare_mixer(cast_to(q, DType::f32), cast_to(k, DType::f32), cast_to(v, DType::f32), {}, 4.0);
  CHECK(relative_difference(y, expected) < 1e-3);  // f32 rounds scores of 500 to 3e-5
}

TEST_CASE("chunks merge to what one softmax gives") {
  // 1500 and 3000 tokens are cut differently; masking the longer one to 1500 must not change a thing but rounding.
  const Tensor q = uniform({2, 6, 8}, DType::f64, 7), k = uniform({1, 3000, 16}, DType::f64, 8),
               v = uniform({1, 3000, 16}, DType::f64, 9);
  const Tensor g = uniform({1, 3000, 16}, DType::f64, 10), mask = mask_of({1, 3000}, 700);
  const auto head = [](const Tensor& x) { return contiguous(x.view({1, 700, 16}, x.strides())); };
  const MixerGrads whole = mixer_with_grads(q, k, v, mask, 0.6, g), part = mixer_with_grads(q, head(k), head(v), {}, 0.6, head(g));
  CHECK(relative_difference(head(whole.y), part.y) < 1e-13);
  CHECK(relative_difference(whole.dq, part.dq) < 1e-13);
  CHECK(relative_difference(head(whole.dk), part.dk) < 1e-13);
  CHECK(relative_difference(head(whole.dv), part.dv) < 1e-13);
}

TEST_CASE("padding changes nothing, whatever it holds") {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Tensor q = uniform({2, 6, 8}, DType::f32, 7), k = uniform({2, 50, 16}, dtype, 8), v = uniform({2, 50, 16}, dtype, 9),
                 g = uniform({2, 50, 16}, dtype, 10);
    const MixerGrads plain = mixer_with_grads(q, k, v, {}, 1, g);
    const auto padded = [&](const Tensor& x, double filler) {
      const Tensor out = Tensor::full({2, 90, 16}, filler, dtype);
      copy(x, out.view({2, 50, 16}, out.strides()));
      return out;
    };
    const auto real = [](const Tensor& x) { return contiguous(x.view({2, 50, 16}, x.strides())); };
    const auto padding = [](const Tensor& x) { return contiguous(x.view({2, 40, 16}, x.strides(), 50 * 16)); };
    const MixerGrads got = mixer_with_grads(q, padded(k, INFINITY), padded(v, NAN), mask_of({2, 90}, 50), 1, padded(g, 3.0));
    const double tolerance = dtype == DType::f32 ? 1e-6 : 1e-2;
    CHECK(relative_difference(real(got.y), plain.y) <= tolerance);
    CHECK(relative_difference(got.dq, plain.dq) <= tolerance);
    CHECK(relative_difference(real(got.dk), plain.dk) <= tolerance);
    CHECK(relative_difference(real(got.dv), plain.dv) <= tolerance);
    for (const Tensor& x : {got.y, got.dk, got.dv}) CHECK(worst_entry(padding(x)) == 0);
  }
}

TEST_CASE("a sample of padding only is zero, not NaN") {
  const Tensor q = uniform({2, 6, 8}, DType::f32, 7), k = uniform({1, 50, 16}, DType::f32, 8),
               g = uniform({1, 50, 16}, DType::f32, 9);
  const MixerGrads got = mixer_with_grads(q, k, k, mask_of({1, 50}, 0), 1, g);
  for (const Tensor& x : {got.y, got.dq, got.dk, got.dv}) CHECK(worst_entry(x) == 0);
  const Tensor heads = uniform({1, 2, 50, 8}, DType::f32, 8);
  const SdpaResult r = sdpa(uniform({2, 6, 8}, DType::f32, 7), heads, heads, mask_of({1, 50}, 0), 1);
  CHECK(worst_entry(r.out) == 0);
  CHECK(worst_entry(r.lse) == 0);
}

TEST_CASE("one token takes everything, and every latent shares it") {
  const Tensor q = uniform({2, 6, 8}, DType::f64, 7), k = uniform({3, 1, 16}, DType::f64, 8),
               v = uniform({3, 1, 16}, DType::f64, 9);
  CHECK(relative_difference(flare_mixer(q, k, v, {}, 1), v) < 1e-14);
}

TEST_CASE("sdpa returns the log-sum-exp of its scores") {
  const Tensor q = uniform({1, 1, 3, 4}, DType::f64, 1), k = uniform({1, 1, 1200, 4}, DType::f64, 2),
               v = uniform({1, 1, 1200, 4}, DType::f64, 3);
  const SdpaResult r = sdpa(q, k, v, mask_of({1, 1200}, 1100), 0.5);
  for (int64_t i = 0; i < 3; ++i) {
    double sum = 0, first = 0;
    for (int64_t j = 0; j < 1100; ++j) {
      double s = 0;
      for (int64_t d = 0; d < 4; ++d) s += 0.5 * q.item(i * 4 + d) * k.item(j * 4 + d);
      sum += std::exp(s), first += std::exp(s) * v.item(j * 4);
    }
    CHECK(r.lse.item(i) == doctest::Approx(std::log(sum)).epsilon(1e-13));
    CHECK(r.out.item(i * 4) == doctest::Approx(first / sum).epsilon(1e-12));
  }
}

TEST_CASE("attention dropout keeps the expectation and repeats") {
  const Tensor q = uniform({2, 16, 8}, DType::f64, 1), k = uniform({1, 64, 16}, DType::f64, 2),
               v = uniform({1, 64, 16}, DType::f64, 3);
  const auto run = [&](int64_t step, uint64_t site, double p) {
    return flare_mixer(q, k, v, {}, 1, p, Tensor::from<int64_t>({5, step}, {2}), site);
  };
  CHECK(relative_difference(run(3, 1, 0.4), run(3, 1, 0.4)) == 0);
  CHECK(relative_difference(run(3, 1, 0.4), run(4, 1, 0.4)) > 1e-2);
  CHECK(relative_difference(run(3, 1, 0.4), run(3, 2, 0.4)) > 1e-2);
  const Tensor expected = flare_mixer(q, k, v, {}, 1);
  CHECK(relative_difference(run(3, 1, 0), expected) == 0);
  const Tensor mean = Tensor::zeros(expected.shape(), DType::f64);
  const int64_t n = 3000;
  for (int64_t step = 0; step < n; ++step) accumulate(run(step, 1, 0.4), mean);
  // Encode and decode drop independently, so the mean of the product is the product of the means. One draw deviates by
  // about the size of y itself; 3000 of them by a fiftieth, and the largest of 1024 entries by about four times that.
  double worst = 0;
  for (int64_t i = 0; i < mean.numel(); ++i)
    worst = std::max(worst, std::abs(mean.item(i) / static_cast<double>(n) - expected.item(i)));
  CHECK(worst < 0.1 * worst_entry(expected));
}

TEST_CASE("attention says what does not fit") {
  const Tensor q = uniform({2, 6, 8}, DType::f32, 7), k = uniform({1, 50, 16}, DType::f32, 8);
  CHECK_THROWS_WITH_AS(flare_mixer(uniform({2, 6, 4}, DType::f32, 1), k, k, {}, 1),
                       "flare_mixer: q [2,6,4] and k [1,50,16] disagree on C (8 vs 16)", ShapeError);
  CHECK_THROWS_AS(flare_mixer(q, k, uniform({1, 49, 16}, DType::f32, 1), {}, 1), ShapeError);
  CHECK_THROWS_AS(flare_mixer(q, k, k, mask_of({1, 49}, 3), 1), ShapeError);
  CHECK_THROWS_AS(flare_mixer(q, k, k, {}, 1, 0.5), ShapeError);  // dropout without rng
  CHECK_THROWS_AS(flare_mixer(q, k, k, {}, 1, 1.0, Tensor::from<int64_t>({1, 2}, {2})), ShapeError);
  CHECK_THROWS_AS(flare_mixer(q, k, uniform({1, 50, 16}, DType::bf16, 1), {}, 1), ShapeError);
  const Tensor heads = uniform({1, 2, 50, 8}, DType::f32, 8);
  CHECK_THROWS_AS(sdpa(uniform({3, 6, 8}, DType::f32, 7), heads, heads, {}, 1), ShapeError);
  CHECK_THROWS_AS(sdpa(q, heads, heads, mask_of({2, 50}, 3), 1), ShapeError);
}
