/// `flare bench step`: real training steps on a synthetic batch. tools/bench/peer_step.py does the same with PyTorch.
#include <algorithm>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "core/allocator.h"
#include "core/parallel.h"
#include "core/timer.h"
#include "tools/cli/bench.h"
#include "tools/cli/bench_settings.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"
#include "tools/train/memory_plan.h"
#include "tools/train/progress.h"
#include "tools/train/step.h"

namespace flare {
namespace {

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
               {"tokens", s.kind == SettingKind::pair ? 2 * length : length},
               {"mixer", recipe.model.mixer},
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
  const Recompute recompute = recipe.train.recompute == "auto" ? Recompute::none : recompute_named(recipe.train.recompute);
  const std::unique_ptr<Task> owned = synthetic_task(s, recipe, length);
  Task& task = *owned;
  task.model().to(device);
  Optimizer optimizer(task.parameters(), recipe.optim, 100000, recipe.train.clip_norm, recipe.train.ema_decay);
  TrainStep step(task, optimizer, device, {1, dtype, recipe.seed, !o.no_graph, recompute});
  line["parameters"] = count_elements(task.parameters());
  line["recompute"] = name_of(recompute);
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
  const std::vector<std::string> words = expand_settings(o.settings);
  for (const std::string& word : words) {
    const auto [setting, recipe] = choose_setting(word, o.assignments);
    const Setting& s = *setting;
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
  command->add_option("settings", o->settings, cat("settings (", setting_names(), "), all, or recipe files of such tasks"))
      ->required()
      ->type_name("SETTING");
  add_set_option(*command, o->assignments, "change a key of the recipe: --set train.precision=fp32");
  command->add_option("--tokens", o->tokens, "tokens or points of a sample, in place of the setting's")->check(CLI::PositiveNumber);
  add_device_option(*command, o->device);
  command->add_option("--repeats", o->samples, "steps measured; fewer once four seconds have passed, at least five")
      ->capture_default_str()
      ->check(CLI::PositiveNumber);
  command->add_flag("--no-graph", o->no_graph, "on a GPU, run every op by itself in place of a captured step");
  command->add_flag("--no-mask", o->no_mask, "sequences of full length without a mask, where the setting has padding");
  command->add_flag("--no-profile", o->no_profile, "leave out the time by kernel");
  command->add_flag("--json", o->json, "one JSON object a line");
  command->footer(
      help_footer({"flare bench step listops", "flare bench step all --json", "flare bench step darcy --device cpu --repeats 1"}));
  command->callback([o] { bench_step(*o); });
}

}  // namespace flare
