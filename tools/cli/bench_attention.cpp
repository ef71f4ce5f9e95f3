#include "tools/cli/bench_attention.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <sstream>

#include <fmt/format.h>

#include "autograd/node.h"
#include "core/allocator.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "tools/cli/options.h"
#include "tools/train/progress.h"

namespace flare {
namespace {

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> words;
  std::istringstream in(text);
  for (std::string word; std::getline(in, word, ',');)
    if (!word.empty()) words.push_back(word);
  return words;
}

/// Normal numbers for tensors of any size: one block of a prime length, repeated from different places.
class Normals {
 public:
  explicit Normals(Device device) {
    std::vector<float> values(kLength);
    parallel_for(kLength, 1 << 14, [&](int64_t begin, int64_t end) {
      Rng rng(static_cast<uint64_t>(begin));
      for (int64_t i = begin; i < end; ++i) values[static_cast<size_t>(i)] = static_cast<float>(rng.normal());
    });
    block_ = to_device(Tensor::from(values, {kLength}), device);
  }
  Tensor tensor(const Shape& shape, DType dtype) {
    const Tensor out = Tensor::empty(shape, dtype, block_.device());
    const int64_t n = out.numel();
    for (int64_t at = 0; at < n;) {
      const int64_t count = std::min(n - at, kLength - next_);
      copy(block_.view({count}, {1}, next_), out.view({count}, {1}, at));
      at += count;
      next_ = (next_ + count) % kLength;
    }
    next_ = (next_ + 104729) % kLength;
    return out;
  }

