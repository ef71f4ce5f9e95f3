/// The CPU paths of the mixer and of attention where the general samples of test_ops.cpp do not reach: heads of moderate and of
/// large scores side by side, heads cut into chunks, masks that leave nothing, and bits that do not depend on the thread count.
#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "autograd/gradcheck.h"
#include "autograd/op.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "ops/flare_mixer.h"
#include "tests/tensor_fixtures.h"

using namespace flare;

namespace {

/// y, dq, dk, dv of the mixer.
std::vector<Tensor> mixer_with_grads(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor& g) {
  const Tensor lq = q.detach(), lk = k.detach(), lv = v.detach();
  for (const Tensor& x : {lq, lk, lv}) set_requires_grad(x);
  const Tensor y = flare_mixer(lq, lk, lv, mask, 1);
  backward(y, g);
  return {y, grad(lq), grad(lk), grad(lv)};
}

/// The same by plain loops in double. q [H,M,D], k, v, g [B,N,H*D].
struct Explicit {
  size_t B, H, M, D, N;
  std::vector<double> q, k, v, g, mask, y, dq, dk, dv;

  Explicit(const Tensor& tq, const Tensor& tk, const Tensor& tv, const Tensor& tmask, const Tensor& tg)
      : B(static_cast<size_t>(tk.size(0))),
        H(static_cast<size_t>(tq.size(0))),
        M(static_cast<size_t>(tq.size(1))),
        D(static_cast<size_t>(tq.size(2))),
        N(static_cast<size_t>(tk.size(1))),
        q(tq.to_vector()),
        k(tk.to_vector()),
        v(tv.to_vector()),
        g(tg.to_vector()),
        mask(tmask ? tmask.to_vector() : std::vector<double>(B * N, 1)),
        y(k.size()),
        dq(q.size()),
        dk(k.size()),
        dv(k.size()) {
    for (size_t b = 0; b < B; ++b)
      for (size_t h = 0; h < H; ++h) head(b, h);
  }
  size_t token(size_t b, size_t h, size_t n) const { return (b * N + n) * H * D + h * D; }
  double dot(const double* x, const double* w) const {
    double sum = 0;
    for (size_t d = 0; d < D; ++d) sum += x[d] * w[d];
    return sum;
  }
  void head(size_t b, size_t h) {
    std::vector<size_t> live;
    for (size_t n = 0; n < N; ++n)
      if (mask[b * N + n] != 0) live.push_back(n);
    std::vector<double> encode(M * N), decode(M * N), z(M * D), dz(M * D);
    const auto normalise = [](std::vector<double>& s, const std::vector<size_t>& at) {
      double top = -INFINITY, sum = 0;
      for (size_t i : at) top = std::max(top, s[i]);
      for (size_t i : at) sum += s[i] = std::exp(s[i] - top);
      for (size_t i : at) s[i] /= sum;
    };
    for (size_t m = 0; m < M; ++m)
      for (size_t n : live) encode[m * N + n] = decode[m * N + n] = dot(&q[(h * M + m) * D], &k[token(b, h, n)]);
    for (size_t m = 0; m < M; ++m) {
      std::vector<size_t> at;
      for (size_t n : live) at.push_back(m * N + n);
      normalise(encode, at);
    }
    for (size_t n : live) {
      std::vector<size_t> at;
      for (size_t m = 0; m < M; ++m) at.push_back(m * N + n);
      normalise(decode, at);
    }
    for (size_t m = 0; m < M; ++m)
      for (size_t n : live)
        for (size_t d = 0; d < D; ++d) {
          z[m * D + d] += encode[m * N + n] * v[token(b, h, n) + d];
          dz[m * D + d] += decode[m * N + n] * g[token(b, h, n) + d];
        }
    for (size_t m = 0; m < M; ++m)
      for (size_t n : live)
        for (size_t d = 0; d < D; ++d) y[token(b, h, n) + d] += decode[m * N + n] * z[m * D + d];
    for (size_t m = 0; m < M; ++m)
      for (size_t n : live) {
        const size_t t = token(b, h, n);
        const double w = decode[m * N + n] * (dot(&g[t], &z[m * D]) - dot(&g[t], &y[t])) +
                         encode[m * N + n] * (dot(&dz[m * D], &v[t]) - dot(&dz[m * D], &z[m * D]));
        for (size_t d = 0; d < D; ++d) {
          dq[(h * M + m) * D + d] += w * k[t + d];
          dk[t + d] += w * q[(h * M + m) * D + d];
          dv[t + d] += encode[m * N + n] * dz[m * D + d];
        }
      }
  }
};

/// Largest difference over the largest reference value, at least 1: with one token dq and dk are 0 by cancellation.
double error_of(const Tensor& got, const std::vector<double>& want) {
  const std::vector<double> x = got.to_vector();
  double worst = 0, scale = 1;
  for (size_t i = 0; i < x.size(); ++i) {
    worst = std::isfinite(x[i]) ? std::max(worst, std::abs(x[i] - want[i])) : INFINITY;
    scale = std::max(scale, std::abs(want[i]));
  }
  return worst / scale;
}
void check_against_loops(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, const Tensor& g, double tolerance) {
  const Explicit want(q, k, v, mask, g);
  const std::vector<Tensor> got = mixer_with_grads(q, k, v, mask, g);
  CHECK(error_of(got[0], want.y) < tolerance);
  CHECK(error_of(got[1], want.dq) < tolerance);
  CHECK(error_of(got[2], want.dk) < tolerance);
  CHECK(error_of(got[3], want.dv) < tolerance);
}

}  // namespace

