#include "autograd/gradcheck.h"

#include <cmath>
#include <limits>

#include "core/rng.h"

namespace flare {
namespace {

Tensor random_cotangent(const Shape& shape, uint64_t seed) {
  Rng rng(seed, 0xc07a);
  Tensor g = Tensor::empty(shape, DType::f64);
  for (int64_t i = 0; i < g.numel(); ++i) g.data<double>()[i] = rng.uniform() * 2 - 1;
  return g;
}

double dot(const Tensor& a, const Tensor& b) {
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  double sum = 0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * y[i];
  return sum;
}

}  // namespace

GradcheckResult gradcheck(const std::function<Tensor(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
                          const std::vector<bool>& check_input, double tolerance, uint64_t seed) {
  constexpr double kStep = 1e-5;
  std::vector<Tensor> leaves;
  for (size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(inputs[i] ? inputs[i].detach() : Tensor());
    if (check_input[i]) set_requires_grad(leaves[i]);
  }
  const Tensor y = f(leaves);
  const Tensor cotangent = random_cotangent(y.shape(), seed);
  backward(y, cotangent);

  GradcheckResult result;
  const NoGrad no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (!check_input[i]) continue;
    const Tensor analytic = grad(leaves[i]);
    check(analytic.defined(), "gradcheck: input ", i, " received no gradient");
    const std::vector<double> values = leaves[i].to_vector(), got = analytic.to_vector();
    double largest = 0, difference = 0;
    size_t worst_at = 0;
    for (size_t j = 0; j < values.size(); ++j) {
      const auto at = [&](double v) {
        std::vector<double> moved = values;
        moved[j] = v;
        std::vector<Tensor> copy_of = leaves;
        // The perturbed input keeps the memory order of the original, so that strided paths are checked too.
        copy_of[i] = Tensor::empty(Shape{leaves[i].storage()->bytes / 8}, DType::f64).view(leaves[i].shape(), leaves[i].strides());
        copy(Tensor::from(moved, leaves[i].shape()), copy_of[i]);
        return dot(f(copy_of), cotangent);
      };
      const double numeric = (at(values[j] + kStep) - at(values[j] - kStep)) / (2 * kStep);
      const double gap = std::abs(numeric - got[j]);
      if (!(gap <= difference)) {
        difference = gap;
        worst_at = j;
      }
      largest = std::max({largest, std::abs(numeric), std::abs(got[j])});
    }
    const double error = difference / std::max(largest, 1e-8);
    if (!(error <= result.worst)) result.worst = error;
    if (!(error <= tolerance)) {
      result.ok = false;
      result.message += cat("input ", i, " ", leaves[i].shape(), ": relative error ", error, " at element ", worst_at, "; ");
    }
  }
  return result;
}

std::vector<Tensor> make_inputs(const Sample& sample, DType dtype, uint64_t seed) {
  std::vector<Tensor> inputs;
  for (size_t i = 0; i < sample.inputs.size(); ++i) {
    const InputSpec& spec = sample.inputs[i];
    Rng rng(seed, i + 1);
    if (spec.kind == InputSpec::absent) {
      inputs.emplace_back();
      continue;
    }
    if (spec.kind == InputSpec::values) {
      inputs.push_back(cast_to(Tensor::from(spec.fixed, spec.shape), spec.fixed_dtype));
      continue;
    }
    const int64_t n = spec.shape.numel();
    std::vector<double> values(static_cast<size_t>(n));
    for (int64_t j = 0; j < n; ++j) {
      double& v = values[static_cast<size_t>(j)];
      if (spec.kind == InputSpec::mask)
        v = rng.uniform() < 0.7 || (spec.shape.ndim() && j % spec.shape[-1] == 0);
      else if (spec.kind == InputSpec::index)
        v = std::floor(spec.lo + rng.uniform() * (spec.hi - spec.lo));
      else
        v = spec.lo + rng.uniform() * (spec.hi - spec.lo);
    }
    Tensor x = Tensor::from(values, spec.shape);
    if (spec.kind == InputSpec::mask)
      x = cast_to(x, DType::u8);
    else if (spec.kind == InputSpec::index)
      x = cast_to(x, DType::i64);
    else
      x = cast_to(cast_to(x, dtype == DType::bf16 ? DType::bf16 : DType::f32),
                  spec.kind == InputSpec::param ? param_dtype(dtype) : dtype);
    if (spec.transposed) {
      check(x.ndim() >= 2, "make_inputs: a transposed input needs two axes, got ", x.shape());
      Shape swapped = x.shape();
      std::swap(swapped[-1], swapped[-2]);
      const Tensor packed = Tensor::empty(swapped, x.dtype());
      Shape strides = packed.strides();
      std::swap(strides[-1], strides[-2]);
      const Tensor strided = packed.view(x.shape(), strides);
      copy(x, strided);
      x = strided;
    }
    inputs.push_back(x);
  }
  return inputs;
}

std::vector<bool> differentiable_inputs(const Sample& sample) {
  std::vector<bool> out;
  for (const InputSpec& spec : sample.inputs)
    out.push_back(spec.differentiable && (spec.kind == InputSpec::real || spec.kind == InputSpec::param));
  return out;
}

double relative_difference(const Tensor& a, const Tensor& b) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (a.shape() != b.shape()) return kInfinity;
  const std::vector<double> x = a.to_vector(), y = b.to_vector();
  double difference = 0, largest = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (x[i] == y[i] || (std::isnan(x[i]) && std::isnan(y[i]))) {
      if (std::isfinite(y[i])) largest = std::max(largest, std::abs(y[i]));
      continue;
    }
    if (!std::isfinite(x[i]) || !std::isfinite(y[i])) return kInfinity;
    difference = std::max(difference, std::abs(x[i] - y[i]));
    largest = std::max(largest, std::abs(y[i]));
  }
  return difference == 0 ? 0 : difference / std::max(largest, 1e-30);
}

}  // namespace flare
