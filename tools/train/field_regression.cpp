/// Regression of fields (PDE benchmarks): points with input channels x -> output channels y. The model works on scaled channels;
/// loss and score are taken on decoded fields, in the data's own units. The scales belong to the weights: a checkpoint carries
/// them, and they win over those of the data folder.
#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "nn/models/pde_operator.h"
#include "ops/loss.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"
#include "tools/fields/panels.h"
#include "tools/train/task.h"

namespace flare {
namespace {

constexpr const char* kMetadataKey = "normalisation";
constexpr size_t kMostErrors = 10000;  // listed in an evaluation, one a sample

/// (value - mean)/std and back, per channel of [B,N,C]; the constants follow the device of what they meet.
class Scaling {
 public:
  Scaling() = default;
  Scaling(const std::string& field, const DatasetInfo& info, int64_t channels) {
    const auto found = info.normalisation.find(field);
    if (found == info.normalisation.end()) {
      given_ = {std::vector<double>(static_cast<size_t>(channels), 0), std::vector<double>(static_cast<size_t>(channels), 1)};
    } else {
      given_ = found->second;
    }
    const auto widen = [&](std::vector<double>& v) {
      if (v.size() == 1) v.resize(static_cast<size_t>(channels), v[0]);
      check<DataError>(static_cast<int64_t>(v.size()) == channels, info.name, ": the normalisation of ", field, " has ", v.size(),
                       " entries for ", channels, " channels");
    };
    widen(given_.mean);
    widen(given_.std);
    for (const double s : given_.std) check<DataError>(s > 0, info.name, ": the normalisation of ", field, " divides by ", s);
  }
  const Normalisation& given() const { return given_; }
  Tensor encode(const Tensor& x) {
    to(x.device());
    return (x - mean_) / std_;
  }
  Tensor decode(const Tensor& x) {
    to(x.device());
    return x * std_ + mean_;
  }

 private:
  void to(Device device) {
    if (mean_ && mean_.device() == device) return;
    const auto constant = [&](const std::vector<double>& v) {
      return to_device(cast_to(Tensor::from(v, {1, 1, static_cast<int64_t>(v.size())}), DType::f32), device);
    };
    mean_ = constant(given_.mean);
    std_ = constant(given_.std);
  }
  Normalisation given_;
  Tensor mean_, std_;  // f32 [1,1,C]
};

/// Central differences along axis 1 or 2 of a field [B,h,w,C] that is 0 outside its grid, times twice the spacing.
Tensor difference(const Tensor& field, int axis) {
  const int64_t n = field.size(axis);
  return slice(pad_zero(field, axis, 0, 1), axis, 1, n) - slice(pad_zero(field, axis, 1, 0), axis, 0, n);
}

/// Relative L2 of both derivatives, added. As in Transolver's Darcy training the prediction's border counts as 0, since the true
/// u vanishes there; the spacing cancels.
Tensor derivative_error(const Tensor& pred, const Tensor& target, const std::vector<int64_t>& grid) {
  const int64_t h = grid[0], w = grid[1];
  const Shape shape{pred.size(0), h, w, pred.size(2)};
  const Tensor inner = slice(slice(reshape(pred, shape), 1, 1, h - 2), 2, 1, w - 2);
  const Tensor p = pad_zero(pad_zero(inner, 1, 1, 1), 2, 1, 1), t = reshape(target, shape);
  return relative_l2(difference(p, 1), difference(t, 1)) + relative_l2(difference(p, 2), difference(t, 2));
}

class FieldMeter : public Meter {
 public:
  using Loss = std::function<Tensor(const Tensor&, const Batch&)>;
  explicit FieldMeter(Loss loss) : loss_of_(std::move(loss)) {}

  void add(const Batch& batch, const Tensor& output) override {
    const Tensor pred = cast_to(to_device(output, Device::cpu), DType::f32);
    for (int64_t i = 0; i < batch.n_samples; ++i) {
      Batch one = slice_batch(batch, i, 1);
      const Tensor p = slice(pred, 0, i, 1);
      loss_ += loss_of_(p, one).item();
      errors_.push_back(relative_l2(contiguous(p), one.y, one.mask).item());
    }
  }

  Json result() const override {
    const size_t n = errors_.size();
    if (n == 0) return {{"loss", 0.0}, {"relative_l2", 0.0}, {"n_samples", 0}};
    std::vector<size_t> order(n);
    for (size_t i = 0; i < n; ++i) order[i] = i;
    const auto badness = [&](size_t i) { return std::isnan(errors_[i]) ? std::numeric_limits<double>::infinity() : errors_[i]; };
    std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return badness(a) < badness(b); });
    double sum = 0;
    for (const double e : errors_) sum += e;
    Json out = {{"loss", loss_ / static_cast<double>(n)}, {"relative_l2", sum / static_cast<double>(n)}, {"n_samples", n}};
    for (const auto& [name, at] : {std::pair<const char*, size_t>{"best", 0}, {"median", n / 2}, {"worst", n - 1}})
      out[name] = {{"sample", order[at]}, {"relative_l2", errors_[order[at]]}};
    for (const int percent : {5, 25, 50, 75, 95}) {
      const auto at = static_cast<size_t>(std::lround(percent / 100.0 * static_cast<double>(n - 1)));
      out["quantiles"][fmt::format("q{:02}", percent)] = rounded(errors_[order[at]]);
    }
    for (size_t i = 0; i < std::min(n, kMostErrors); ++i) out["errors"].push_back(rounded(errors_[i]));
    return out;
  }

