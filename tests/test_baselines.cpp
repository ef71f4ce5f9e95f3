/// What the baseline mixers (linear, linformer, performer) compute: against the N x N matrices they avoid, their derivatives,
/// padding, extremes, bf16. Parity with PyTorch: test_golden.cpp; what they consist of: test_baseline_weights.cpp.
#include <algorithm>
#include <map>
#include <numeric>

#include "autograd/gradcheck.h"
#include "nn/checkpoint.h"
#include "nn/linear_attention.h"
#include "tests/baseline_fixtures.h"

namespace {

/// A mixer in f64 whose weights are large enough that attention is far from uniform.
std::unique_ptr<Mixer> lively(const ModelConfig& config, uint64_t seed = 5) {
  Rng rng(seed);
  std::unique_ptr<Mixer> mixer = make_mixer(config, rng, kLongest);
  mixer->to(DType::f64);
  uint64_t i = 0;
  for (const Parameter& p : mixer->parameters()) copy(uniform(p.value.shape(), DType::f64, 100 + i++, 0.8), p.value.detach());
  return mixer;
}

Tensor mask_of(const std::vector<uint8_t>& values, int64_t batch) {
  return Tensor::from(values, {batch, static_cast<int64_t>(values.size()) / batch});
}

using Row = std::vector<double>;
using Matrix = std::vector<Row>;

double dot(const Row& a, const Row& b) { return std::inner_product(a.begin(), a.end(), b.begin(), 0.0); }
Row scaled(const Row& a, double s) {
  Row out = a;
  for (double& v : out) v *= s;
  return out;
}

/// The N x N matrix of one head, W[i][j]: how much of value j token i receives.
Matrix weights_of(const ModelConfig& c, const std::map<std::string, Tensor>& state, const Matrix& q, const Matrix& k,
                  const Row& keep) {
  const size_t n = q.size(), d = q[0].size();
  const double s = 1 / std::sqrt(static_cast<double>(d));
  Matrix w(n, Row(n));
  const auto row_of = [&](const char* name, size_t r) {
    const Tensor& t = state.at(name);
    const std::vector<double> all = t.to_vector();
    const auto width = static_cast<size_t>(t.size(1));
    return Row(all.begin() + static_cast<std::ptrdiff_t>(r * width), all.begin() + static_cast<std::ptrdiff_t>((r + 1) * width));
  };
  if (c.mixer == "linformer") {
    for (size_t i = 0; i < n; ++i) {
      Row p;
      double total = 0;
      for (size_t r = 0; r < static_cast<size_t>(c.latents); ++r) {
        const Row e = row_of("e_proj", r);
        double logit = 0;
        for (size_t j = 0; j < n; ++j) logit += s * e[j] * keep[j] * dot(q[i], k[j]);
        p.push_back(std::exp(logit));
        total += p.back();
      }
      for (size_t r = 0; r < p.size(); ++r) {
        const Row f = row_of("f_proj", r);
        for (size_t j = 0; j < n; ++j) w[i][j] += p[r] / total * f[j] * keep[j];
      }
    }
    return w;
  }
  for (size_t i = 0; i < n; ++i) {
    double total = 0;
    for (size_t j = 0; j < n; ++j) {
      double kernel = 0;
      if (c.mixer == "linear") {
        for (size_t e = 0; e < d; ++e) {
          const auto phi = [](double v) { return v > 0 ? v + 1 : std::exp(v); };
          kernel += phi(q[i][e]) * phi(k[j][e]);
        }
      } else {  // each feature as the paper has it, without stabilisers
        for (size_t f = 0; f < static_cast<size_t>(c.latents); ++f) {
          const Row omega = row_of("random_features", f), a = scaled(q[i], std::sqrt(s)), b = scaled(k[j], std::sqrt(s));
          kernel += std::exp(dot(omega, a) - dot(a, a) / 2) * std::exp(dot(omega, b) - dot(b, b) / 2);
        }
      }
      w[i][j] = keep[j] * kernel;
      total += w[i][j];
    }
    for (double& v : w[i]) v /= total;
  }
  return w;
}

/// The whole mixer by plain loops, all matrices written out.
std::vector<double> dense(const ModelConfig& c, const Mixer& mixer, const Tensor& x, const Tensor& mask) {
  std::map<std::string, Tensor> state;
  for (const NamedTensor& t : mixer.state()) state[t.name] = t.value;
  const auto channels = static_cast<size_t>(c.channels), heads = static_cast<size_t>(c.heads), width = channels / heads;
  const auto batch = static_cast<size_t>(x.size(0)), n = static_cast<size_t>(x.size(1));
  const std::vector<double> xs = x.to_vector();
  const auto affine_row = [&](const std::string& name, size_t row, const double* in) {
    const double* weight = state.at(name + ".weight").data<double>() + row * channels;
    return std::inner_product(in, in + channels, weight, state.at(name + ".bias").data<double>()[row]);
  };
  std::vector<double> out;
  for (size_t b = 0; b < batch; ++b) {
    Row keep(n, 1);
    if (mask)
      for (size_t j = 0; j < n; ++j) keep[j] = mask.item(static_cast<int64_t>(b * n + j));
    Matrix merged(n, Row(channels));
    for (size_t h = 0; h < heads; ++h) {
      Matrix q(n, Row(width)), k = q, v = q;
      for (size_t i = 0; i < n; ++i)
        for (size_t e = 0; e < width; ++e) {
          const double* in = xs.data() + (b * n + i) * channels;
          q[i][e] = affine_row("qkv_proj", h * width + e, in);
          k[i][e] = affine_row("qkv_proj", channels + h * width + e, in);
          v[i][e] = affine_row("qkv_proj", 2 * channels + h * width + e, in);
        }
      const Matrix w = weights_of(c, state, q, k, keep);
      for (size_t i = 0; i < n; ++i)
        for (size_t j = 0; j < n; ++j)
          for (size_t e = 0; e < width; ++e) merged[i][h * width + e] += w[i][j] * v[j][e];
    }
    for (size_t i = 0; i < n; ++i)
      for (size_t r = 0; r < channels; ++r) out.push_back(affine_row("out_proj", r, merged[i].data()));
  }
  return out;
}

void check_close(const Tensor& y, const std::vector<double>& expected, double tolerance) {
  CHECK(relative_error(cast_to(y, DType::f64), Tensor::from(expected, y.shape())) < tolerance);
}

}  // namespace

