#pragma once
/// Learning-rate schedules as one pure function of the step, evaluated on the device so that a captured step needs no host.
#include <cmath>
#include <cstdint>
#include <numbers>

#include "core/check.h"
#include "core/hd.h"
#include "nn/config.h"

namespace flare {

enum class ScheduleKind : int32_t { constant, warmup, cosine, onecycle };

/// A schedule with its numbers worked out; plain data, handed to kernels by value.
struct SchedulePlan {
  ScheduleKind kind = ScheduleKind::constant;
  double peak = 0;          // learning rate
  double beta1 = 0;         // its value where it is not cycled
  double warmup_steps = 0;  // warmup, cosine
  double total_steps = 1;
  double first = 0, last = 0;  // onecycle: rates at both ends; cosine: last
  double rise_end = 0;         // onecycle: the step (fractional) with the peak rate
  bool cycle = false;
  double low_momentum = 0, high_momentum = 0;
};

struct ScheduleValue {
  double lr, beta1;
};

/// The cosine from a (t = 0) to b (t = 1).
FLARE_HD double cosine_between(double a, double b, double t) { return b + (a - b) / 2 * (1 + ::cos(std::numbers::pi * t)); }

/// Rate and beta1 of update number `step`, the first being 0. Beyond the last step the end value stays.
///   constant: peak.  warmup: rises linearly to the peak over warmup_steps, then constant.  cosine: the same rise, then a cosine
///   to `last`.  onecycle: cosine from `first` to the peak at step pct·total - 1, cosine to `last` at step total - 1, beta1 moving
///   the other way; equal to torch.optim.lr_scheduler.OneCycleLR (two phases, anneal_strategy "cos").
FLARE_HD ScheduleValue schedule_at(const SchedulePlan& p, int64_t step_index) {
  const double step = static_cast<double>(step_index), end = p.total_steps - 1;
  if (p.kind == ScheduleKind::onecycle) {
    const bool rising = step <= p.rise_end;
    const double from = rising ? 0 : p.rise_end, to = rising ? p.rise_end : end;
    double t = to > from ? (step - from) / (to - from) : 1;
    if (t > 1) t = 1;
    const double lr = rising ? cosine_between(p.first, p.peak, t) : cosine_between(p.peak, p.last, t);
    const double beta1 =
        rising ? cosine_between(p.high_momentum, p.low_momentum, t) : cosine_between(p.low_momentum, p.high_momentum, t);
    return {lr, p.cycle ? beta1 : p.beta1};
  }
  if (p.kind != ScheduleKind::constant && step < p.warmup_steps) return {p.peak * (step + 1) / p.warmup_steps, p.beta1};
  if (p.kind == ScheduleKind::cosine) {
    double t = end > p.warmup_steps ? (step - p.warmup_steps) / (end - p.warmup_steps) : 1;
    if (t > 1) t = 1;
    return {cosine_between(p.peak, p.last, t), p.beta1};
  }
  return {p.peak, p.beta1};
}

/// Works out a schedule over `total_steps` updates around the peak rate `lr`. ConfigError on an unknown name or a bad number.
inline SchedulePlan make_schedule(const ScheduleConfig& c, double lr, double beta1, int64_t total_steps) {
  check<ConfigError>(total_steps >= 1, "optim.schedule: ", total_steps, " steps; at least 1");
  check<ConfigError>(c.warmup >= 0 && c.warmup <= 1, "optim.schedule.warmup: ", c.warmup, " is not a fraction in [0, 1]");
  check<ConfigError>(c.div_factor > 0 && c.final_div_factor > 0, "optim.schedule: div_factor ", c.div_factor,
                     " and final_div_factor ", c.final_div_factor, " must be positive");
  SchedulePlan p;
  p.peak = lr;
  p.beta1 = beta1;
  p.total_steps = static_cast<double>(total_steps);
  p.warmup_steps = std::round(c.warmup * p.total_steps);
  if (c.name == "constant") {
    p.kind = ScheduleKind::constant;
  } else if (c.name == "warmup") {
    p.kind = ScheduleKind::warmup;
  } else if (c.name == "cosine") {
    p.kind = ScheduleKind::cosine;
    p.last = lr * c.min_ratio;
  } else {
    check<ConfigError>(c.name == "onecycle", "optim.schedule.name: \"", c.name,
                       "\" is not one of constant, warmup, cosine, onecycle");
    p.kind = ScheduleKind::onecycle;
    p.first = lr / c.div_factor;
    p.last = p.first / c.final_div_factor;
    p.rise_end = c.warmup * p.total_steps - 1;
    p.cycle = c.cycle_momentum;
    p.low_momentum = c.base_momentum;
    p.high_momentum = c.max_momentum;
  }
  return p;
}

}  // namespace flare
