/// Every registered op and sample: derivative in f64, fused against plain, CPU against CUDA in f32 and bf16, packed against
/// strided. No op is named here: an op is tested because it exists. What is not run is counted and printed.
#include <doctest/doctest.h>
#include <fmt/core.h>

#include "autograd/gradcheck.h"

using namespace flare;

namespace {

struct Tally {
  int ran = 0, skipped = 0;
  std::string reasons;
  void skip(const std::string& why) {
    ++skipped;
    reasons += "\n    " + why;
  }
  void print(const char* title) const { fmt::print("{}: {} cases ran, {} skipped{}\n", title, ran, skipped, reasons); }
};

std::vector<Tensor> on(const std::vector<Tensor>& inputs, Device device) {
  std::vector<Tensor> out;
  for (const Tensor& x : inputs) {
    if (!x) {
      out.emplace_back();
      continue;
    }
    const Tensor moved = to_device(x, device);
    if (x.is_contiguous()) {
      out.push_back(moved);
      continue;
    }
    // Rebuild the memory order of the original, so that strided paths are met on both devices.
    const Tensor strided =
        Tensor::empty(Shape{x.storage()->bytes / size_of(x.dtype())}, x.dtype(), device).view(x.shape(), x.strides());
    copy(moved, strided);
    out.push_back(strided);
  }
  return out;
}

Tensor cotangent_like(const Tensor& y) {
  const Sample s{"", {{.shape = y.shape()}}, {}};
  return to_device(make_inputs(s, y.dtype(), 77)[0], y.device());
}

struct Results {
  std::vector<Tensor> outputs;
  std::vector<Tensor> grads;
};

/// Outputs of f and, where wanted, the gradients of its inputs under a fixed random cotangent.
Results run(const std::function<std::vector<Tensor>(const std::vector<Tensor>&)>& f, const std::vector<Tensor>& inputs,
            const std::vector<bool>& wants_grad, bool differentiable) {
  std::vector<Tensor> leaves;
  bool any = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    leaves.push_back(inputs[i] ? inputs[i].detach() : Tensor());
    if (wants_grad[i] && differentiable) {
      set_requires_grad(leaves[i]);
      any = true;
    }
  }
  Results r;
  r.outputs = f(leaves);
  if (any) {
    backward(r.outputs[0], cotangent_like(r.outputs[0]));
    for (size_t i = 0; i < inputs.size(); ++i) r.grads.push_back(wants_grad[i] ? grad(leaves[i]) : Tensor());
  }
  return r;
}

void compare(const Results& got, const Results& expected, double tolerance, bool only_first_output) {
  for (size_t i = 0; i < (only_first_output ? 1 : expected.outputs.size()); ++i) {
    const double error = relative_difference(got.outputs[i], expected.outputs[i]);
    CHECK_MESSAGE(error <= tolerance, "output ", i, ": ", error, " > ", tolerance);
  }
  for (size_t i = 0; i < expected.grads.size(); ++i) {
    if (!expected.grads[i]) continue;
    const double error = relative_difference(got.grads[i], expected.grads[i]);
    CHECK_MESSAGE(error <= tolerance, "gradient ", i, ": ", error, " > ", tolerance);
  }
}

}  // namespace

TEST_CASE("the registry holds the ops") { CHECK(registered_ops().size() >= 40); }

TEST_CASE("derivatives against central differences, f64") {
  Tally tally;
  double worst = 0;
  for (const OpEntry& op : registered_ops()) {
    if (!op.not_differentiable.empty()) {
      tally.skip(op.name + ": " + op.not_differentiable);
      continue;
    }
    for (const Sample& sample : op.samples()) {
      const std::vector<bool> wanted = differentiable_inputs(sample);
      if (std::find(wanted.begin(), wanted.end(), true) == wanted.end()) {
        tally.skip(op.name + " " + sample.label + ": no differentiable input");
        continue;
      }
      INFO(op.name, " ", sample.label);
      const auto f = [&](const std::vector<Tensor>& in) { return op.run(in, sample.attrs)[0]; };
      const GradcheckResult r = gradcheck(f, make_inputs(sample, DType::f64), wanted, sample.tolerance_grad);
      CHECK_MESSAGE(r.ok, r.message);
      worst = std::max(worst, r.worst);
      ++tally.ran;
    }
  }
  tally.print("derivatives");
  fmt::print("    worst relative error {:.1e}\n", worst);
}

