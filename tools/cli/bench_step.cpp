/// `flare bench step`: real training steps on a synthetic batch. tools/bench/peer_step.py does the same with PyTorch.
#include <algorithm>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "core/allocator.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "core/timer.h"
#include "nn/models/lra_classifier.h"
#include "nn/models/pde_operator.h"
#include "ops/loss.h"
#include "ops/shaping.h"
#include "tools/cli/bench.h"
#include "tools/train/progress.h"
#include "tools/train/step.h"

namespace flare {
namespace {

enum class Kind { sequence, pair, points };

/// What the data would say, and the published settings as a recipe.
struct Setting {
  const char* name;
  Kind kind;
  int64_t length;
  int64_t vocabulary, n_classes;      // sequence, pair
  int64_t in_channels, out_channels;  // points
  bool ragged;                        // sequences of n/4 to n tokens, masked; otherwise all of n
  const char *model, *train;
};

constexpr const char* kLra = R"("blocks": 4, "channels": 128, "heads": 8, "latents": 128, "kv_layers": 3, "ffn_layers": 3)";
constexpr const char* kPde = R"("blocks": 8, "channels": 64, "heads": 8, "kv_layers": 3, "ffn_layers": 3)";
const Setting kSettings[] = {
    {"listops", Kind::sequence, 2000, 16, 10, 0, 0, true, kLra, R"("batch_size": 32, "precision": "bf16")"},
    {"text", Kind::sequence, 4000, 257, 2, 0, 0, true, R"("position": "rope", "pool": "cls", "scale": 0.25, *lra)",
     R"("batch_size": 32, "precision": "bf16")"},
    {"retrieval", Kind::pair, 4000, 257, 2, 0, 0, true, kLra, R"("batch_size": 32, "precision": "bf16")"},
    {"image", Kind::sequence, 1024, 256, 10, 0, 0, false,
     R"("blocks": 3, "channels": 64, "heads": 8, "latents": 256, "kv_layers": 2, "ffn_layers": 1)",
     R"("batch_size": 32, "precision": "bf16")"},
    {"pathfinder", Kind::sequence, 1024, 256, 2, 0, 0, false, R"("dropout": 0.1, *lra)",
     R"("batch_size": 32, "precision": "fp32", "clip_norm": 0.5)"},
    {"elasticity", Kind::points, 972, 0, 0, 2, 1, false, R"("latents": 64, *pde)", R"("batch_size": 2, "ema_decay": 0.999)"},
    {"darcy", Kind::points, 7225, 0, 0, 3, 1, false, R"("latents": 128, *pde)", R"("batch_size": 2, "ema_decay": 0.999)"},
    {"drivaer40k", Kind::points, 40000, 0, 0, 3, 1, false, R"("latents": 64, *pde)", R"("batch_size": 1, "ema_decay": 0.999)"},
    {"1m", Kind::points, int64_t{1} << 20, 0, 0, 3, 1, false,
     R"("blocks": 8, "channels": 128, "heads": 8, "latents": 128, "kv_layers": 3, "ffn_layers": 3)",
     R"("batch_size": 1, "precision": "bf16")"},
};

std::string known_names() {
  std::string names;
  for (const Setting& s : kSettings) names += cat(names.empty() ? "" : ", ", s.name);
  return names;
}

const Setting& setting_named(const std::string& name) {
  for (const Setting& s : kSettings)
    if (name == s.name) return s;
  throw ConfigError(
      cat("bench step: no setting ", quoted(name), "; there are ", known_names(), ", all, or a recipe of such a task"));
}

Recipe recipe_of_setting(const Setting& s, const std::vector<std::string>& assignments) {
  std::string model = s.model;
  for (const auto& [word, text] : {std::pair{"*lra", kLra}, std::pair{"*pde", kPde}})
    if (const size_t at = model.find(word); at != std::string::npos) model.replace(at, 4, text);
  return parse_recipe(cat(R"({"task": {"name": ")", s.name, R"("}, "model": {)", model, R"(}, "train": {)", s.train,
                          R"(}, "optim": {"lr": 5e-4}})"),
                      s.name, assignments);
}

/// The model of a setting, without data.
class SyntheticTask : public Task {
 public:
  SyntheticTask(const Setting& s, const Recipe& recipe, int64_t length) : kind_(s.kind) {
    if (kind_ == Kind::points)
      points_ = std::make_unique<PdeOperator>(recipe.model, s.in_channels, s.out_channels, recipe.seed);
    else
      sequence_ =
          std::make_unique<LraClassifier>(recipe.model, s.vocabulary, length, s.n_classes, kind_ == Kind::pair, recipe.seed);
  }
  Module& model() override { return points_ ? static_cast<Module&>(*points_) : *sequence_; }
  Tensor forward(const Batch& b, Context& context) override {
    if (points_) return points_->forward(b.x, b.mask, context);
    if (kind_ == Kind::pair) return sequence_->forward(b.tokens, b.mask, b.tokens_b, b.mask_b, context);
    return sequence_->forward(b.tokens, b.mask, context);
  }
  Tensor loss(const Tensor& output, const Batch& b) override {
    if (points_) return relative_l2(output, b.y);
    if (output.size(1) == 1) return bce_with_logits(reshape(output, {output.size(0)}), b.labels);
    return cross_entropy(output, b.labels);
  }
  Tensor score_sum(const Tensor& output, const Batch& b) override {
    return points_ ? relative_l2(output, b.y) : correct_count(output, b.labels);
  }
  std::string score_name() const override { return points_ ? "relative_l2" : "accuracy"; }
  bool higher_is_better() const override { return !points_; }
  std::unique_ptr<Meter> new_meter() const override { throw ConfigError("bench step: a synthetic task is not evaluated"); }
  Tensor predict(const Tensor&, Context&, Device) override { throw ConfigError("bench step: a synthetic task predicts nothing"); }