 private:
  /// To six significant digits.
  static double rounded(double x) { return std::isfinite(x) ? std::stod(fmt::format("{:.6g}", x)) : x; }

  Loss loss_of_;
  double loss_ = 0;
  std::vector<double> errors_;
};

class FieldRegression : public Task {
 public:
  FieldRegression(const Recipe& recipe, const PreparedFolder& folder)
      : info_(folder.info()), derivative_weight_(recipe.task.derivative_weight) {
    check<DataError>(folder.has_field("x") && folder.has_field("y"), folder.path(), ": field regression needs fields x and y");
    in_ = channels_of("x");
    out_ = channels_of("y");
    check<ConfigError>(derivative_weight_ == 0 || (info_.grid.size() == 2 && info_.grid[0] > 2 && info_.grid[1] > 2),
                       "task.derivative_weight: ", folder.path(), " states no 2-D grid, so there are no derivatives; set it to 0");
    x_ = Scaling("x", info_, in_);
    y_ = Scaling("y", info_, out_);
    for (const FieldInfo& f : info_.fields)
      if (f.name == "x" && !f.ragged) n_points_ = f.shape[0];
    model_ = std::make_unique<PdeOperator>(recipe.model, in_, out_, recipe.seed, n_points_);
    if (!find_mixer(recipe.model.mixer).per_position) n_points_ = 0;
  }

  Module& model() override { return *model_; }
  Tensor forward(const Batch& batch, Context& context) override {
    return y_.decode(model_->forward(x_.encode(batch.x), batch.mask, context));
  }
  Tensor loss(const Tensor& output, const Batch& batch) override {
    const Tensor error = relative_l2(output, batch.y, batch.mask);
    return derivative_weight_ > 0 ? error + derivative_weight_ * derivative_error(output, batch.y, info_.grid) : error;
  }
  Tensor score_sum(const Tensor& output, const Batch& batch) override {
    return relative_l2(output, batch.y, batch.mask) * static_cast<double>(batch.n_samples);
  }
  std::string score_name() const override { return "relative_l2"; }
  bool higher_is_better() const override { return false; }
  std::unique_ptr<Meter> new_meter() const override {
    auto* self = const_cast<FieldRegression*>(this);  // loss() is not const for other tasks' sake; here it changes nothing
    return std::make_unique<FieldMeter>([self](const Tensor& output, const Batch& batch) { return self->loss(output, batch); });
  }

  /// rows: x [n,N,in] in the data's units -> y [n,N,out].
  Tensor predict(const Tensor& rows, Context& context, Device device) override {
    check<DataError>(rows.ndim() == 3 && rows.size(2) == in_ && is_float(rows.dtype()), "input: expected floats [n,N,", in_,
                     "] in the units of ", info_.name, ", got ", rows.dtype(), " ", rows.shape());
    check<DataError>(n_points_ == 0 || rows.size(1) == n_points_, "input: samples of ", rows.size(1), " points; the model takes ",
                     n_points_, ", since its mixer has weights for each point");
    Batch batch;
    batch.n_samples = rows.size(0);
    batch.x = to_device(contiguous(cast_to(rows, DType::f32)), device);
    return cast_to(to_device(forward(batch, context), Device::cpu), DType::f32);
  }

  std::string draw(const Batch& sample, const Tensor& output, const std::string& title) const override {
    int64_t points = sample.x.size(1);
    if (sample.mask) {
      points = 0;
      for (int64_t p = 0; p < sample.mask.numel(); ++p) points += sample.mask.item(p) != 0;
    }
    return encode_png(draw_panels(field_sample(info_, sample.x, output, sample.y, 0, points), title).canvas);
  }

  std::map<std::string, std::string> metadata() const override {
    Json json;
    for (const auto& [name, scaling] : {std::pair("x", &x_), std::pair("y", &y_)})
      json[name] = {{"mean", scaling->given().mean}, {"std", scaling->given().std}};
    return {{kMetadataKey, json.dump()}};
  }
  void adopt(const std::map<std::string, std::string>& metadata) override {
    const auto found = metadata.find(kMetadataKey);
    if (found == metadata.end()) return;  // weights from elsewhere: the folder's scales
    try {
      const Json json = Json::parse(found->second);
      DatasetInfo info = info_;
      for (const char* name : {"x", "y"})
        info.normalisation[name] = {json.at(name).at("mean").get<std::vector<double>>(),
                                    json.at(name).at("std").get<std::vector<double>>()};
      x_ = Scaling("x", info, in_);
      y_ = Scaling("y", info, out_);
    } catch (const nlohmann::json::exception&) {
      throw DataError(cat("checkpoint: its entry ", kMetadataKey, " cannot be read: ", quoted(found->second)));
    }
  }

 private:
  int64_t channels_of(const char* name) const {
    for (const FieldInfo& f : info_.fields) {
      if (f.name != name) continue;
      const int axes = f.ragged ? 1 : 2;
      check<DataError>(f.shape.ndim() == axes, info_.name, ": field ", name, " must be [N,channels] a sample, got ", f.shape);
      return f.shape[axes - 1];
    }
    return 0;
  }

  DatasetInfo info_;
  double derivative_weight_;
  int64_t in_ = 0, out_ = 0;
  int64_t n_points_ = 0;  // that every sample must have; 0: any
  Scaling x_, y_;
  std::unique_ptr<PdeOperator> model_;
};

std::unique_ptr<Task> make_field_regression(const Recipe& recipe, const PreparedFolder& folder) {
  return std::make_unique<FieldRegression>(recipe, folder);
}
FLARE_REGISTER_TASK("field_regression", make_field_regression);

}  // namespace
}  // namespace flare