TEST_CASE("baselines are their dense matrices, f64") {
  const int64_t n = 10;
  const Tensor x = uniform({3, n, 8}, DType::f64, 1);
  // All tokens; a gap; one token alone, and not the first.
  const Tensor mask = mask_of({1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0}, 3);
  for (const std::string& name : kBaselines) {
    CAPTURE(name);
    const ModelConfig c = narrow(name);
    const std::unique_ptr<Mixer> mixer = lively(c);
    check_close(run(*mixer, x), dense(c, *mixer, x, {}), 1e-12);
    const Tensor y = run(*mixer, x, mask);
    check_close(y, dense(c, *mixer, x, mask), 1e-12);
    if (name == "linformer") continue;
    // Weights that sum to 1 leave a single token nothing but its own value: every row of the third sample is the same.
    const Tensor third = contiguous(slice(y, 0, 2, 1));
    for (int64_t i = 0; i < n * 8; ++i) CHECK(third.item(i) == doctest::Approx(third.item(i % 8)).epsilon(1e-12));
  }
}

TEST_CASE("baselines: derivatives through the whole mixer, f64, random cotangent") {
  const int64_t n = 6;
  const Tensor x = uniform({2, n, 8}, DType::f64, 2), mask = mask_of({1, 1, 1, 1, 1, 1, 0, 1, 1, 0, 1, 0}, 2);
  const Tensor cotangent = uniform({2, n, 8}, DType::f64, 3);
  for (const std::string& name : kBaselines)
    for (const bool rotary : {false, true}) {
      CAPTURE(name);
      CAPTURE(rotary);
      ModelConfig c = narrow(name);
      c.qk_norm = rotary;
      c.position = rotary ? "rope" : "learned";
      const std::unique_ptr<Mixer> mixer = lively(c);
      const GradcheckResult of_x = gradcheck([&](const std::vector<Tensor>& in) { return run(*mixer, in[0], mask); }, {x}, {true});
      CHECK_MESSAGE(of_x.ok, of_x.message);

      for (const Parameter& p : mixer->parameters()) clear_grad(p.value);
      backward(run(*mixer, x, mask), cotangent);
      const NoGrad no_grad;
      double largest = 0;
      for (const Parameter& p : mixer->parameters())
        for (const double g : grad(p.value).to_vector()) largest = std::max(largest, std::abs(g));
      for (const Parameter& p : mixer->parameters()) {
        CAPTURE(p.name);
        const std::vector<double> got = grad(p.value).to_vector();
        double* values = p.value.data<double>();
        double gap = 0;
        for (size_t i = 0; i < got.size(); ++i) {
          constexpr double kStep = 1e-5;
          const double before = values[i];
          const auto at = [&](double v) {
            values[i] = v;
            return sum_all(run(*mixer, x, mask) * cotangent).item();
          };
          const double numeric = (at(before + kStep) - at(before - kStep)) / (2 * kStep);
          values[i] = before;
          gap = std::max(gap, std::abs(numeric - got[i]));
        }
        CHECK(gap < 1e-7 * largest);
      }
    }
}