 private:
  Kind kind_;
  std::unique_ptr<PdeOperator> points_;
  std::unique_ptr<LraClassifier> sequence_;
};

Batch synthetic_batch(const Setting& s, int64_t batch_size, int64_t length, bool masked, uint64_t seed) {
  Rng rng(seed);
  Batch b;
  b.n_samples = batch_size;
  const auto sequences = [&](Tensor& tokens, Tensor& mask) {
    tokens = Tensor::zeros({batch_size, length}, DType::i64);
    if (masked) mask = Tensor::zeros({batch_size, length}, DType::u8);
    for (int64_t i = 0; i < batch_size; ++i) {
      const int64_t shortest = std::max<int64_t>(length / 4, 1);
      const int64_t n = masked ? shortest + static_cast<int64_t>(rng.below(static_cast<uint64_t>(length - shortest + 1))) : length;
      for (int64_t k = 0; k < n; ++k) {
        tokens.data<int64_t>()[i * length + k] = 1 + static_cast<int64_t>(rng.below(static_cast<uint64_t>(s.vocabulary - 1)));
        if (masked) mask.data<uint8_t>()[i * length + k] = 1;
      }
      b.n_tokens += n;
    }
  };
  const auto field = [&](int64_t channels) {
    const Tensor t = Tensor::empty({batch_size, length, channels}, DType::f32);
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(rng.uniform());
    return t;
  };
  if (s.kind == Kind::points) {
    b.x = field(s.in_channels);
    b.y = field(s.out_channels);
    b.n_tokens = batch_size * length;
    return b;
  }
  sequences(b.tokens, b.mask);
  if (s.kind == Kind::pair) sequences(b.tokens_b, b.mask_b);
  b.labels = Tensor::empty({batch_size}, DType::i64);
  for (int64_t i = 0; i < batch_size; ++i)
    b.labels.data<int64_t>()[i] = static_cast<int64_t>(rng.below(static_cast<uint64_t>(s.n_classes)));
  return b;
}

struct StepBenchOptions {
  std::vector<std::string> settings, assignments;
  std::string device = "auto";
  int64_t tokens = 0;
  int samples = 30;
  bool json = false, no_graph = false, no_mask = false, no_profile = false;
};

constexpr double kEnoughSeconds = 4;
constexpr int kFewest = 5;

Json bench_setting(const Setting& s, const Recipe& recipe, Device device, const std::string& gpu, const StepBenchOptions& o) {
  const int64_t length = o.tokens > 0 ? o.tokens : s.length, batch_size = recipe.train.batch_size;
  const bool masked = s.ragged && !o.no_mask;
  Json line = {{"bench", "step"},
               {"program", "flare"},
               {"version", FLARE_VERSION},
               {"setting", s.name},
               {"precision", recipe.train.precision},
               {"mask", masked ? "lengths n/4 to n" : "none"},
               {"batch_size", batch_size},
               {"tokens", s.kind == Kind::pair ? 2 * length : length},
               {"channels", recipe.model.channels},
               {"blocks", recipe.model.blocks},
               {"latents", recipe.model.latents},
               {"dropout", recipe.model.dropout},
               {"device", gpu},
               {"threads", device == Device::cpu ? thread_count() : 0}};
  release_cached(device);
  reset_peak(device);
  const int64_t live_before = memory_stats(device).current;
  const DType dtype = apply_precision(recipe.train.precision);
  SyntheticTask task(s, recipe, length);
  task.model().to(device);
  Optimizer optimizer(task.parameters(), recipe.optim, 100000, recipe.train.clip_norm, recipe.train.ema_decay);
  TrainStep step(task, optimizer, device, {1, dtype, recipe.seed, !o.no_graph});
  line["parameters"] = count_elements(task.parameters());
  // Several batches of one shape, so that the copies are as real as in training.
  std::vector<Batch> batches;
  for (uint64_t i = 0; i < 3; ++i) batches.push_back(synthetic_batch(s, batch_size, length, masked, i));
  size_t next = 0;
  const auto run = [&] { step.run(batches[next++ % batches.size()], 0); };
  StreamTimer first(device);
  for (int i = 0; i < kBenchWarmUp; ++i) run();
  first.start();
  run();
  first.stop();
  const double about_ms = std::max(first.microseconds() / 1e3, 1e-3);
  const int samples = static_cast<int>(
      std::clamp(kEnoughSeconds * 1e3 / about_ms, double{kFewest}, static_cast<double>(std::max(o.samples, kFewest))));
  // Events stand between steps that follow each other without a pause: waiting for the host counts.
  std::vector<std::unique_ptr<StreamTimer>> timers;
  for (int i = 0; i < samples; ++i) timers.push_back(std::make_unique<StreamTimer>(device));
  run();
  for (const auto& timer : timers) {
    timer->start();
    run();
    timer->stop();
  }
  std::vector<double> times;
  for (const auto& timer : timers) times.push_back(timer->microseconds() / 1e3);
  std::sort(times.begin(), times.end());
  check<NumericError>(optimizer.bad_step().item() < 0, "bench step: ", s.name, ": the loss is not finite");
  line["mode"] = device == Device::cpu ? "cpu" : step.captures() ? "graph" : "eager";
  line["median_ms"] = times[times.size() / 2];
  line["least_ms"] = times.front();
  line["samples"] = samples;
  line["peak_bytes"] = memory_stats(device).peak - live_before;
  line["reserved_bytes"] = memory_stats(device).reserved;
  if (step.captures()) line["launches"] = step.n_nodes();
  if (device == Device::cuda && !o.no_profile) {
    // The events between launches take time too: what they add to the whole is taken off in equal parts.
    const std::vector<LaunchProfile::Entry> entries = step.profile(batches[0]);
    double total_ms = 0;
    int64_t n_launches = 0;
    for (const LaunchProfile::Entry& e : entries) total_ms += e.microseconds / 1e3, n_launches += e.n;
    const double extra_ms =
        step.captures() ? std::max(total_ms - times[times.size() / 2], 0.0) / static_cast<double>(n_launches) : 0;
    Json parts = Json::array();
    for (const LaunchProfile::Entry& e : entries)
      parts.push_back({{"name", e.name}, {"launches", e.n}, {"ms", e.microseconds / 1e3 - extra_ms * static_cast<double>(e.n)}});
    line["profile_event_us"] = 1e3 * extra_ms;
    line["profile"] = parts;
  }
  return line;
}

void print_line(const Json& line) {
  std::printf("%s", fmt::format("{:12} {:5} {:>3} x {:<8} {:6} {:9.3f} ms  least {:9.3f}  {:>9}  mask: {}\n",
                                line["setting"].get<std::string>(), line["precision"].get<std::string>(),
                                line["batch_size"].get<int64_t>(), line["tokens"].get<int64_t>(), line["mode"].get<std::string>(),
                                line["median_ms"].get<double>(), line["least_ms"].get<double>(),
                                format_bytes(line["peak_bytes"].get<int64_t>()), line["mask"].get<std::string>())
                        .c_str());
  if (!line.contains("profile")) return;
  double total = 0;
  for (const Json& e : line["profile"]) total += e["ms"].get<double>();
  for (const Json& e : line["profile"])
    if (e["ms"].get<double>() > 0.01 * total)
      std::printf("%s", fmt::format("  {:32} {:5} launches {:9.3f} ms {:4.0f} %\n", e["name"].get<std::string>(),
                                    e["launches"].get<int64_t>(), e["ms"].get<double>(), 100 * e["ms"].get<double>() / total)
                            .c_str());
}

void bench_step(const StepBenchOptions& o) {
  const Device device = parse_device(o.device);
  const std::string gpu =
      device == Device::cuda ? cuda_info(o.device.starts_with("cuda:") ? std::stoi(o.device.substr(5)) : 0).name : "cpu";
  std::vector<std::string> words = o.settings;
  if (words == std::vector<std::string>{"all"}) {
    words.clear();
    for (const Setting& s : kSettings) words.push_back(s.name);
  }
  for (const std::string& word : words) {
    const bool is_file = word.ends_with(".json");
    const Recipe given = is_file ? read_recipe(word, o.assignments) : Recipe();
    const Setting& s = setting_named(is_file ? given.task.name : word);
    const Recipe recipe = is_file ? given : recipe_of_setting(s, o.assignments);
    try {
      const Json line = bench_setting(s, recipe, device, gpu, o);
      if (o.json)
        std::printf("%s\n", line.dump().c_str());
      else
        print_line(line);
    } catch (const OutOfMemory& error) {
      if (words.size() == 1) throw;
      if (o.json)
        std::printf("%s\n", Json{{"bench", "step"}, {"setting", s.name}, {"error", error.what()}}.dump().c_str());
      else
        std::printf("%s: %s\n", s.name, error.what());
    }
    std::fflush(stdout);
  }
}

}  // namespace

void add_bench_step(CLI::App& bench) {
  const auto o = std::make_shared<StepBenchOptions>();
  CLI::App* command = bench.add_subcommand("step", "Whole training steps of a setting, on synthetic data");
  command->add_option("settings", o->settings, cat("settings (", known_names(), "), all, or recipe files of such tasks"))
      ->required();
  command->add_option("--set", o->assignments, "change a key of the recipe: --set train.precision=fp32 (repeatable)")
      ->allow_extra_args(false)
      ->type_name("KEY=VALUE");
  command->add_option("--tokens", o->tokens, "tokens or points of a sample, in place of the setting's")->check(CLI::PositiveNumber);
  command->add_option("--device", o->device, "auto, cpu, cuda or cuda:<index>")->capture_default_str();
  command->add_option("--repeats", o->samples, "steps measured; fewer once four seconds have passed, at least five")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--no-graph", o->no_graph, "on a GPU, run every op by itself in place of a captured step");
  command->add_flag("--no-mask", o->no_mask, "sequences of full length without a mask, where the setting has padding");
  command->add_flag("--no-profile", o->no_profile, "leave out the time by kernel");
  command->add_flag("--json", o->json, "one JSON object a line");
  command->callback([o] { bench_step(*o); });
}

}  // namespace flare
