#pragma once
/// A small ListOps folder with room for run folders beside it, and runs over it.
#include <doctest/doctest.h>

#include <filesystem>

#include <unistd.h>

#include "datasets/registry.h"
#include "tools/train/trainer.h"

namespace flare {

struct TrainFixture {
  std::string path;
  Recipe recipe;
  explicit TrainFixture(const std::string& name) {
    namespace fs = std::filesystem;
    path = (fs::temp_directory_path() / ("flare_" + name + "_" + std::to_string(getpid()))).string();
    fs::remove_all(path);
    fs::create_directories(path);
    GenerateOptions options;
    options.train = 64;
    options.val = 16;
    options.test = 16;
    options.extra = {{"min_length", "4"}, {"max_length", "24"}, {"max_depth", "3"}, {"max_args", "4"}};
    generate_dataset("listops", options, path + "/data");
    recipe = parse_recipe(R"({"model": {"blocks": 1, "channels": 16, "heads": 2, "latents": 4, "kv_layers": 0, "ffn_layers": 0},
                              "train": {"steps": 8, "batch_size": 8, "log_every": 4, "eval_every": 8, "checkpoint_every": 8},
                              "optim": {"lr": 1e-3, "schedule": {"name": "constant"}}})",
                          "test");
    recipe.task.data = path + "/data";
  }
  ~TrainFixture() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

/// The weights of a trainer, as doubles.
inline std::vector<double> weights_of(const Trainer& trainer) {
  std::vector<double> all;
  for (const Parameter& p : trainer.parameters())
    for (const double x : p.value.to_vector()) all.push_back(x);
  return all;
}

/// The final weights of a run into the folder `name`.
inline std::vector<double> trained_weights(const TrainFixture& f, const Recipe& recipe, const std::string& name,
                                           Device device = Device::cpu, bool graph = true) {
  const RunFolder run = RunFolder::create(f.path + "/" + name, recipe);
  Trainer trainer(recipe, open_data(recipe), device, true, graph);
  trainer.attach(run);
  REQUIRE(trainer.run_steps());
  return weights_of(trainer);
}

}  // namespace flare
