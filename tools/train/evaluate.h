#pragma once
#include <functional>
#include <optional>
#include <string>

#include "tools/train/task.h"

namespace flare {

struct EvaluationOptions {
  int64_t batch_size = 32;
  int64_t pad_to = 0;
  DType dtype = DType::f32;
  Device device = Device::cpu;
  std::function<void(int64_t batch, int64_t n_batches)> on_batch;  // may be empty
  Masking masking = {};                                            // the same in every evaluation
};

/// A split in order and whole, for evaluating: batches of `batch_size`, padded as the options say.
LoaderOptions in_order(const EvaluationOptions& options, int64_t batch_size, bool prefetch);

/// Runs the whole split through the model, in order, without dropout: the meter's result, plus split, score_name and, for
/// classification, the class most frequent in the train split with the accuracy on this split of always answering it. Nothing
/// when a stop was asked for meanwhile.
std::optional<Json> evaluate(Task& task, const PreparedFolder& folder, const std::string& split, const EvaluationOptions& options);

/// Draws the best, the median and the worst sample of an evaluation, `result`, of a task that has pictures, to
/// <run>/panels/<split>-{best,median,worst}.png. What cannot be written is a warning: the result stands.
void save_panels(Task& task, const PreparedFolder& folder, const Json& result, const EvaluationOptions& options,
                 const std::string& run);

/// Options for evaluating by a recipe.
EvaluationOptions evaluation_options(const Recipe& recipe, const PreparedFolder& folder, DType dtype, Device device);
/// What is hidden of the samples: nothing unless task.objective is reconstruct.
Masking masking_of(const Recipe& recipe, const PreparedFolder& folder);
/// The length every batch is padded to: 0 for its longest sample, or the longest there can be.
int64_t pad_length(const Recipe& recipe, const PreparedFolder& folder);
/// The longest sample a model of this recipe may meet; 0: not known.
int64_t longest_sample(const Recipe& recipe, const PreparedFolder& folder);
/// LoaderOptions::pad_step of the training batches: a multiple of 8.
int64_t pad_step(const Recipe& recipe, const PreparedFolder& folder);

/// A result as a few lines of text: score, loss, the majority-class row, accuracy by length.
std::string format_evaluation(const Json& evaluation);

}  // namespace flare
