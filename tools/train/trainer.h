#pragma once
#include <chrono>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "nn/optim/optimizer.h"
#include "tools/train/evaluate.h"
#include "tools/train/memory_plan.h"
#include "tools/train/progress.h"
#include "tools/train/run_folder.h"
#include "tools/train/step.h"
#include "tools/train/task.h"

namespace flare {

struct TrainOptions {
  Recipe recipe;            // with the version that config.json is to carry
  std::string recipe_name;  // of its file, for summary.json; "": not known
  std::string run;
  std::string device = "auto";
  bool resume = false, quiet = false, dry_run = false, graph = true, json = false;
};

/// How a run ended: 0, or 130 after a signal (saved), and what there is to say of it: run, seed, steps, finished, step, report, and
/// `test`, the evaluation of the test split, if there is one.
struct TrainOutcome {
  int exit_code = 0;
  Json summary = Json::object();
};

/// Trains by a recipe into a run folder: batches, steps, metrics, evaluation on the validation split, checkpoints; then the test
/// split with the weights that validated best. Progress goes to stderr, nothing to stdout.
/// The losses, the metrics and the weights repeat bit for bit for one seed and device, whether or not the run was killed and
/// resumed in between.
TrainOutcome run_training(const TrainOptions& options);
/// The same, with the results on stdout: as text, or the summary as one JSON object. Returns the exit code.
int train(const TrainOptions& options);

/// One run. A step leaves nothing for the host to wait for: loss and score are summed on the device; at log points they are asked
/// for, and reported when they have come, some steps later.
class Trainer {
 public:
  /// Builds the model, the optimizer and the loader; writes nothing. OutOfMemory, before anything is taken, when a step would not
  /// fit. graph: replay captured steps on CUDA, which changes no bit; gpu: the index of the CUDA device in use.
  Trainer(const Recipe& recipe, const PreparedFolder& folder, Device device, bool quiet, bool graph = true, int gpu = 0);
  /// The folder to write into; call before restore and run_steps. It must outlive the trainer.
  void attach(const RunFolder& run, const std::string& recipe_name = "") {
    run_ = &run;
    recipe_name_ = recipe_name;
  }
  /// The table shown before step 1.
  std::string describe(int width = 0) const;
  /// Begins with the weights of train.init: what was taken, in a line, or "" without. For a run that restore() does not continue.
  /// DataError when there are none to take.
  std::string initialise();
  /// Continues from checkpoints/last; false when there is none.
  bool restore();
  /// Steps until the end or a stop; false when stopped. Throws NumericError (naming step, lr and the first bad tensor) and
  /// OutOfMemory (saying what would fit); the last checkpoint stays.
  bool run_steps();
  /// Loads the best weights into the model and evaluates the test split; nothing when stopped or when there is no such split.
  std::optional<Json> test();
  /// Writes summary.json: what metrics.jsonl and config.json do not say (device, commit, data, parameters, wall time of all
  /// processes that trained this run, best score). Nothing is read back but the time and the recipe's name.
  void write_summary(bool finished) const;
  int64_t step() const { return step_; }
  std::vector<Parameter> parameters() const { return task_->parameters(); }

 private:
  std::string device_text() const;
  void train_step();
  void log_point(bool now);
  void finish_reports(bool wait);
  bool validate();
  void save(const std::string& name);
  void check_numbers();
  [[noreturn]] void fail_not_finite(int64_t bad);
  [[noreturn]] void fail_out_of_memory(const OutOfMemory& error);
  std::optional<Json> evaluate_split(const std::string& split, const std::string& note);
  /// The averages with the model's buffers beside them: a whole model. Live.
  std::vector<NamedTensor> averages();
  bool averages_weights() const { return recipe_.train.ema_decay > 0; }

  Recipe recipe_;
  PreparedFolder folder_;
  Device device_;
  const RunFolder* run_ = nullptr;
  std::string recipe_name_;
  int gpu_;
  DType dtype_;
  std::unique_ptr<Task> task_;
  MemoryPlan plan_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<TrainStep> train_step_;
  std::unique_ptr<Loader> loader_;
  Progress progress_;

  int64_t step_ = 0, epoch_ = 0;
  bool validated_ = true;  // the evaluation due at step_ has been made
  double best_ = 0;
  int64_t best_step_ = -1;  // -1: none yet
  // Since the last log point, like the sums in train_step_.
  int64_t n_batches_ = 0, n_samples_ = 0, n_tokens_ = 0;
  int64_t steps_timed_ = 0, tokens_timed_ = 0;  // in this process, unlike n_tokens_
  double seconds_ = 0, data_seconds_ = 0;
  std::chrono::steady_clock::time_point window_start_, started_;
  double seconds_before_ = 0;  // wall time of the processes before this one
  struct PendingReport {
    StepReport report;
    int64_t n_batches, n_samples;
  };
  Readback readback_;
  std::deque<PendingReport> pending_;  // asked for in readback_
  Batch current_;                      // on the host, for the message when memory runs out
};

}  // namespace flare