 private:
  static constexpr int64_t kLength = 4194301;
  Tensor block_;
  int64_t next_ = 0;
};

/// One set of inputs; q, k and v are leaves.
struct Inputs {
  Tensor q, k, v, g;
};

struct Bench {
  std::string name;
  const AttentionBenchOptions& options;
  BenchDevice on;
  bool graph;
  Normals normals;
};

/// Enough sets that all calls of a sample together read 64 MiB of k in f32, 16 at most: short calls are timed several at a time.
int calls_of(const Bench& bench, const AttentionCase& c) {
  if (bench.on.device == Device::cpu) return 1;
  return static_cast<int>(std::clamp<int64_t>((int64_t{64} << 20) / (4 * c.kv.numel()), 1, 16));
}

Tensor padding_mask(const Bench& bench, const AttentionCase& c) {
  if (bench.options.mask == 0) return {};
  const auto N = static_cast<size_t>(c.at.N), live = N - std::min(N - 1, static_cast<size_t>(bench.options.mask * c.at.N));
  std::vector<uint8_t> mask(static_cast<size_t>(c.at.B) * N);
  for (size_t i = 0; i < mask.size(); ++i) mask[i] = i % N < live;
  return to_device(Tensor::from(mask, {c.at.B, c.at.N}), bench.on.device);
}

void put_times(Json& line, const std::string& key, const BenchTimes& t, double bytes, double exps, const BenchDevice& on) {
  const double copy_ms = 1e3 * bytes / on.copy_bytes_per_s, exp_ms = on.exps_per_s > 0 ? 1e3 * exps / on.exps_per_s : 0;
  line[key + "_ms"] = 1e-3 * t.median_us;
  line[key + "_least_ms"] = 1e-3 * t.least_us;
  line[key + "_samples"] = t.samples;
  line[key + "_bytes"] = bytes;
  line[key + "_exps"] = exps;
  line[key + "_floor_ms"] = std::max(copy_ms, exp_ms);
  line[key + "_floor_by"] = exp_ms > copy_ms ? "exponentials" : "bytes";
  line[key + "_share"] = std::max(copy_ms, exp_ms) / (1e-3 * t.median_us);
}

void measure_case(Bench& bench, const AttentionCase& c, Json& line) {
  const AttentionBenchOptions& o = bench.options;
  const Device device = bench.on.device;
  const int calls = calls_of(bench, c);
  line["calls"] = calls;
  // Scores have standard deviation scale * sigma * sqrt(D); a range of R means R / 4.
  const double sigma = o.score_range > 0 ? o.score_range / 4 / (c.scale * std::sqrt(static_cast<double>(c.at.D))) : c.q_sigma;
  const Tensor mask = padding_mask(bench, c);
  std::vector<Inputs> sets;
  for (int i = 0; i < calls; ++i) {
    const Tensor noise = to_device(bench.normals.tensor(c.q, DType::f32), Device::cpu);
    std::vector<float> values(static_cast<size_t>(noise.numel()));
    for (size_t e = 0; e < values.size(); ++e) values[e] = static_cast<float>(sigma) * noise.data<float>()[e];
    sets.push_back({to_device(cast_to(Tensor::from(values, c.q), c.q_dtype), device), bench.normals.tensor(c.kv, c.dtype),
                    bench.normals.tensor(c.kv, c.dtype), Tensor()});
  }
  const double element = static_cast<double>(size_of(c.dtype));
  {
    const NoGrad no_grad;
    const auto run = [&](int i) {
      c.forward(sets[static_cast<size_t>(i)].q, sets[static_cast<size_t>(i)].k, sets[static_cast<size_t>(i)].v, mask);
    };
    const BenchTimes t = measure(bench.on, o.repeats, bench.graph, calls, run);
    put_times(line, "forward", t, element * c.forward_elements, c.forward_exps, bench.on);
    line["forward_peak_bytes"] = peak_extra_bytes(device, [&] { run(0); });
  }
  if (o.forward_only || o.kernel != "auto") return;
  for (Inputs& s : sets) {
    for (const Tensor& leaf : {s.q, s.k, s.v}) set_requires_grad(leaf);
    s.g = bench.normals.tensor(c.forward(s.q.detach(), s.k.detach(), s.v.detach(), mask).shape(), c.dtype);
  }
  const auto clear = [](const Inputs& s) { clear_grad(s.q), clear_grad(s.k), clear_grad(s.v); };
  const auto run = [&](int i) {
    const Inputs& s = sets[static_cast<size_t>(i)];
    clear(s);
    backward(c.forward(s.q, s.k, s.v, mask), s.g);
  };
  const BenchTimes t = measure(bench.on, o.repeats, bench.graph, calls, run);
  put_times(line, "both", t, element * c.both_elements, c.both_exps, bench.on);
  for (const Inputs& s : sets) clear(s);
  line["both_peak_bytes"] = peak_extra_bytes(device, [&] { run(0); });
}

Json settings_of(const Bench& bench, const AttentionCase& c, const std::string& precision) {
  const AttentionBenchOptions& o = bench.options;
  const AttentionShape& at = c.at;
  return {{"bench", bench.name},
          {"program", "flare"},
          {"version", FLARE_VERSION},
          {"shape", at.name},
          {"B", at.B},
          {"H", at.H},
          {"D", at.D},
          {"M", at.M},
          {"N", at.N},
          {"dtype", precision},
          {"kernel", o.kernel},
          {"graph", bench.graph},
          {"repeats", o.repeats},
          {"mask", o.mask},
          {"score_range", o.score_range},
          {"device", bench.on.name},
          {"threads", bench.on.device == Device::cpu ? thread_count() : 0},
          {"multiprocessors", bench.on.multiprocessors},
          {"clock_khz", bench.on.clock_khz},
          {"copy_bytes_per_s", bench.on.copy_bytes_per_s},
          {"exps_per_s", bench.on.exps_per_s},
          {"flush_bytes", bench.on.flush ? kFlushBytes : 0}};
}

void print_line(const Json& line) {
  if (line.contains("error")) {
    std::printf("%s", fmt::format("{:20} {:5} {}\n", line["shape"].get<std::string>(), line["dtype"].get<std::string>(),
                                  line["error"].get<std::string>())
                          .c_str());
    return;
  }
  const auto part = [&](const std::string& key) {
    if (!line.contains(key + "_ms")) return fmt::format("{:>10} {:>6} {:>11}", "-", "-", "-");
    return fmt::format("{:10.3f} {:5.0f}% {:>11}", line[key + "_ms"].get<double>(), 100 * line[key + "_share"].get<double>(),
                       format_bytes(line[key + "_peak_bytes"].get<int64_t>()));
  };
  std::printf("%s", fmt::format("{:20} {:5} {} {}\n", line["shape"].get<std::string>(), line["dtype"].get<std::string>(),
                                part("forward"), part("both"))
                        .c_str());
}

}  // namespace

