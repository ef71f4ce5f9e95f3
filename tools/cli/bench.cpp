#include "tools/cli/bench.h"

#include <algorithm>
#include <memory>

#include "core/allocator.h"
#include "core/graph.h"
#include "core/timer.h"
#include "tools/cli/commands.h"
#include "tools/cli/help.h"

namespace flare {
namespace {

constexpr double kEnoughMicroseconds = 1e6;
constexpr int kFewestSamples = 5;

double median_of(std::vector<double> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

double copy_rate(Device device, int64_t bytes) {
  const Tensor from = Tensor::zeros({bytes}, DType::u8, device), to = Tensor::zeros({bytes}, DType::u8, device);
  StreamTimer timer(device);
  std::vector<double> times;
  for (int i = -kBenchWarmUp; i < 20; ++i) {
    timer.start();
    copy(from, to);
    timer.stop();
    if (i >= 0) times.push_back(timer.microseconds());
  }
  return 2e6 * static_cast<double>(bytes) / median_of(times);
}

}  // namespace

BenchDevice open_bench_device(const std::string& word) {
  BenchDevice on;
  on.device = parse_device(word);
  on.name = "cpu";
  int64_t bytes = int64_t{256} << 20;
  if (on.device == Device::cuda) {
    const CudaInfo gpu = cuda_info(word.starts_with("cuda:") ? std::stoi(word.substr(5)) : 0);
    on.name = gpu.name;
    on.multiprocessors = gpu.multiprocessors;
    on.clock_khz = gpu.clock_khz;
    on.exps_per_s = 16.0 * gpu.multiprocessors * 1e3 * static_cast<double>(gpu.clock_khz);
    on.flush = Tensor::empty({kFlushBytes}, DType::u8, on.device);
    bytes = std::min(int64_t{1} << 30, gpu.free_bytes / 8);
  }
  on.copy_bytes_per_s = copy_rate(on.device, bytes);
  release_cached(on.device);
  return on;
}

BenchTimes measure(const BenchDevice& on, int repeats, bool graph, int calls, const std::function<void(int)>& body) {
  const auto all = [&] {
    for (int i = 0; i < calls; ++i) body(i);
  };
  for (int i = 0; i < kBenchWarmUp; ++i) all();
  Graph recorded;
  if (graph) {
    recorded.capture(all);
    recorded.replay();
  }
  compute_stream(on.device).synchronize();
  StreamTimer timer(on.device);
  std::vector<double> times;
  double total = 0;
  for (int i = 0; i < repeats && (i < kFewestSamples || total < kEnoughMicroseconds); ++i) {
    if (on.flush) fill(on.flush, i % 2);
    timer.start();
    if (graph)
      recorded.replay();
    else
      all();
    timer.stop();
    const double us = timer.microseconds();
    total += us;
    times.push_back(us / calls);
  }
  return {median_of(times), *std::min_element(times.begin(), times.end()), static_cast<int>(times.size())};
}

int64_t peak_extra_bytes(Device device, const std::function<void()>& body) {
  reset_peak(device);
  const int64_t before = memory_stats(device).current;
  body();
  return memory_stats(device).peak - before;
}

void add_bench(CLI::App& app, int&) {
  CLI::App* bench = app.add_subcommand("bench", "Measure speed");
  bench->require_subcommand(1);
  bench->footer(
      help_footer({"flare bench step listops", "flare bench memory all --capacity 24", "flare bench ops --filter softmax"}));
  add_bench_mixer(*bench);
  add_bench_sdpa(*bench);
  add_bench_memory(*bench);
  add_bench_step(*bench);
  add_bench_ops(*bench);
}

}  // namespace flare
