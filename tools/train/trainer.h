#pragma once
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "nn/optim/optimizer.h"
#include "tools/train/evaluate.h"
#include "tools/train/progress.h"
#include "tools/train/run_folder.h"
#include "tools/train/task.h"

namespace flare {

struct TrainOptions {
  Recipe recipe;  // with the version that config.json is to carry
  std::string run;
  std::string device = "auto";
  bool resume = false, quiet = false, dry_run = false;
};

/// Trains by a recipe into a run folder: batches, steps, metrics, evaluation on the validation split, checkpoints; then the test
/// split with the weights that validated best. Results go to stdout, progress to stderr. Returns 0, or 130 after a signal (saved).
/// The losses, the metrics and the weights repeat bit for bit for one seed and device, whether or not the run was killed and
/// resumed in between.
int train(const TrainOptions& options);

/// One run. A step leaves nothing for the host to wait for: loss and score are summed on the device and read at log points.
class Trainer {
 public:
  /// Builds the model, the optimizer and the loader; writes nothing.
  Trainer(const Recipe& recipe, const PreparedFolder& folder, Device device, bool quiet);
  /// The folder to write into; call before restore and run_steps. It must outlive the trainer.
  void attach(const RunFolder& run) { run_ = &run; }
  /// The table shown before step 1; `gpu` is the index of the CUDA device in use.
  std::string describe(int gpu) const;
  /// Continues from checkpoints/last; false when there is none.
  bool restore();
  /// Steps until the end or a stop; false when stopped. Throws NumericError (naming step, lr and the first bad tensor) and
  /// OutOfMemory (saying what would fit); the last checkpoint stays.
  bool run_steps();
  /// Loads the best weights into the model and evaluates the test split; nothing when stopped or when there is no such split.
  std::optional<Json> test();
  int64_t step() const { return step_; }
  std::vector<Parameter> parameters() const { return task_->parameters(); }

 private:
  void train_step();
  struct Forward {
    Tensor output, loss;  // off the tape
  };
  Forward forward_backward(const Batch& batch, Context& context, bool* in_backward);
  void log_point();
  bool validate();
  void save(const std::string& name);
  void check_numbers();
  [[noreturn]] void fail_out_of_memory(const OutOfMemory& error);
  std::optional<Json> evaluate_split(const std::string& split, const std::string& note);
  Context training_context(int64_t micro) const;
  bool averages_weights() const { return recipe_.train.ema_decay > 0; }

  Recipe recipe_;
  PreparedFolder folder_;
  Device device_;
  const RunFolder* run_ = nullptr;
  DType dtype_;
  std::unique_ptr<Task> task_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<Loader> loader_;
  Progress progress_;

  int64_t step_ = 0, epoch_ = 0;
  bool validated_ = true;  // the evaluation due at step_ has been made
  double best_ = 0;
  int64_t best_step_ = -1;  // -1: none yet
  // Since the last log point.
  Tensor loss_sum_, score_sum_, norm_sum_;  // f32 [] on the device
  int64_t n_batches_ = 0, n_samples_ = 0, n_tokens_ = 0;
  int64_t steps_timed_ = 0, tokens_timed_ = 0;  // in this process, unlike n_tokens_
  double seconds_ = 0, data_seconds_ = 0;
  std::chrono::steady_clock::time_point window_start_;
  Batch current_;  // on the host, for the message when memory runs out
  Tensor rng_;     // i64 [2]: seed, step
  Tensor guard_;   // f32 []: not finite from the first bad step on, so that no later step changes anything
};

}  // namespace flare