TEST_CASE("baselines: longer padding changes neither results nor gradients, whatever lies in it") {
  const int64_t n = 7;
  const Tensor x = uniform({2, n, 8}, DType::f64, 4), cotangent = uniform({2, n, 8}, DType::f64, 5);
  for (const std::string& name : kBaselines)
    for (const char* position : {"none", "rope"}) {
      CAPTURE(name);
      CAPTURE(position);
      ModelConfig c = narrow(name);
      c.position = position;
      const std::unique_ptr<Mixer> mixer = lively(c);
      struct Result {
        Tensor y;
        std::vector<Tensor> gradients;  // of x, then of the parameters
      };
      const auto padded = [&](int64_t length, double filler) {
        Tensor longer = Tensor::full({2, length, 8}, filler, DType::f64), gy = Tensor::zeros({2, length, 8}, DType::f64);
        const Tensor mask = Tensor::zeros({2, length}, DType::u8);
        const Shape strides{length * 8, 8, 1};
        copy(x, longer.view({2, n, 8}, strides));
        copy(cotangent, gy.view({2, n, 8}, strides));
        fill(mask.view({2, n}, {length, 1}), 1);
        set_requires_grad(longer);
        for (const Parameter& p : mixer->parameters()) clear_grad(p.value);
        const Tensor y = run(*mixer, longer, mask);
        backward(y, gy);
        Result r{clone(slice(y.detach(), 1, 0, n)), {clone(slice(grad(longer), 1, 0, n))}};
        for (const Parameter& p : mixer->parameters()) r.gradients.push_back(clone(grad(p.value)));
        // Padding receives no gradient either: it reaches no result.
        for (const double g : contiguous(slice(grad(longer), 1, n, length - n)).to_vector()) CHECK(g == 0);
        return r;
      };
      const Result plain = padded(n, 0), same = padded(kLongest, 0), other = padded(kLongest, 3);
      CHECK(relative_error(same.y, plain.y) < 1e-12);
      CHECK(same.y.to_vector() == other.y.to_vector());
      for (size_t i = 0; i < plain.gradients.size(); ++i) {
        CHECK(relative_error(same.gradients[i], plain.gradients[i], 1e-3) < 1e-12);
        CHECK(relative_error(other.gradients[i], plain.gradients[i], 1e-3) < 1e-12);
      }
    }
}

TEST_CASE("baselines: a sample without any token stays finite, values and gradients") {
  const Tensor mask = Tensor::zeros({1, 5}, DType::u8);
  for (const std::string& name : kBaselines)
    for (const DType dtype : {DType::f32, DType::bf16}) {
      CAPTURE(name);
      Rng rng(1);
      const std::unique_ptr<Mixer> mixer = make_mixer(narrow(name), rng, kLongest);
      const Tensor x = uniform({1, 5, 8}, dtype, 6);
      set_requires_grad(x);
      const Tensor y = run(*mixer, x, mask);
      backward(y, uniform({1, 5, 8}, dtype, 7));
      for (const double v : y.to_vector()) CHECK(std::isfinite(v));
      for (const double v : grad(x).to_vector()) CHECK(std::isfinite(v));
      for (const Parameter& p : mixer->parameters())
        for (const double v : grad(p.value).to_vector()) CHECK(std::isfinite(v));
    }
}

TEST_CASE("baselines: large and unequal logits stay finite and right") {
  for (const std::string& name : kBaselines) {
    CAPTURE(name);
    const ModelConfig c = narrow(name);
    const std::unique_ptr<Mixer> exact = lively(c);
    const Tensor x = uniform({2, 9, 8}, DType::f64, 8, 12);  // exponents of the features reach a few hundred
    const Tensor y = run(*exact, x);
    Rng rng(5);
    const std::unique_ptr<Mixer> rounded = make_mixer(c, rng, kLongest);
    load_parameters(exact->state(), "weights", *rounded);
    CHECK(relative_error(run(*rounded, cast_to(x, DType::f32)), y) < 1e-3);
  }
}

TEST_CASE("baselines in bf16: sums over thousands of tokens are taken in f32") {
  // bf16 has 8 significant bits: a running sum of ones would stop at 256.
  const int64_t n = 4096;
  const Tensor ones = Tensor::full({1, n, 1, 2}, 1, DType::bf16), one = Tensor::full({1, 1, n, 1}, 1, DType::bf16);
  const Tensor psi = clone(ones);
  set_requires_grad(psi);
  const Tensor totals = feature_totals(ones, psi);
  CHECK(totals.shape() == Shape{1, 1, n, 1});
  for (const double v : totals.to_vector()) REQUIRE(v == 2 * n);
  backward(totals, Tensor::full(totals.shape(), 1, DType::bf16));
  for (const double g : grad(psi).to_vector()) REQUIRE(g == n);
  clear_grad(psi);
  const Tensor y = attend_by_features(ones, psi, ones, one, 0);
  for (const double v : y.to_vector()) REQUIRE(v == 2 * n);
  backward(y, Tensor::full(y.shape(), 1, DType::bf16));
  for (const double g : grad(psi).to_vector()) REQUIRE(g == 2 * n);

  for (const std::string& name : kBaselines) {
    CAPTURE(name);
    Rng rng(3);
    const std::unique_ptr<Mixer> mixer = make_mixer(narrow(name), rng, n);
    for (const Parameter& p : mixer->parameters())
      if (p.name.ends_with(".weight")) copy(uniform_bf16(p.value.shape(), 9, 0.5), p.value.detach());
    const Tensor x = uniform_bf16({1, n, 8}, 10, 1);
    // About ten roundings of 2^-9 between input and output, as in any of the mixers.
    CHECK(relative_error(run(*mixer, cast_to(x, DType::bf16)), run(*mixer, x)) < 0.03);
  }
}
