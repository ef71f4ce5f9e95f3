/// Classification of sequences (LRA): tokens, or numbers where the data have a field x -> logits; with two towers for pairs.
/// Cross-entropy, or binary cross-entropy on one logit for two classes. Reports accuracy, accuracy by length and the confusion
/// matrix.
#include <algorithm>
#include <cmath>

#include "nn/models/lra_classifier.h"
#include "ops/loss.h"
#include "ops/pointwise.h"
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
    const Tensor& first = batch.tokens ? batch.tokens : batch.x;
    for (const auto& [tokens, mask] : {std::pair{first, batch.mask}, std::pair{batch.tokens_b, batch.mask_b}}) {
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
    two_towers_ = info_.kind == "pair_classification";
    for (const FieldInfo& f : info_.fields) {
      const bool fits_tower = f.name == "tokens" || (f.name == "x" && !two_towers_);
      if (!fits_tower || (f.name == "x" && folder.has_field("tokens"))) continue;
      input_ = f.name;
      is_ragged_ = f.ragged;
      if (f.name == "x") width_ = f.shape.numel() / (f.ragged || f.shape.ndim() == 0 ? 1 : f.shape[0]);
    }
    check<DataError>(!input_.empty() && (info_.vocabulary > 0 || input_ == "x") && info_.n_classes > 1, folder.path(),
                     ": dataset.json states fewer than two classes, or neither tokens with a vocabulary nor a field x");
    check<DataError>(!two_towers_ || folder.has_field("tokens_b"), folder.path(), ": pairs need a field tokens_b");
    if (const auto n = info_.normalisation.find("x"); n != info_.normalisation.end() && input_ == "x") {
      check<DataError>(n->second.mean.size() == 1 && n->second.std.size() == 1 && n->second.std[0] > 0, folder.path(),
                       ": dataset.json: the normalisation of x needs one mean and one std above 0");
      scale_ = 1 / n->second.std[0];
      shift_ = -n->second.mean[0] * scale_;
    }
    model_ = std::make_unique<LraClassifier>(recipe.model, input_ == "x" ? 0 : info_.vocabulary, max_length_, info_.n_classes,
                                             two_towers_, recipe.seed, width_);
  }

  Module& model() override { return *model_; }
  Tensor forward(const Batch& batch, Context& context) override {
    if (two_towers_) return model_->forward(batch.tokens, batch.mask, batch.tokens_b, batch.mask_b, context);
    if (input_ == "x") return model_->forward(affine(batch.x, scale_, shift_), batch.mask, context);
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

  /// rows: integer tokens [n,N], where the length varies 0 pads -> logits [n,K]; pairs: [n,2,N]; numbers: [n,N,W] as stored.
  Tensor predict(const Tensor& rows, Context& context, Device device) override {
    if (input_ == "x") return predict_numbers(rows, context, device);
    const int expected = two_towers_ ? 3 : 2;
    check<DataError>(!is_float(rows.dtype()), "input: expected integer tokens, got ", rows.dtype());
    check<DataError>(rows.ndim() == expected && (!two_towers_ || rows.size(1) == 2), "input: expected tokens ",
                     two_towers_ ? "[n,2,N]" : "[n,N]", ", got ", rows.shape());
    const Tensor tokens = contiguous(cast_to(rows, DType::i64));
    const int64_t length = tokens.size(-1), n = tokens.size(0);
    check_length(length);
    for (int64_t i = 0; i < tokens.numel(); ++i) {
      const int64_t token = tokens.data<int64_t>()[i];
      check<DataError>(token >= 0 && token < info_.vocabulary, "input: token ", token, " in row ", i / (tokens.numel() / n),
                       " is outside the vocabulary [0,", info_.vocabulary, ")");
    }
    Tensor mask;
    if (is_ragged_) {  // else 0 is a token like others, such as a black pixel
      mask = Tensor::zeros(tokens.shape(), DType::u8);
      for (int64_t i = 0; i < tokens.numel(); ++i) mask.data<uint8_t>()[i] = tokens.data<int64_t>()[i] != 0;
      for (int64_t r = 0; r < tokens.numel() / length; ++r)
        check<DataError>(std::any_of(mask.data<uint8_t>() + r * length, mask.data<uint8_t>() + (r + 1) * length,
                                     [](uint8_t m) { return m != 0; }),
                         "input: row ", r, " holds only padding (0)");
    }
    const auto tower = [&](const Tensor& t, int64_t which) {
      if (!t) return t;
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
  void check_length(int64_t length) const {
    const int64_t least = is_ragged_ ? 1 : std::min(max_length_, info_.max_length);
    const int64_t most = is_ragged_ ? max_length_ : least;
    check<DataError>(length >= least && length <= most, "input: sequences of ", length, " tokens; the model takes ",
                     least < most ? cat(least, " to ", most) : cat(most));
  }
  Tensor predict_numbers(const Tensor& rows, Context& context, Device device) {
    check<DataError>(rows.ndim() == 3 && rows.size(2) == width_, "input: expected numbers [n,N,", width_, "], got ", rows.shape());
    check_length(rows.size(1));
    Batch batch;
    batch.n_samples = rows.size(0);
    batch.x = to_device(contiguous(cast_to(rows, DType::f32)), device);
    return cast_to(to_device(forward(batch, context), Device::cpu), DType::f32);
  }

  DatasetInfo info_;
  int64_t max_length_;
  bool two_towers_ = false;
  std::string input_;             // the field that the model reads: tokens or x
  bool is_ragged_ = true;         // whether its length differs from sample to sample
  int64_t width_ = 1;             // numbers a position, of x
  double scale_ = 1, shift_ = 0;  // normalisation of x
  std::unique_ptr<LraClassifier> model_;
};

std::unique_ptr<Task> make_classification(const Recipe& recipe, const PreparedFolder& folder) {
  return std::make_unique<Classification>(recipe, folder);
}
FLARE_REGISTER_TASK("sequence_classification", make_classification);
FLARE_REGISTER_TASK("pair_classification", make_classification);

}  // namespace
}  // namespace flare
