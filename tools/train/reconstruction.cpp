/// Restoring hidden tokens: pretraining without labels on the samples of a classification task. Cross-entropy over the vocabulary
/// and accuracy, both averaged over the hidden positions. Beside the accuracy stands that of always answering the token most
/// frequent in train, which a picture with much background makes high.
#include <algorithm>

#include "nn/models/lra_reconstructor.h"
#include "ops/loss.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"
#include "tools/train/task.h"

namespace flare {
namespace {

Tensor rows_of(const Tensor& logits) { return reshape(logits, {-1, logits.size(2)}); }  // [B,K,V] -> [B·K,V]
Tensor targets_of(const Batch& batch) { return batch.labels.viewed_as({batch.labels.numel()}); }

int64_t most_frequent_token(const PreparedFolder& folder) {
  const Column& tokens = folder.column("train", "tokens");
  std::vector<int64_t> counts(static_cast<size_t>(folder.info().vocabulary));
  const int64_t n = tokens.count * tokens.rows_per_sample;
  for (int64_t e = 0; e < n; ++e) ++counts.at(static_cast<size_t>(tokens.integer(e)));
  return std::max_element(counts.begin(), counts.end()) - counts.begin();
}

class ReconstructionMeter : public Meter {
 public:
  explicit ReconstructionMeter(int64_t frequent) : frequent_(frequent) {}

  /// The sums are taken where the logits are: there are V for each hidden token.
  void add(const Batch& batch, const Tensor& output) override {
    const Tensor logits = rows_of(output), targets = targets_of(batch), there = to_device(targets, output.device());
    const int64_t n = targets.numel();
    loss_ += cross_entropy(logits, there).item() * static_cast<double>(n);
    correct_ += correct_count(logits, there).item();
    n_samples_ += batch.n_samples;
    n_masked_ += n;
    n_frequent_ += std::count(targets.data<int64_t>(), targets.data<int64_t>() + n, frequent_);
  }

  Json result() const override {
    const auto n = static_cast<double>(std::max<int64_t>(n_masked_, 1));
    Json out = {{"loss", loss_ / n}, {"masked_accuracy", correct_ / n}, {"n_samples", n_samples_}, {"n_masked", n_masked_}};
    if (frequent_ >= 0) {
      out["majority_class"] = frequent_;
      out["majority_accuracy"] = static_cast<double>(n_frequent_) / n;
    }
    return out;
  }

 private:
  int64_t frequent_, n_samples_ = 0, n_masked_ = 0, n_frequent_ = 0;
  double loss_ = 0, correct_ = 0;
};

class Reconstruction : public Task {
 public:
  Reconstruction(const Recipe& recipe, const PreparedFolder& folder) : folder_(folder) {
    const DatasetInfo& info = folder.info();
    const auto tokens = std::find_if(info.fields.begin(), info.fields.end(), [](const FieldInfo& f) { return f.name == "tokens"; });
    check<ConfigError>(tokens != info.fields.end() && !tokens->ragged && info.vocabulary > 0,
                       "task.objective: reconstruct needs samples of equally many tokens; those of ", folder.path(),
                       tokens == info.fields.end() ? " have none" : " differ in length");
    const int64_t longest = recipe.task.max_length > 0 ? recipe.task.max_length : info.max_length;
    check<ConfigError>(longest >= info.max_length || recipe.task.pad_to_max, "task.max_length: ", longest,
                       " is below the longest sample of ", folder.path(), " (", info.max_length,
                       "); set task.pad_to_max=true to cut samples to it");
    model_ = std::make_unique<LraReconstructor>(recipe.model, info.vocabulary, longest, recipe.seed);
  }

  Module& model() override { return *model_; }
  Tensor forward(const Batch& batch, Context& context) override {
    return model_->forward(batch.tokens, batch.mask, batch.masked, context);
  }
  Tensor loss(const Tensor& logits, const Batch& batch) override { return cross_entropy(rows_of(logits), targets_of(batch)); }
  /// A sample's score is the share of its hidden tokens that are restored.
  Tensor score_sum(const Tensor& logits, const Batch& batch) override {
    const Tensor correct = cast_to(correct_count(rows_of(logits), targets_of(batch)), DType::f32);
    return affine(correct, 1 / static_cast<double>(logits.size(1)), 0);
  }
  std::string score_name() const override { return "masked_accuracy"; }
  bool higher_is_better() const override { return true; }
  std::unique_ptr<Meter> new_meter() const override {
    if (frequent_ < 0 && folder_.has_split("train")) frequent_ = most_frequent_token(folder_);
    return std::make_unique<ReconstructionMeter>(frequent_);
  }
  Tensor predict(const Tensor&, Context&, Device) override {
    throw ConfigError(
        "task.objective: a model that restores hidden tokens has no answer for rows; train a classifier from its "
        "weights with train.init");
  }

 private:
  PreparedFolder folder_;
  mutable int64_t frequent_ = -1;  // token; -1: not counted
  std::unique_ptr<LraReconstructor> model_;
};

std::unique_ptr<Task> make_reconstruction(const Recipe& recipe, const PreparedFolder& folder) {
  return std::make_unique<Reconstruction>(recipe, folder);
}
FLARE_REGISTER_TASK(std::string("sequence_classification") + kReconstruct, make_reconstruction);

}  // namespace
}  // namespace flare