void add_attention_options(CLI::App& command, AttentionBenchOptions& o) {
  command.add_option("--dtype", o.dtypes, "comma separated: f32, tf32 (f32 tensors, matrix units allowed), bf16")
      ->capture_default_str();
  add_device_option(command, o.device);
  command.add_option("--graph", o.graph, "replay a captured CUDA graph (auto: on CUDA) or launch eagerly")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "on", "off"}));
  command.add_option("--repeats", o.repeats, "samples per case, at most")->capture_default_str()->check(CLI::PositiveNumber);
  command.add_option("--threads", o.threads, "CPU threads (0: as FLARE_THREADS says)")->check(CLI::NonNegativeNumber);
  command.add_option("--mask", o.mask, "fraction of padded keys at the end of each sample")->check(CLI::Range(0.0, 1.0));
  command
      .add_option("--score-range", o.score_range,
                  "scale q so that nearly all scores lie within +-R (0: q = 0.1 N(0,1) for the mixer, N(0,1) for sdpa)")
      ->check(CLI::NonNegativeNumber);
  command.add_flag("--forward-only", o.forward_only, "leave the backward pass out");
  command.add_flag("--json", o.json, "one JSON object a line");
}

std::vector<AttentionShape> parse_attention_shapes(const std::string& text, const std::vector<AttentionShape>& known) {
  std::vector<AttentionShape> shapes;
  std::vector<int64_t> numbers;
  for (const std::string& word : split(text)) {
    if (int64_t n = 0; std::from_chars(word.data(), word.data() + word.size(), n).ptr == word.data() + word.size()) {
      check<ConfigError>(n >= 1, "bench: a shape holds ", word, "; every number of B,H,D,M,N must be positive");
      numbers.push_back(n);
      if (numbers.size() < 5) continue;
      const std::string name = fmt::format("{}", fmt::join(numbers, "x"));
      shapes.push_back({name, numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]});
      numbers.clear();
      continue;
    }
    check<ConfigError>(numbers.empty(), "bench: a shape needs five numbers B,H,D,M,N before ", word);
    const auto at = std::find_if(known.begin(), known.end(), [&](const AttentionShape& s) { return s.name == word; });
    if (at == known.end()) {
      std::string names;
      for (const AttentionShape& s : known) names += (names.empty() ? "" : ", ") + s.name;
      throw ConfigError(cat("bench: no shape ", word, "; there are ", names, ", or five numbers B,H,D,M,N"));
    }
    shapes.push_back(*at);
  }
  check<ConfigError>(numbers.empty(), "bench: a shape needs five numbers B,H,D,M,N, got ", numbers.size());
  check<ConfigError>(!shapes.empty(), "bench: --shapes is empty");
  return shapes;
}

void bench_attention(const std::string& name, const std::vector<AttentionShape>& shapes, const AttentionBenchOptions& o,
                     const AttentionCaseMaker& make) {
  const std::vector<std::string> precisions = split(o.dtypes);
  for (const std::string& p : precisions)
    check<ConfigError>(p == "f32" || p == "tf32" || p == "bf16", "bench: dtype ", p, " is not f32, tf32 or bf16");
  if (o.threads > 0) set_thread_count(o.threads);
  const BenchDevice on = open_bench_device(o.device);
  check<ConfigError>(o.graph != "on" || on.device == Device::cuda, "bench: --graph on needs a GPU: graphs record CUDA work");
  Bench bench{name, o, on, o.graph == "on" || (o.graph == "auto" && on.device == Device::cuda), Normals(on.device)};
  if (!o.json) {
    const std::string exps = on.exps_per_s > 0 ? fmt::format("{:.2f}e12/s by the datasheet", 1e-12 * on.exps_per_s) : "not counted";
    std::printf("%s", fmt::format("{}: copy {:.0f} GB/s, exponentials {}, {}\n", on.name, 1e-9 * on.copy_bytes_per_s, exps,
                                  bench.graph ? "captured graph" : "eager launches")
                          .c_str());
    std::printf("%s", fmt::format("{:20} {:5} {:>10} {:>6} {:>11} {:>10} {:>6} {:>11}\n", "shape", "dtype", "fwd ms", "floor",
                                  "extra", "fwd+bwd ms", "floor", "extra")
                          .c_str());
  }
  const bool tf32_before = tf32_enabled();
  for (const AttentionShape& shape : shapes)
    for (const std::string& precision : precisions) {
      if (precision == "tf32" && on.device == Device::cpu) continue;  // the CPU has no such units
      const AttentionCase c = make(shape, precision == "bf16" ? DType::bf16 : DType::f32);
      Json line = settings_of(bench, c, precision);
      set_tf32(precision == "tf32");
      try {
        measure_case(bench, c, line);
      } catch (const OutOfMemory& e) { line["error"] = e.what(); } catch (const ShapeError& e) {
        line["error"] = e.what();
      }
      set_tf32(tf32_before);
      release_cached(on.device);
      if (o.json)
        std::printf("%s\n", line.dump().c_str());
      else
        print_line(line);
      std::fflush(stdout);
    }
}

}  // namespace flare
