#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "autograd/gradcheck.h"
#include "autograd/op.h"
#include "tools/cli/bench.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"

namespace flare {
namespace {

struct BenchOptions {
  std::string filter, device = "auto", dtype = "f32";
  int repeats = 20;
  bool json = false;
};

/// Median wall time of body() in microseconds, with queued work finished before and after. `flush` is overwritten in between.
template <class Body> double median_microseconds(int repeats, Device device, const Tensor& flush, const Body& body) {
  Stream& stream = compute_stream(device);
  std::vector<double> times;
  for (int i = -kBenchWarmUp; i < repeats; ++i) {
    if (flush) fill(flush, 0);
    stream.synchronize();
    const auto start = std::chrono::steady_clock::now();
    body();
    stream.synchronize();
    if (i >= 0) times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - start).count());
  }
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2), times.end());
  return times[times.size() / 2];
}

std::string shapes_of(const std::vector<Tensor>& tensors) {
  std::string text;
  for (const Tensor& t : tensors) text += (text.empty() ? "" : " ") + (t ? cat(t.shape()) : std::string("-"));
  return text;
}

Json bench_sample(const OpEntry& op, const Sample& sample, DType dtype, Device device, const Tensor& flush, int repeats) {
  std::vector<Tensor> inputs = make_inputs(sample, dtype);
  const std::vector<bool> wanted = differentiable_inputs(sample);
  bool any = false;
  for (size_t i = 0; i < inputs.size(); ++i) {
    if (inputs[i]) inputs[i] = to_device(inputs[i], device);
    any = any || wanted[i];
  }
  Json line = {{"op", op.name}, {"sample", sample.label}, {"inputs", shapes_of(inputs)}};
  int64_t bytes = 0;
  {
    const NoGrad no_grad;
    for (const Tensor& t : inputs)
      if (t) bytes += t.bytes();
    for (const Tensor& t : op.run(inputs, sample.attrs))
      if (t) bytes += t.bytes();
    const double us = median_microseconds(repeats, device, flush, [&] { op.run(inputs, sample.attrs); });
    line["forward_us"] = us;
    line["gb_per_s"] = us > 0 ? 1e-3 * static_cast<double>(bytes) / us : 0.0;
  }
  if (any && op.not_differentiable.empty()) {
    for (size_t i = 0; i < inputs.size(); ++i)
      if (wanted[i]) {
        inputs[i] = inputs[i].detach();
        set_requires_grad(inputs[i]);
      }
    const Tensor once = op.run(inputs, sample.attrs)[0];
    const Tensor cotangent = Tensor::full(once.shape(), 1, once.dtype(), device);
    line["forward_backward_us"] = median_microseconds(repeats, device, flush, [&] {
      backward(op.run(inputs, sample.attrs)[0], cotangent);
      for (size_t i = 0; i < inputs.size(); ++i)
        if (wanted[i]) clear_grad(inputs[i]);
    });
  }
  return line;
}

void bench_ops(const BenchOptions& o) {
  const Device device = parse_device(o.device);
  const DType dtype = o.dtype == "bf16" ? DType::bf16 : DType::f32;
  const Tensor flush = device == Device::cuda ? Tensor::empty({kFlushBytes}, DType::u8, device) : Tensor();
  int64_t n_run = 0;
  if (!o.json)
    std::printf("%s",
                fmt::format("{:20} {:28} {:>12} {:>12} {:>10}  {}\n", "op", "sample", "forward us", "fwd+bwd us", "GB/s", "inputs")
                    .c_str());
  for (const OpEntry& op : registered_ops()) {
    if (!o.filter.empty() && op.name.find(o.filter) == std::string::npos) continue;
    for (const Sample& sample : op.samples()) {
      const Json line = bench_sample(op, sample, dtype, device, flush, o.repeats);
      ++n_run;
      if (o.json) {
        std::printf("%s\n", line.dump().c_str());
        continue;
      }
      const auto both = line.find("forward_backward_us");
      std::printf(
          "%s", fmt::format("{:20} {:28} {:12.1f} {:>12} {:10.2f}  {}\n", op.name, sample.label.substr(0, 28),
                            line["forward_us"].get<double>(), both == line.end() ? "-" : fmt::format("{:.1f}", both->get<double>()),
                            line["gb_per_s"].get<double>(), line["inputs"].get<std::string>())
                    .c_str());
    }
  }
  check<ConfigError>(n_run > 0, "bench ops: no op's name contains \"", o.filter, "\"");
}

}  // namespace

void add_bench_ops(CLI::App& bench) {
  const auto o = std::make_shared<BenchOptions>();
  CLI::App* ops = bench.add_subcommand("ops", "Median time of every op on its samples, wall clock with launch");
  ops->add_option("--filter", o->filter, "only ops whose name contains this")->type_name("NAME");
  add_device_option(*ops, o->device);
  ops->add_option("--dtype", o->dtype, "f32 or bf16")->capture_default_str()->check(CLI::IsMember({"f32", "bf16"}));
  ops->add_option("--repeats", o->repeats, "measurements per case")->capture_default_str()->check(CLI::PositiveNumber);
  ops->add_flag("--json", o->json, "one JSON object a line");
  ops->footer(help_footer({"flare bench ops --device cpu", "flare bench ops --filter softmax --dtype bf16 --json"},
                          "op, sample, inputs, forward_us, gb_per_s, forward_backward_us"));
  ops->callback([o] { bench_ops(*o); });
}

}  // namespace flare
