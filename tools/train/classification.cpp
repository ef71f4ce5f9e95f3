/// Classification of token sequences (LRA): tokens -> logits; with two towers for pairs. Cross-entropy, or binary cross-entropy on
/// one logit for two classes. Reports accuracy, accuracy by length and the confusion matrix.
#include <algorithm>
#include <cmath>

#include "nn/models/lra_classifier.h"
#include "ops/loss.h"
#include "ops/shaping.h"
#include "tools/train/task.h"

namespace flare {
namespace {

constexpr int64_t kLengthBuckets = 5;

class ClassificationMeter : public Meter {
 public:
  explicit ClassificationMeter(int64_t n_classes)
      : n_classes_(n_classes), confusion_(static_cast<size_t>(n_classes), std::vector<int64_t>(static_cast<size_t>(n_classes))) {}

  void add(const Batch& batch, const Tensor& output) override {
    const Tensor logits = contiguous(cast_to(to_device(output, Device::cpu), DType::f64));
    const int64_t n = logits.size(0), width = logits.size(1);
    check<DataError>(bool(batch.labels), "evaluation: the data has no labels");
    for (int64_t i = 0; i < n; ++i) {
      const double* row = logits.data<double>() + i * width;
      const int64_t label = batch.labels.data<int64_t>()[i];
      int64_t answer = 0;
      if (width == 1) {
        answer = row[0] > 0;
        const double margin = label ? row[0] : -row[0];
        loss_ += margin > 0 ? std::log1p(std::exp(-margin)) : std::log1p(std::exp(margin)) - margin;
      } else {
        answer = std::max_element(row, row + width) - row;
        double sum = 0;
        for (int64_t k = 0; k < width; ++k) sum += std::exp(row[k] - row[answer]);
        loss_ += std::log(sum) + row[answer] - row[label];
      }
      ++confusion_[static_cast<size_t>(label)][static_cast<size_t>(answer)];
      correct_ += answer == label;
      answers_.emplace_back(length_of(batch, i), answer == label);
    }
  }

  Json result() const override {
    const auto n = static_cast<double>(std::max<size_t>(answers_.size(), 1));
    Json out = {{"loss", loss_ / n}, {"accuracy", static_cast<double>(correct_) / n}, {"n_samples", answers_.size()}};
    out["by_length"] = by_length();
    out["confusion"] = confusion_;
    return out;
  }

 private:
  static int64_t length_of(const Batch& batch, int64_t i) {
    int64_t length = 0;
    for (const auto& [tokens, mask] : {std::pair{batch.tokens, batch.mask}, std::pair{batch.tokens_b, batch.mask_b}}) {
      if (!tokens) continue;
      const int64_t n = tokens.size(1);
      if (!mask) {
        length += n;
        continue;
      }
      const uint8_t* row = mask.data<uint8_t>() + i * n;
      length += std::count_if(row, row + n, [](uint8_t m) { return m != 0; });
    }
    return length;
  }

  /// Buckets of about equally many samples; samples of one length share a bucket.
  Json by_length() const {
    std::vector<std::pair<int64_t, bool>> sorted = answers_;
    std::stable_sort(sorted.begin(), sorted.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
    Json buckets = Json::array();
    const size_t share = sorted.size() / kLengthBuckets + 1;
    for (size_t begin = 0; begin < sorted.size();) {
      size_t end = std::min(begin + share, sorted.size());
      while (end < sorted.size() && sorted[end].first == sorted[end - 1].first) ++end;
      const auto hits = std::count_if(sorted.begin() + static_cast<std::ptrdiff_t>(begin),
                                      sorted.begin() + static_cast<std::ptrdiff_t>(end), [](const auto& a) { return a.second; });
      buckets.push_back({{"from", sorted[begin].first},
                         {"to", sorted[end - 1].first},
                         {"n_samples", end - begin},
                         {"accuracy", static_cast<double>(hits) / static_cast<double>(end - begin)}});
      begin = end;
    }
    return buckets;
  }

  int64_t n_classes_, correct_ = 0;
  double loss_ = 0;
  std::vector<std::vector<int64_t>> confusion_;    // [label][answer]
  std::vector<std::pair<int64_t, bool>> answers_;  // length, correct
};

class Classification : public Task {
 public:
  Classification(const Recipe& recipe, const PreparedFolder& folder)
      : info_(folder.info()), max_length_(recipe.task.max_length > 0 ? recipe.task.max_length : info_.max_length) {
    check<ConfigError>(max_length_ >= info_.max_length || recipe.task.pad_to_max, "task.max_length: ", max_length_,
                       " is below the longest sample of ", folder.path(), " (", info_.max_length,
                       "); set task.pad_to_max=true to cut samples to it");
    check<DataError>(info_.vocabulary > 0 && info_.n_classes > 1, folder.path(),
                     ": dataset.json states no vocabulary or fewer than two classes");
    two_towers_ = info_.kind == "pair_classification";
    model_ =
        std::make_unique<LraClassifier>(recipe.model, info_.vocabulary, max_length_, info_.n_classes, two_towers_, recipe.seed);
  }

