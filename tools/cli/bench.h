#pragma once
#include <functional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "core/tensor.h"
#include "tools/train/fields.h"

namespace flare {

/// Each adds one subcommand of `flare bench`.
void add_bench_ops(CLI::App& bench);
void add_bench_mixer(CLI::App& bench);
void add_bench_sdpa(CLI::App& bench);
void add_bench_step(CLI::App& bench);
void add_bench_memory(CLI::App& bench);

inline constexpr int kBenchWarmUp = 3;
inline constexpr int64_t kFlushBytes = int64_t{256} << 20;  // larger than any GPU's second-level cache

/// The device of a benchmark and its ceilings.
struct BenchDevice {
  Device device = Device::cpu;
  std::string name;             // the GPU's, or "cpu"
  int multiprocessors = 0;      // 0 on the CPU
  int64_t clock_khz = 0;        // highest clock of the multiprocessors
  double copy_bytes_per_s = 0;  // of a large copy on the device, bytes read and written, measured now
  double exps_per_s = 0;        // by the datasheet: 16 per clock and multiprocessor; 0 on the CPU: not known
  Tensor flush;                 // overwritten between samples; undefined on the CPU
};
/// Parses the word as --device does and measures the copy rate.
BenchDevice open_bench_device(const std::string& word);

struct BenchTimes {
  double median_us = 0, least_us = 0;
  int samples = 0;
};
/// Time of one call of body(i), i in [0, calls): after a warm-up, each sample overwrites the flush tensor, then runs all calls in a
/// row (from a captured graph if `graph`) and divides. Time is the device's on CUDA, wall clock on the CPU. Stops early, but not
/// before five samples, once a second was measured.
BenchTimes measure(const BenchDevice& on, int repeats, bool graph, int calls, const std::function<void(int)>& body);
/// Most bytes that body() had allocated at one time beyond what was live before it.
int64_t peak_extra_bytes(Device device, const std::function<void()>& body);

}  // namespace flare
