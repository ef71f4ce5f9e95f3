/// Regression of fields (PDE benchmarks): points with input channels x -> output channels y. The model works on scaled channels;
/// loss and score are taken on decoded fields, in the data's own units. The scales belong to the weights: a checkpoint carries
/// them, and they win over those of the data folder. Several recorded times meet the model as tools/train/field_time.h says; but
/// for mode channels the loss is the mean over times of what it is for one. The score is of all times together.
#include <nlohmann/json.hpp>

#include "nn/models/pde_operator.h"
#include "ops/loss.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"
#include "tools/fields/panels.h"
#include "tools/train/field_meter.h"
#include "tools/train/field_time.h"
#include "tools/train/task.h"

namespace flare {
namespace {

constexpr const char* kMetadataKey = "normalisation";

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

class FieldRegression : public Task {
 public:
  FieldRegression(const Recipe& recipe, const PreparedFolder& folder)
      : info_(folder.info()), derivative_weight_(recipe.task.derivative_weight) {
    check<DataError>(folder.has_field("x") && folder.has_field("y"), folder.path(), ": field regression needs fields x and y");
    in_ = channels_of("x");
    out_ = channels_of("y");
    check<ConfigError>(derivative_weight_ == 0 || (info_.grid.size() == 2 && info_.grid[0] > 2 && info_.grid[1] > 2),
                       "task.derivative_weight: ", folder.path(), " states no 2-D grid, so there are no derivatives; set it to 0");
    time_ = FieldTime(recipe.task, info_, in_, out_, folder.path());
    set_scales(info_);
    for (const FieldInfo& f : info_.fields)
      if (f.name == "x" && !f.ragged) n_points_ = f.shape[0];
    model_ = std::make_unique<PdeOperator>(recipe.model, time_.model_in(), time_.model_out(), recipe.seed, n_points_);
    if (!find_mixer(recipe.model.mixer).per_position) n_points_ = 0;
  }

  Module& model() override { return *model_; }
  Tensor forward(const Batch& batch, Context& context) override {
    return time_.forward([this](const Tensor& x, const Tensor& mask, Context& c) { return model_->forward(x, mask, c); }, batch,
                         context);
  }
  Tensor loss(const Tensor& output, const Batch& batch) override {
    const Tensor pred = time_.per_time(output), target = time_.per_time(batch.y);
    const Tensor error = relative_l2(pred, target, time_.mask_per_time(batch.mask));
    return derivative_weight_ > 0 ? error + derivative_weight_ * derivative_error(pred, target, info_.grid) : error;
  }
  Tensor score_sum(const Tensor& output, const Batch& batch) override {
    return relative_l2(output, batch.y, batch.mask) * static_cast<double>(batch.n_samples);
  }
  std::string score_name() const override { return "relative_l2"; }
  bool higher_is_better() const override { return false; }
  std::unique_ptr<Meter> new_meter() const override {
    auto* self = const_cast<FieldRegression*>(this);  // loss() is not const for other tasks' sake; here it changes nothing
    return std::make_unique<FieldMeter>(info_,
                                        [self](const Tensor& output, const Batch& batch) { return self->loss(output, batch); });
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
    for (const auto& [name, scale] : {std::pair("x", &x_), std::pair("y", &y_)})
      json[name] = {{"mean", scale->mean}, {"std", scale->std}};
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
      set_scales(info);
    } catch (const nlohmann::json::exception&) {
      throw DataError(cat("checkpoint: its entry ", kMetadataKey, " cannot be read: ", quoted(found->second)));
    }
  }

 private:
  void set_scales(const DatasetInfo& info) {
    x_ = normalisation_of(info, "x", in_);
    y_ = normalisation_of(info, "y", out_);
    time_.set_scales(x_, y_);
  }
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
  Normalisation x_, y_;   // of every channel
  FieldTime time_;
  std::unique_ptr<PdeOperator> model_;
};

std::unique_ptr<Task> make_field_regression(const Recipe& recipe, const PreparedFolder& folder) {
  return std::make_unique<FieldRegression>(recipe, folder);
}
FLARE_REGISTER_TASK("field_regression", make_field_regression);

}  // namespace
}  // namespace flare
