#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "datasets/loader.h"
#include "nn/context.h"
#include "tools/train/config.h"
#include "tools/train/field_scaling.h"

namespace flare {

/// How the recorded times of a field meet the model. x: [B,N,in], y: [B,N,T·c], time-major: y[..., t·c + k] is channel k at time t.
///   channels   y = model(x), all times at once
///   condition  y_t = model(x, t/(T-1)), the time being one more input channel; the T times of a sample are entries of the batch
///   rollout    y_t = model(p, w_t): p the position, the first channels of x, and w_t the h frames of c channels before time t.
///              w_0 is the rest of x, oldest frame first; w_{t+1} is w_t without its oldest frame and with that of time t.
/// The frame of time t that enters the window is y_t as predicted, with the gradient through all steps; while training with
/// teacher forcing it is the true one, and then the steps do not depend on each other and are entries of the batch.
/// The window holds the data's units; every model input is scaled by x's normalisation and every output restored by y's. One step
/// of a roll-out is the same map at all times, so there y's is taken over all times: one mean and deviation for each of c channels.
class FieldTime {
 public:
  using Model = std::function<Tensor(const Tensor& x, const Tensor& mask, Context& context)>;

  FieldTime() = default;
  /// ConfigError when the data has one time and task.time asks for several, or the channels of x do not make frames.
  FieldTime(const TaskConfig& config, const DatasetInfo& info, int64_t in_channels, int64_t out_channels, const std::string& where);

  int64_t model_in() const { return mode_ == Mode::condition ? in_ + 1 : in_; }
  int64_t model_out() const { return mode_ == Mode::channels ? out_ : frame_; }
  int64_t times() const { return times_; }
  /// Takes the scales of x [in] and y [T·c].
  void set_scales(Normalisation x, const Normalisation& y);

  /// batch.x and, with teacher forcing where context.training, batch.y, in the data's units -> y [B,N,T·c] in the data's units.
  /// Static shapes, nothing waits for the device.
  Tensor forward(const Model& model, const Batch& batch, Context& context);
  /// What one error is taken of: y [B,N,T·c] -> [B·T,N,c], mask [B,N] -> [B·T,N]; both as they are where the mode is channels.
  Tensor per_time(const Tensor& y) const;
  Tensor mask_per_time(const Tensor& mask) const;

 private:
  enum class Mode { channels, condition, rollout };
  Tensor conditioned(const Model& model, const Batch& batch, Context& context);
  Tensor forced(const Model& model, const Batch& batch, Context& context);
  Tensor rolled_out(const Model& model, const Batch& batch, Context& context);
  /// [B·T,N,c] -> [B,N,T·c].
  Tensor all_times(const Tensor& frames) const;

  Mode mode_ = Mode::channels;
  bool teacher_forcing_ = true;
  int64_t in_ = 0, out_ = 0, times_ = 1, frame_ = 0;  // channels of x, of y, T, c
  int64_t position_ = 0, history_ = 0;                // rollout: channels of p, frames of w
  Scaling x_scale_, y_scale_;
  Tensor clock_;  // condition: t/(T-1), [T]
};

}  // namespace flare