  Module& model() override { return *model_; }
  Tensor forward(const Batch& batch, Context& context) override {
    if (two_towers_) return model_->forward(batch.tokens, batch.mask, batch.tokens_b, batch.mask_b, context);
    return model_->forward(batch.tokens, batch.mask, context);
  }
  Tensor loss(const Tensor& logits, const Batch& batch) override {
    if (logits.size(1) == 1) return bce_with_logits(reshape(logits, {logits.size(0)}), batch.labels);
    return cross_entropy(logits, batch.labels);
  }
  Tensor score_sum(const Tensor& logits, const Batch& batch) override { return correct_count(logits, batch.labels); }
  std::string score_name() const override { return "accuracy"; }
  bool higher_is_better() const override { return true; }
  std::unique_ptr<Meter> new_meter() const override { return std::make_unique<ClassificationMeter>(info_.n_classes); }

  /// rows: integer tokens [n,N], 0 pads -> logits [n,K]; pairs: [n,2,N].
  Tensor predict(const Tensor& rows, Context& context, Device device) override {
    const int expected = two_towers_ ? 3 : 2;
    check<DataError>(!is_float(rows.dtype()), "input: expected integer tokens, got ", rows.dtype());
    check<DataError>(rows.ndim() == expected && (!two_towers_ || rows.size(1) == 2), "input: expected tokens ",
                     two_towers_ ? "[n,2,N]" : "[n,N]", ", got ", rows.shape());
    const Tensor tokens = contiguous(cast_to(rows, DType::i64));
    const int64_t length = tokens.size(-1), n = tokens.size(0);
    check<DataError>(length >= 1 && length <= max_length_, "input: sequences of ", length, " tokens; the model takes 1 to ",
                     max_length_);
    const Tensor mask = Tensor::zeros(tokens.shape(), DType::u8);
    for (int64_t i = 0; i < tokens.numel(); ++i) {
      const int64_t token = tokens.data<int64_t>()[i];
      check<DataError>(token >= 0 && token < info_.vocabulary, "input: token ", token, " in row ", i / (tokens.numel() / n),
                       " is outside the vocabulary [0,", info_.vocabulary, ")");
      mask.data<uint8_t>()[i] = token != 0;
    }
    for (int64_t r = 0; r < tokens.numel() / length; ++r)
      check<DataError>(
          std::any_of(mask.data<uint8_t>() + r * length, mask.data<uint8_t>() + (r + 1) * length, [](uint8_t m) { return m != 0; }),
          "input: row ", r, " holds only padding (0)");
    const auto tower = [&](const Tensor& t, int64_t which) {
      if (!two_towers_) return to_device(t, device);
      return to_device(contiguous(t.view({n, length}, {2 * length, 1}, which * length)), device);
    };
    Batch batch;
    batch.n_samples = n;
    batch.tokens = tower(tokens, 0);
    batch.mask = tower(mask, 0);
    if (two_towers_) {
      batch.tokens_b = tower(tokens, 1);
      batch.mask_b = tower(mask, 1);
    }
    return cast_to(to_device(forward(batch, context), Device::cpu), DType::f32);
  }

 private:
  DatasetInfo info_;
  int64_t max_length_;
  bool two_towers_ = false;
  std::unique_ptr<LraClassifier> model_;
};

std::unique_ptr<Task> make_classification(const Recipe& recipe, const PreparedFolder& folder) {
  return std::make_unique<Classification>(recipe, folder);
}
FLARE_REGISTER_TASK("sequence_classification", make_classification);
FLARE_REGISTER_TASK("pair_classification", make_classification);

}  // namespace
}  // namespace flare