TEST_CASE("CPU mixer: moderate, large and unequal heads, whole and in chunks") {
  // {B, H, M, D, N}: N > 1024 with fewer than 8 heads is cut into chunks; widths with and without their own code.
  for (const auto& [B, H, M, D, N] : std::vector<std::array<int64_t, 5>>{
           {1, 8, 33, 16, 300}, {2, 4, 16, 8, 1100}, {1, 2, 20, 24, 1500}, {1, 1, 1, 4, 7}, {2, 1, 5, 12, 1}, {1, 2, 17, 64, 70}})
    for (const double range : {1.0, 9.0, 40.0})
      for (const DType dtype : {DType::f64, DType::f32}) {
        CAPTURE(M);
        CAPTURE(D);
        CAPTURE(N);
        CAPTURE(range);
        std::vector<double> scaled = uniform({H, M, D}, DType::f64, 1).to_vector();
        // Every second head has scores of this range, which the sums of exponentials without a maximum cannot hold at 40 or more.
        for (size_t i = 0; i < scaled.size(); ++i)
          scaled[i] *= (static_cast<int64_t>(i) / (M * D)) % 2 == 0 ? range * 4 / std::sqrt(static_cast<double>(D)) : 1.0;
        const Tensor q = cast_to(cast_to(Tensor::from(scaled, {H, M, D}), DType::f32), dtype);
        const Tensor k = uniform({B, N, H * D}, dtype, 2), v = uniform({B, N, H * D}, dtype, 3),
                     g = uniform({B, N, H * D}, dtype, 4);
        check_against_loops(q, k, v, Tensor(), g, dtype == DType::f64 ? 1e-12 : 4e-5);
      }
}

TEST_CASE("CPU mixer: scattered and empty masks") {
  const int64_t B = 3, H = 3, M = 18, D = 8, N = 1300;
  std::vector<uint8_t> m(static_cast<size_t>(B * N));
  Rng rng(7);
  for (int64_t i = 0; i < B * N; ++i) m[static_cast<size_t>(i)] = i / N == 1 ? 0 : rng.uniform() < 0.4;  // sample 1 is empty
  const Tensor mask = Tensor::from(m, {B, N});
  for (const double range : {1.0, 60.0}) {
    CAPTURE(range);
    const Tensor q = uniform({H, M, D}, DType::f32, 1, range), k = uniform({B, N, H * D}, DType::f32, 2),
                 v = uniform({B, N, H * D}, DType::f32, 3), g = uniform({B, N, H * D}, DType::f32, 4);
    check_against_loops(q, k, v, mask, g, 4e-5);
    const std::vector<Tensor> got = mixer_with_grads(q, k, v, mask, g);
    for (const size_t i : {0, 2, 3}) {
      const std::vector<double> x = got[i].to_vector();
      bool zero = true;
      for (size_t e = 0; e < x.size(); ++e)
        if (!m[e / static_cast<size_t>(H * D)]) zero &= x[e] == 0;
      CHECK(zero);
    }
  }
}

TEST_CASE("CPU mixer: the same bits with any number of threads") {
  const int before = thread_count();
  for (const auto& [B, H, N] : {std::array<int64_t, 3>{3, 4, 500}, {1, 2, 2500}}) {
    const Tensor q = uniform({H, 40, 8}, DType::f32, 1, 3), k = uniform({B, N, H * 8}, DType::f32, 2),
                 v = uniform({B, N, H * 8}, DType::f32, 3), g = uniform({B, N, H * 8}, DType::f32, 4);
    std::vector<std::vector<Tensor>> runs;
    for (const int threads : {1, 2, 5}) {
      set_thread_count(threads);
      runs.push_back(mixer_with_grads(q, k, v, Tensor(), g));
    }
    set_thread_count(before);
    for (size_t i = 0; i < 4; ++i) {
      CHECK(runs[0][i].to_vector() == runs[1][i].to_vector());
      CHECK(runs[0][i].to_vector() == runs[2][i].to_vector());
    }
  }
}
