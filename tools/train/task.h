#pragma once
/// What a training run needs to know of a kind of problem. The trainer, the evaluator and the predictor see only this, so a new
/// kind is one new file that ends in FLARE_REGISTER_TASK.
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "autograd/op.h"
#include "core/safetensors.h"
#include "datasets/loader.h"
#include "datasets/prepared.h"
#include "nn/context.h"
#include "nn/module.h"
#include "tools/train/config.h"

namespace flare {

/// Collects an evaluation, batch by batch, on the host.
class Meter {
 public:
  virtual ~Meter() = default;
  /// `batch` as the loader gave it (CPU) and the model's output for it (any device).
  virtual void add(const Batch& batch, const Tensor& output) = 0;
  /// {"loss": ..., "<score>": ..., "n_samples": ..., and whatever else the task can say}.
  virtual Json result() const = 0;
};

class Task {
 public:
  virtual ~Task() = default;
  virtual Module& model() = 0;
  std::vector<Parameter> parameters() { return model().parameters(); }
  /// Batch on the model's device -> output.
  virtual Tensor forward(const Batch& batch, Context& context) = 0;
  /// Mean loss over the batch, [] f32, on the tape.
  virtual Tensor loss(const Tensor& output, const Batch& batch) = 0;
  /// Sum over the batch of the score reported while training, []; not differentiated.
  virtual Tensor score_sum(const Tensor& output, const Batch& batch) = 0;
  virtual std::string score_name() const = 0;  // key in metrics and reports
  virtual bool higher_is_better() const = 0;
  virtual std::unique_ptr<Meter> new_meter() const = 0;  // may read the task, which must outlive it
  /// Rows of the form that the task reads from a .npy file -> rows of output on the CPU. DataError on values the model cannot take.
  virtual Tensor predict(const Tensor& rows, Context& context, Device device) = 0;
  /// A picture (PNG) of one sample: a batch of one as the loader gave it, the output for it, and the title. "" when the task has
  /// none.
  virtual std::string draw(const Batch& /*sample*/, const Tensor& /*output*/, const std::string& /*title*/) const { return {}; }
  /// What must travel with the weights beside the parameters, such as the scales of the data; written into checkpoints.
  virtual std::map<std::string, std::string> metadata() const { return {}; }
  /// Takes it back from a checkpoint's metadata, other keys ignored. DataError when it is damaged.
  virtual void adopt(const std::map<std::string, std::string>&) {}
};

using TaskFactory = std::function<std::unique_ptr<Task>(const Recipe&, const PreparedFolder&)>;
/// `kind`: DatasetInfo::kind, followed by kReconstruct for a task that restores hidden tokens.
inline constexpr const char* kReconstruct = "/reconstruct";
bool register_task(const std::string& kind, TaskFactory factory);
/// The task and its freshly initialised model (by recipe.seed), on the CPU. ConfigError when no task handles the data's kind
/// with task.objective, or the recipe does not fit the data.
std::unique_ptr<Task> make_task(const Recipe& recipe, const PreparedFolder& folder);
#define FLARE_REGISTER_TASK(kind, factory) \
  [[maybe_unused]] static const bool FLARE_JOIN(flare_task_, __LINE__) = ::flare::register_task(kind, factory)

/// Opens the data folder of a recipe. DataError that gives the command that makes the folder when it is missing.
PreparedFolder open_data(const Recipe& recipe);
/// dtype of the activations, and for "tf32" the switch of f32 products.
DType apply_precision(const std::string& precision);
Batch to_device(const Batch& batch, Device device);
/// Samples [start, start+n) of a batch, copied.
Batch slice_batch(const Batch& batch, int64_t start, int64_t n);

/// Copies tensors into `targets` by name. DataError naming the first tensor that is missing, unknown, or of another shape.
void load_values(const std::vector<NamedTensor>& targets, const std::vector<NamedTensor>& source, const std::string& where);
int64_t count_elements(const std::vector<Parameter>& parameters);

}  // namespace flare
