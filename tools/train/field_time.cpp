#include "tools/train/field_time.h"

#include <cmath>

#include "datasets/pde/field_set.h"
#include "ops/cast.h"
#include "ops/shaping.h"

namespace flare {
namespace {

/// [B,...] -> [B·n,...], each entry n times in a row.
Tensor repeated(const Tensor& x, int64_t n) {
  Shape single{x.size(0), 1}, wide{x.size(0), n}, flat{x.size(0) * n};
  for (int axis = 1; axis < x.ndim(); ++axis)
    for (Shape* shape : {&single, &wide, &flat}) shape->push_back(x.size(axis));
  return reshape(expand(reshape(x, single), wide), flat);
}

/// Mean and deviation of each of c channels over all times together, from those of every time.
Normalisation over_times(const Normalisation& y, int64_t times) {
  const size_t c = y.mean.size() / static_cast<size_t>(times);
  const auto n = static_cast<double>(times);
  Normalisation all{std::vector<double>(c), std::vector<double>(c)};
  for (size_t i = 0; i < y.mean.size(); ++i) all.mean[i % c] += y.mean[i] / n;
  for (size_t i = 0; i < y.mean.size(); ++i) {
    const double d = y.mean[i] - all.mean[i % c];
    all.std[i % c] += (y.std[i] * y.std[i] + d * d) / n;
  }
  for (double& s : all.std) s = std::sqrt(s);
  return all;
}

}  // namespace

FieldTime::FieldTime(const TaskConfig& config, const DatasetInfo& info, int64_t in_channels, int64_t out_channels,
                     const std::string& where)
    : teacher_forcing_(config.teacher_forcing),
      in_(in_channels),
      out_(out_channels),
      times_(info.times),
      frame_(out_channels / info.times) {
  if (config.time == "channels") return;
  mode_ = config.time == "condition" ? Mode::condition : Mode::rollout;
  check<ConfigError>(times_ > 1, "task.time: ", config.time, " needs several recorded times, and ", where,
                     "/dataset.json states one (no entry times); make the data set again, or set task.time=channels");
  if (mode_ == Mode::condition) return;
  position_ = coordinate_channels(info, in_);
  history_ = (in_ - position_) / frame_;
  check<ConfigError>(in_ > position_ && (in_ - position_) % frame_ == 0,
                     "task.time: rollout needs x to be the position and frames of ", frame_, " channels, and ", where, " has ",
                     in_ - position_, " channels behind the ", position_, " of the position; set task.time=condition or channels");
}

void FieldTime::set_scales(Normalisation x, const Normalisation& y) {
  x_scale_ = Scaling(std::move(x));
  y_scale_ = Scaling(mode_ == Mode::rollout ? over_times(y, times_) : y);
}

Tensor FieldTime::forward(const Model& model, const Batch& batch, Context& context) {
  switch (mode_) {
    case Mode::condition: return conditioned(model, batch, context);
    case Mode::rollout:
      return context.training && teacher_forcing_ ? forced(model, batch, context) : rolled_out(model, batch, context);
    default: return y_scale_.decode(model(x_scale_.encode(batch.x), batch.mask, context));
  }
}

Tensor FieldTime::conditioned(const Model& model, const Batch& batch, Context& context) {
  const int64_t b = batch.x.size(0), n = batch.x.size(1);
  if (!clock_ || clock_.device() != batch.x.device() || clock_.dtype() != batch.x.dtype()) {
    std::vector<double> t;
    for (int64_t i = 0; i < times_; ++i) t.push_back(static_cast<double>(i) / static_cast<double>(times_ - 1));
    clock_ = to_device(cast_to(Tensor::from(t, {times_}), batch.x.dtype()), batch.x.device());
  }
  const Tensor time = reshape(expand(reshape(clock_, {1, times_, 1, 1}), {b, times_, n, 1}), {b * times_, n, 1});
  const Tensor x = concat({repeated(x_scale_.encode(batch.x), times_), time}, 2);
  return y_scale_.decode(all_times(model(x, mask_per_time(batch.mask), context)));
}

Tensor FieldTime::forced(const Model& model, const Batch& batch, Context& context) {
  check(bool(batch.y), "rollout: teacher forcing needs the true frames, and the batch has no y");
  const Tensor x = batch.x, position = slice(x, 2, 0, position_);
  const Tensor frames = concat({slice(x, 2, position_, in_ - position_), batch.y}, 2);
  const Shape entry{x.size(0), 1, x.size(1), in_};
  std::vector<Tensor> steps;
  for (int64_t t = 0; t < times_; ++t)
    steps.push_back(reshape(concat({position, slice(frames, 2, t * frame_, history_ * frame_)}, 2), entry));
  const Tensor all = x_scale_.encode(reshape(concat(steps, 1), {x.size(0) * times_, x.size(1), in_}));
  return all_times(y_scale_.decode(model(all, mask_per_time(batch.mask), context)));
}

Tensor FieldTime::rolled_out(const Model& model, const Batch& batch, Context& context) {
  const Tensor x = batch.x, position = slice(x, 2, 0, position_);
  std::vector<Tensor> frames, predicted;
  for (int64_t i = 0; i < history_; ++i) frames.push_back(slice(x, 2, position_ + i * frame_, frame_));
  for (int64_t t = 0; t < times_; ++t) {
    std::vector<Tensor> parts{position};
    parts.insert(parts.end(), frames.end() - history_, frames.end());
    predicted.push_back(y_scale_.decode(model(x_scale_.encode(concat(parts, 2)), batch.mask, context)));
    frames.push_back(cast(predicted.back(), x.dtype()));
  }
  return concat(predicted, 2);
}

Tensor FieldTime::all_times(const Tensor& frames) const {
  const int64_t b = frames.size(0) / times_, n = frames.size(1);
  return reshape(transpose(reshape(frames, {b, times_, n, frame_}), 1, 2), {b, n, out_});
}

Tensor FieldTime::per_time(const Tensor& y) const {
  if (mode_ == Mode::channels) return y;
  const int64_t b = y.size(0), n = y.size(1);
  return reshape(transpose(reshape(y, {b, n, times_, frame_}), 1, 2), {b * times_, n, frame_});
}

Tensor FieldTime::mask_per_time(const Tensor& mask) const {
  return mask && mode_ != Mode::channels ? repeated(mask, times_) : mask;
}

}  // namespace flare