TEST_CASE("a wrong derivative is rejected") {
  const Tensor x = Tensor::from<double>({0.3, -0.7, 1.1}, {3});
  const auto wrong = [&](const std::vector<Tensor>& in) {
    // y = x², recorded with the derivative 2x + 1e-3.
    Tensor y = Tensor::empty(in[0].shape(), DType::f64);
    for (int i = 0; i < 3; ++i) y.data<double>()[i] = in[0].item(i) * in[0].item(i);
    std::vector<Tensor> out{y};
    record("wrong_square", Inputs(in), Outputs(out), Keep::inputs, false, [](const Saved& s, const Tensor& gy) -> Grads {
      Tensor g = Tensor::empty(gy.shape(), DType::f64);
      for (int i = 0; i < 3; ++i) g.data<double>()[i] = gy.item(i) * (2 * s.in(0).item(i) + 1e-3);
      return {g};
    });
    return out[0];
  };
  const GradcheckResult r = gradcheck(wrong, {x}, {true});
  CHECK_FALSE(r.ok);
  CHECK(r.worst > 1e-4);
  CHECK(r.message.find("input 0") != std::string::npos);
}

TEST_CASE("fused ops against their plain compositions") {
  Tally tally;
  for (const OpEntry& op : registered_ops()) {
    if (!op.reference) continue;
    for (const Sample& sample : op.samples()) {
      for (DType dtype : {DType::f64, DType::f32}) {
        INFO(op.name, " ", sample.label, " ", name_of(dtype));
        const std::vector<Tensor> inputs = make_inputs(sample, dtype);
        const std::vector<bool> wanted = differentiable_inputs(sample);
        const bool differentiable = op.not_differentiable.empty();
        const Results fused = run([&](const auto& in) { return op.run(in, sample.attrs); }, inputs, wanted, differentiable);
        const Results plain = run([&](const auto& in) { return std::vector<Tensor>{op.reference(in, sample.attrs)}; }, inputs,
                                  wanted, differentiable);
        compare(fused, plain, dtype == DType::f64 ? 1e-10 : sample.tolerance_f32, true);
        ++tally.ran;
      }
    }
  }
  CHECK(tally.ran > 0);
  tally.print("fused against plain, CPU");
}

TEST_CASE("strided inputs give the bits of packed ones") {
  Tally tally;
  for (const OpEntry& op : registered_ops()) {
    for (const Sample& sample : op.samples()) {
      const std::vector<Tensor> inputs = make_inputs(sample, DType::f32);
      if (std::all_of(inputs.begin(), inputs.end(), [](const Tensor& x) { return !x || x.is_contiguous(); })) continue;
      INFO(op.name, " ", sample.label);
      std::vector<Tensor> packed;
      for (const Tensor& x : inputs) packed.push_back(x ? contiguous(x) : Tensor());
      const NoGrad no_grad;
      CHECK(relative_difference(op.run(inputs, sample.attrs)[0], op.run(packed, sample.attrs)[0]) == 0);
      ++tally.ran;
    }
  }
  CHECK(tally.ran > 0);
  tally.print("strided against packed");
}

TEST_CASE("bf16 on the CPU against f64") {
  Tally tally;
  for (const OpEntry& op : registered_ops()) {
    for (const Sample& sample : op.samples()) {
      INFO(op.name, " ", sample.label);
      const std::vector<Tensor> inputs = make_inputs(sample, DType::bf16);
      std::vector<Tensor> exact;
      for (const Tensor& x : inputs) exact.push_back(x && is_float(x.dtype()) ? contiguous(cast_to(x, DType::f64)) : x);
      const NoGrad no_grad;
      const Tensor low = op.run(inputs, sample.attrs)[0], high = op.run(exact, sample.attrs)[0];
      const double error = relative_difference(cast_to(low, high.dtype()), high);
      CHECK_MESSAGE(error <= sample.tolerance_bf16, error, " > ", sample.tolerance_bf16);
      ++tally.ran;
    }
  }
  tally.print("bf16 against f64, CPU");
}

TEST_CASE("CPU against CUDA, forward and gradient") {
  Tally tally;
  if (!cuda_available()) {
    for (const OpEntry& op : registered_ops()) tally.skipped += static_cast<int>(2 * op.samples().size());
    tally.reasons = "\n    no GPU on this machine";
    tally.print("CPU against CUDA");
    return;
  }
  for (const OpEntry& op : registered_ops()) {
    for (const Sample& sample : op.samples()) {
      for (DType dtype : {DType::f32, DType::bf16}) {
        INFO(op.name, " ", sample.label, " ", name_of(dtype));
        const std::vector<Tensor> inputs = make_inputs(sample, dtype);
        const std::vector<bool> wanted = differentiable_inputs(sample);
        const bool differentiable = op.not_differentiable.empty();
        const auto f = [&](const auto& in) { return op.run(in, sample.attrs); };
        const Results cpu = run(f, inputs, wanted, differentiable);
        const Results cuda = run(f, on(inputs, Device::cuda), wanted, differentiable);
        compare(cuda, cpu, dtype == DType::f32 ? sample.tolerance_f32 : sample.tolerance_bf16, false);
        const Results again = run(f, on(inputs, Device::cuda), wanted, differentiable);
        compare(again, cuda, 0, false);
        ++tally.ran;
      }
    }
  }
  tally.print("CPU against CUDA");
}
