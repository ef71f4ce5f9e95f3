#include "tools/train/evaluate.h"

#include <fmt/format.h>

#include "core/file.h"
#include "core/job.h"
#include "core/log.h"
#include "tools/train/signals.h"

namespace flare {

int64_t longest_sample(const Recipe& recipe, const PreparedFolder& folder) {
  return recipe.task.max_length > 0 ? recipe.task.max_length : folder.info().max_length;
}

Masking masking_of(const Recipe& recipe, const PreparedFolder& folder) {
  if (recipe.task.objective != "reconstruct") return {};
  return {recipe.task.masked_share, folder.info().vocabulary, recipe.seed};
}

int64_t pad_length(const Recipe& recipe, const PreparedFolder& folder) {
  return recipe.task.pad_to_max ? longest_sample(recipe, folder) : 0;
}

int64_t pad_step(const Recipe& recipe, const PreparedFolder& folder) {
  const int64_t longest = longest_sample(recipe, folder), steps = recipe.task.length_steps;
  if (steps == 0 || longest == 0) return 0;
  constexpr int64_t kRound = 8;
  const int64_t step = (longest + steps - 1) / steps;
  return (step + kRound - 1) / kRound * kRound;
}

EvaluationOptions evaluation_options(const Recipe& recipe, const PreparedFolder& folder, DType dtype, Device device) {
  return {recipe.train.eval_batch_size > 0 ? recipe.train.eval_batch_size : recipe.train.batch_size,
          pad_length(recipe, folder),
          dtype,
          device,
          {},
          masking_of(recipe, folder)};
}

LoaderOptions in_order(const EvaluationOptions& options, int64_t batch_size, bool prefetch) {
  LoaderOptions loading;
  loading.batch_size = batch_size;
  loading.shuffle = false;
  loading.seed = 0;
  loading.drop_last = false;
  loading.pad_to = options.pad_to;
  loading.masking = options.masking;
  loading.prefetch = prefetch;
  return loading;
}

std::optional<Json> evaluate(Task& task, const PreparedFolder& folder, const std::string& split, const EvaluationOptions& options) {
  check<DataError>(folder.count(split) > 0, folder.path(), ": split ", split, " is empty");
  Loader loader(folder, split, in_order(options, options.batch_size, true));
  const std::unique_ptr<Meter> meter = task.new_meter();
  const NoGrad no_grad;
  const int64_t n_batches = loader.batches_per_epoch();
  Job job(cat("evaluating ", split), folder.count(split), "samples");
  for (int64_t i = 0; i < n_batches; ++i) {
    if (stop_requested()) return std::nullopt;
    const Batch batch = loader.next();
    Context context;
    context.training = false;
    context.dtype = options.dtype;
    meter->add(batch, task.forward(to_device(batch, options.device), context));
    job.advance(batch.n_samples);
    if (options.on_batch) options.on_batch(i + 1, n_batches);
  }
  Json result = {{"split", split}, {"score_name", task.score_name()}};
  result.update(meter->result());
  if (options.masking.share == 0 && folder.info().n_classes > 0 && folder.has_split("train") && folder.has_field("labels")) {
    const SplitStatistics train = statistics_of(folder, "train"), here = statistics_of(folder, split);
    const int64_t majority = train.majority_class;
    if (majority >= 0 && majority < static_cast<int64_t>(here.labels.size()) && here.n_samples > 0) {
      result["majority_class"] = majority;
      result["majority_accuracy"] =
          static_cast<double>(here.labels[static_cast<size_t>(majority)]) / static_cast<double>(here.n_samples);
    }
  }
  return result;
}

void save_panels(Task& task, const PreparedFolder& folder, const Json& result, const EvaluationOptions& options,
                 const std::string& run) {
  const std::string split = result.value("split", "");
  Loader loader(folder, split, in_order(options, 1, false));
  const NoGrad no_grad;
  for (const char* which : {"best", "median", "worst"}) {
    const auto found = result.find(which);
    if (found == result.end()) continue;
    const auto sample = found->value("sample", int64_t{0});
    loader.seek(sample);
    const Batch batch = loader.next();
    Context context;
    context.dtype = options.dtype;
    const Json& error = (*found)["relative_l2"];
    const std::string picture =
        task.draw(batch, task.forward(to_device(batch, options.device), context),
                  fmt::format("{}, {} sample {} ({}): relative L2 {}", folder.info().name, split, sample, which,
                              error.is_number() ? fmt::format("{:.4g}", error.get<double>()) : "not finite"));
    if (picture.empty()) return;
    try {
      make_directories(run + "/panels");
      write_file_atomically(fmt::format("{}/panels/{}-{}.png", run, split, which), picture);
    } catch (const DataError& problem) {
      log_warning("no picture of the ", which, " sample: ", problem.what());
      return;
    }
  }
}

std::string format_evaluation(const Json& e) {
  const std::string score = e.value("score_name", "accuracy");
  std::string text = fmt::format("{:6} {} {:.4f}  loss {:.4f}  ({} samples)\n", e.value("split", ""), score, e.value(score, 0.0),
                                 e.value("loss", 0.0), e.value("n_samples", int64_t{0}));
  if (e.contains("majority_accuracy"))
    text += fmt::format("{:6} {} {:.4f}  always answering class {}, the most frequent in train\n", "", score,
                        e["majority_accuracy"].get<double>(), e.value("majority_class", int64_t{0}));
  if (const auto times = e.find("relative_l2_by_time"); times != e.end() && times->is_array() && !times->empty())
    text += fmt::format("{:6} relative_l2_step {:.4f}  mean over {} times; {} at the first, {} at the last\n", "",
                        e.value("relative_l2_step", 0.0), times->size(), times->front().dump(), times->back().dump());
  if (e.contains("relative_l2_warped"))
    text += fmt::format("{:6} relative_l2_warped {:.4f}  of fields decoded as the published figures are\n", "",
                        e["relative_l2_warped"].get<double>());
  if (const auto buckets = e.find("by_length"); buckets != e.end())
    for (const Json& b : *buckets)
      text += fmt::format("       {} {:.4f}  at {} to {} tokens ({} samples)\n", score, b.value("accuracy", 0.0),
                          b.value("from", int64_t{0}), b.value("to", int64_t{0}), b.value("n_samples", int64_t{0}));
  return text;
}

}  // namespace flare
