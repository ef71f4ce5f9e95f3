#pragma once
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "tools/train/config.h"

namespace flare {

/// What a checkpoint folder holds: model.safetensors, ema.safetensors when the run averages its weights, and trainer.safetensors
/// (optimizer state, step, loader position, running sums, best score). `metadata` goes into each file.
struct CheckpointFiles {
  std::vector<NamedTensor> model, ema, trainer;
  std::map<std::string, std::string> metadata;
};

/// The folder of one run: config.json, metrics.jsonl, log.txt, checkpoints/{last,best}/, summary.json, eval-<split>.json,
/// report.html. Held by at most one training process at a time (a lock on the file `lock`, which the system drops when the process
/// dies).
class RunFolder {
 public:
  /// A new run: makes the folder and writes config.json. ConfigError when the folder already holds a run.
  static RunFolder create(const std::string& path, const Recipe& recipe);
  /// Continues the run in `path`. ConfigError when its configuration differs from `recipe`, naming the first key. A folder
  /// without a run starts one.
  static RunFolder resume(const std::string& path, const Recipe& recipe);
  RunFolder(RunFolder&& other) noexcept : path_(std::move(other.path_)), lock_(other.lock_) { other.lock_ = -1; }
  ~RunFolder();

  const std::string& path() const { return path_; }
  std::string file(const std::string& name) const { return path_ + "/" + name; }

  /// Appends one line to metrics.jsonl. DataError when the disk is full.
  void append_metrics(const Json& line) const;
  /// Drops the lines of later steps, evaluations of `step` itself unless keep_evaluation, test results, and a line cut off by a
  /// kill.
  void truncate_metrics(int64_t step, bool keep_evaluation) const;

  /// Writes checkpoints/<name>/ aside and puts it in place in one step: a kill or a full disk leaves the old one whole.
  void save_checkpoint(const std::string& name, const CheckpointFiles& files) const;
  /// The checkpoint, or nothing when there is none. DataError when it is damaged.
  std::optional<CheckpointFiles> load_checkpoint(const std::string& name) const;

 private:
  explicit RunFolder(const std::string& path);
  std::string path_;
  int lock_ = -1;
};

/// The folder of one of several runs that differ in their seed: "<run>-seed<seed>".
std::string seed_folder(const std::string& run, uint64_t seed);
/// Whether the folder holds a run.
bool is_run_folder(const std::string& path);
/// The resolved recipe of a run folder, or a recipe file, by path.
Recipe recipe_of(const std::string& run_or_recipe, const std::vector<std::string>& assignments = {});
/// The weights a run is judged by: checkpoints/best, else checkpoints/last; the moving average where there is one. DataError when
/// the run has no checkpoint yet.
std::string weights_of_run(const std::string& run);
/// The lines of a run's metrics.jsonl; a damaged line ends the list.
std::vector<Json> read_metrics(const std::string& run);

}  // namespace flare
