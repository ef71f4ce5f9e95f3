#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "nn/config.h"
#include "tools/train/fields.h"

namespace flare {

/// Which data, and how it reaches the model.
struct TaskConfig {
  std::string name = "listops";
  std::string data = "data/listops";
  std::string generate;  // what `flare data generate` needs beside --out
  int64_t max_length = 0;
  bool pad_to_max = false;
  int64_t length_steps = 16;
  double derivative_weight = 0;
  std::string time = "channels";
  bool teacher_forcing = true;
  std::string objective = "label";
  double masked_share = 0.5;
  std::string symmetries = "none";

  template <class F> void describe(F& f) {
    f("name", name, "name of the task, for messages and reports");
    f("data", data, "prepared data folder (see `flare data`)");
    f("generate", generate, "arguments with which `flare data generate` makes that folder; shown when it is missing");
    f("max_length", max_length, "longest sequence; 0: what the data folder says", Between{0, 1e9});
    f("pad_to_max", pad_to_max, "pad every batch to max_length instead of to its longest sequence");
    f("length_steps", length_steps,
      "training batches are padded to one of about this many lengths up to max_length, since a captured step serves one length; 0: "
      "to "
      "their longest sequence",
      Between{0, 1e9});
    f("derivative_weight", derivative_weight, "fields on a 2-D grid: weight in the loss of the relative L2 of both derivatives",
      Between{0, 1e6});
    f("time", time,
      "fields at several recorded times: channels, all at once; condition, one at a time, the time being an input; rollout, the "
      "next "
      "frame from the last ones, again and again",
      OneOf{{"channels", "condition", "rollout"}});
    f("teacher_forcing", teacher_forcing,
      "rollout: train on windows of true frames; false: of the model's own predictions, with gradients through all steps");
    f("objective", objective,
      "what is learned: the data's labels or fields (label), or, from the tokens alone, to restore hidden ones (reconstruct)",
      OneOf{{"label", "reconstruct"}});
    f("masked_share", masked_share, "reconstruct: share of a sample's tokens that is hidden, others in every epoch", Between{0, 1});
    f("symmetries", symmetries,
      "square pictures: turn each training sample, other ways in every epoch: mirror, left and right; square, all eight ways",
      OneOf{{"none", "mirror", "square"}});
  }
};

/// How long to train, how to batch, how often to report and save.
struct TrainConfig {
  int64_t steps = 10000;
  int64_t batch_size = 32;
  int64_t eval_batch_size = 0;
  std::string precision = "fp32";
  double clip_norm = 1.0;
  int64_t accumulate = 1;
  double ema_decay = 0;
  int64_t log_every = 50;
  int64_t eval_every = 1000;
  int64_t checkpoint_every = 1000;
  bool prefetch = true;
  std::string recompute = "auto";
  std::string init;

  template <class F> void describe(F& f) {
    f("steps", steps, "optimizer steps", Between{1, 1e12});
    f("batch_size", batch_size, "samples of one forward pass", Between{1, 1e9});
    f("eval_batch_size", eval_batch_size, "samples of one forward pass in evaluation; 0: batch_size", Between{0, 1e9});
    f("precision", precision, "arithmetic: bf16 activations and products beside fp32 weights, tf32 products, or plain fp32",
      OneOf{{"fp32", "tf32", "bf16"}});
    f("clip_norm", clip_norm, "largest global gradient norm; 0: no clipping", Between{0, 1e30});
    f("accumulate", accumulate, "batches whose gradients are averaged into one step", Between{1, 1e6});
    f("ema_decay", ema_decay, "decay of the moving average of the weights, used for evaluation; 0: none", Between{0, 1});
    f("log_every", log_every, "steps between lines of metrics", Between{1, 1e12});
    f("eval_every", eval_every, "steps between evaluations on the validation split", Between{1, 1e12});
    f("checkpoint_every", checkpoint_every, "steps between checkpoints", Between{1, 1e12});
    f("prefetch", prefetch, "prepare the next batch in another thread");
    f("recompute", recompute,
      "what backward computes again in place of keeping it: none, norms, keys (and norms), or auto, the least with which a step "
      "fits",
      OneOf{{"auto", "none", "norms", "keys"}});
    f("init", init,
      "run folder (of --seeds: of the same seed) or .safetensors file whose weights, where name and shape agree, a new run begins "
      "with; empty: none");
  }
};

/// Everything that determines a run: the content of a recipe file and, with `version`, of a run folder's config.json.
struct Recipe {
  TaskConfig task;
  ModelConfig model;
  TrainConfig train;
  OptimConfig optim;
  uint64_t seed = 0;
  std::string version;

  template <class F> void describe(F& f) {
    f("task", task, "which data");
    f("model", model, "the network");
    f("train", train, "length, batches, reports");
    f("optim", optim, "optimizer and schedule");
    f("compat", model.compat, "behaviours kept only to reproduce published numbers");
    f("seed", seed, "seed of weights, shuffling and dropout");
    f("version", version, "version of flare that wrote this file");
  }
  FieldList fields() {
    FieldList list;
    describe(list);
    return list;
  }
};

/// Reads a recipe file, then applies "key=value" assignments in order. ConfigError (exit 2) for a wrong key or value; a
/// missing recipe file is a ConfigError too.
Recipe read_recipe(const std::string& path, const std::vector<std::string>& assignments = {});
/// The same from JSON text; `where` stands in the messages.
Recipe parse_recipe(const std::string& text, const std::string& where, const std::vector<std::string>& assignments = {});
/// Every value, nested as in the file.
Json recipe_json(Recipe recipe);
/// SHA-256 over every value but the version.
std::string recipe_hash(Recipe recipe);
/// "" when equal, else "train.steps is 100 there and 200 here" for the first key that differs; the version is left out.
std::string first_difference(Recipe there, Recipe here);
/// One line a key: name, type and limits, default, help.
std::string config_help();

}  // namespace flare
