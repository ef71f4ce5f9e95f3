/// `flare bench memory`: what a training step of a setting needs, by rehearsal; no GPU is used.
#include <algorithm>
#include <cstdio>
#include <memory>

#include <fmt/format.h>

#include "tools/cli/bench.h"
#include "tools/cli/bench_settings.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"
#include "tools/train/memory_plan.h"
#include "tools/train/progress.h"

namespace flare {
namespace {

struct MemoryBenchOptions {
  std::vector<std::string> settings, assignments;
  std::vector<int64_t> tokens;
  double capacity_gib = 0;
  bool json = false;
};

Json memory_line(const Setting& s, const Recipe& recipe, int64_t length, const MemoryBenchOptions& o) {
  const auto capacity = static_cast<int64_t>(o.capacity_gib * static_cast<double>(int64_t{1} << 30));
  Json line = {{"bench", "memory"},
               {"program", "flare"},
               {"version", FLARE_VERSION},
               {"setting", s.name},
               {"precision", recipe.train.precision},
               {"batch_size", recipe.train.batch_size},
               {"tokens", s.kind == SettingKind::pair ? 2 * length : length},
               {"channels", recipe.model.channels},
               {"blocks", recipe.model.blocks},
               {"latents", recipe.model.latents}};
  // A batch of one token a sample is enough to know which tensors there are.
  const Batch sample = synthetic_batch(s, 1, 1, s.ragged, 0);
  StepRehearsal rehearsal(synthetic_task(s, recipe, length), recipe);
  const Batch shape = shape_of_batch(sample, recipe.train.batch_size, length);
  Json levels = Json::array();
  for (const Recompute level : {Recompute::none, Recompute::norms, Recompute::keys}) {
    const MemoryNeeds n = rehearsal.needs(shape, level);
    Json entry = {{"recompute", name_of(level)}, {"weights", n.weights}, {"gradients", n.gradients},
                  {"optimizer", n.optimizer},    {"batch", n.batch},     {"activations", n.activations},
                  {"total", n.total()}};
    if (capacity > 0) entry["most_samples"] = rehearsal.most_samples(shape, level, capacity);
    levels.push_back(entry);
  }
  line["levels"] = levels;
  if (capacity > 0) line["capacity"] = capacity;
  return line;
}

void print_line(const Json& line) {
  std::printf("%s", fmt::format("{:12} {:5} {:>4} x {}\n", line["setting"].get<std::string>(), line["precision"].get<std::string>(),
                                line["batch_size"].get<int64_t>(), line["tokens"].get<int64_t>())
                        .c_str());
  for (const Json& e : line["levels"]) {
    const auto bytes = [&](const char* key) { return format_bytes(e[key].get<int64_t>()); };
    std::string text = fmt::format("  recompute {:6} {:>10}  weights {}, gradients {}, optimizer {}, batch {}, activations {}",
                                   e["recompute"].get<std::string>(), bytes("total"), bytes("weights"), bytes("gradients"),
                                   bytes("optimizer"), bytes("batch"), bytes("activations"));
    if (e.contains("most_samples")) text += fmt::format("; at most {} samples", e["most_samples"].get<int64_t>());
    std::printf("%s\n", text.c_str());
  }
}

void bench_memory(const MemoryBenchOptions& o) {
  for (const std::string& word : expand_settings(o.settings)) {
    const auto [setting, recipe] = choose_setting(word, o.assignments);
    for (const int64_t length : o.tokens.empty() ? std::vector<int64_t>{setting->length} : o.tokens) {
      const Json line = memory_line(*setting, recipe, length, o);
      if (o.json)
        std::printf("%s\n", line.dump().c_str());
      else
        print_line(line);
      std::fflush(stdout);
    }
  }
}

}  // namespace

void add_bench_memory(CLI::App& bench) {
  const auto o = std::make_shared<MemoryBenchOptions>();
  CLI::App* command = bench.add_subcommand("memory", "What training steps of a setting need on a GPU, worked out without one");
  command->add_option("settings", o->settings, cat("settings (", setting_names(), "), all, or recipe files of such tasks"))
      ->required()
      ->type_name("SETTING");
  add_set_option(*command, o->assignments, "change a key of the recipe: --set train.batch_size=64");
  command->add_option("--tokens", o->tokens, "tokens or points of a sample, in place of the setting's; several: a curve")
      ->delimiter(',')
      ->check(CLI::PositiveNumber);
  command->add_option("--capacity", o->capacity_gib, "GiB of the device: also say how many samples fit")
      ->check(CLI::PositiveNumber);
  command->add_flag("--json", o->json, "one JSON object a line");
  command->footer(help_footer({"flare bench memory all", "flare bench memory listops --capacity 24",
                               "flare bench memory darcy --tokens 1000,10000 --json"}));
  command->callback([o] { bench_memory(*o); });
}

}  // namespace flare
