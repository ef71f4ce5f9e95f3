#include <cstdio>
#include <filesystem>
#include <memory>

#include "tools/cli/commands.h"
#include "tools/cli/help.h"
#include "tools/cli/options.h"
#include "tools/train/seeds.h"
#include "tools/train/trainer.h"

namespace flare {

void add_train(CLI::App& app, int& exit_code) {
  struct Options {
    std::string config, run, device = "auto";
    std::vector<std::string> assignments;
    uint64_t seed = 0;
    int64_t seeds = 0;
    bool json = false;
    bool resume = false, quiet = false, dry_run = false, help_config = false, no_graph = false;
  };
  const auto o = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("train", "Train by a recipe into a run folder");
  command
      ->add_option("config", o->config, "recipe, e.g. tools/configs/lra/listops-mini.json, or a run folder to take the recipe from")
      ->type_name("RECIPE");
  add_set_option(*command, o->assignments, "change a key of the recipe: --set optim.lr=5e-4");
  add_device_option(*command, o->device);
  command->add_option("--run", o->run, "run folder; runs/<name of the recipe> when not given")->type_name("DIR");
  CLI::Option* seed = command->add_option("--seed", o->seed, "seed of weights, shuffling and dropout; overrides the recipe")
                          ->check(CLI::NonNegativeNumber);
  command
      ->add_option(
          "--seeds", o->seeds,
          "train this many runs, of the seed and those after it, into <run>-seed<k>, and sum up their test scores on stdout "
          "and in <run>-seeds.json; finished runs are kept")
      ->check(CLI::Range(2, 1000));
  command->add_flag("--resume", o->resume, "continue the run in the run folder from its last checkpoint");
  command->add_flag("--dry-run", o->dry_run, "show what would run, then stop");
  command->add_flag("--quiet", o->quiet, "no progress on stderr");
  command->add_flag("--no-graph", o->no_graph,
                    "on a GPU, run every op of a step by itself in place of a captured step; the results are the same");
  command->add_flag("--json", o->json, "print the results as one JSON object");
  command->add_flag("--help-config", o->help_config, "list every key of a recipe with type, default and meaning");
  command->footer(help_footer(
      {"flare train tools/configs/lra/listops-mini.json",
       "flare train tools/configs/lra/listops.json --set optim.lr=3e-4 --run runs/lr3",
       "flare train tools/configs/lra/listops.json --resume", "flare train tools/configs/lra/listops-mini.json --seeds 3 --json"},
      "run, seed, steps, finished, step, report, test (as flare eval --json prints it); with --seeds: run, complete, split, "
      "score_name, n, mean, std, majority_class, majority_accuracy, runs (seed, run, status, the score, loss, step, chosen_by, or "
      "exit_code and error)"));
  command->callback([o, seed, &exit_code] {
    if (o->help_config) {
      std::fputs(config_help().c_str(), stdout);
      return;
    }
    check<ConfigError>(!o->config.empty(), "train: no recipe given, for example: flare train tools/configs/lra/listops-mini.json");
    TrainOptions options;
    options.recipe = recipe_of(o->config, o->assignments);
    options.recipe.version = FLARE_VERSION;
    if (!is_run_folder(o->config)) options.recipe_name = std::filesystem::path(o->config).stem().string();
    if (seed->count() > 0) options.recipe.seed = o->seed;
    options.run = o->run;
    if (options.run.empty() && is_run_folder(o->config)) options.run = o->config;
    if (options.run.empty()) {
      options.run = "runs/" + std::filesystem::path(o->config).stem().string();
      if (options.recipe.seed != 0 && o->seeds == 0) options.run += "-seed" + std::to_string(options.recipe.seed);
    }
    options.device = o->device;
    options.resume = o->resume;
    options.quiet = o->quiet;
    options.dry_run = o->dry_run;
    options.graph = !o->no_graph;
    options.json = o->json;
    exit_code = o->seeds > 0 ? train_seeds(options, o->seeds) : train(options);
  });
}

}  // namespace flare
