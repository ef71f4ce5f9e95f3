#include "tools/train/field_meter.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <fmt/format.h>
#include <nlohmann/json.hpp>

#include "ops/loss.h"
#include "tools/train/field_scaling.h"

namespace flare {
namespace {

constexpr size_t kMostErrors = 10000;  // listed in an evaluation, one a sample

/// To six significant digits.
double rounded(double x) { return std::isfinite(x) ? std::stod(fmt::format("{:.6g}", x)) : x; }

}  // namespace

FieldMeter::FieldMeter(const DatasetInfo& info, Loss loss)
    : loss_of_(std::move(loss)), warp_(info.warp), by_time_(info.times > 1 ? static_cast<size_t>(info.times) : 0) {}

void FieldMeter::add(const Batch& batch, const Tensor& output) {
  const Tensor pred = cast_to(to_device(output, Device::cpu), DType::f32);
  for (int64_t i = 0; i < batch.n_samples; ++i) {
    const Batch one = slice_batch(batch, i, 1);
    const Tensor p = clone(pred.view({1, pred.size(1), pred.size(2)}, pred.strides(), i * pred.strides()[0]));
    loss_ += loss_of_(p, one).item();
    errors_.push_back(relative_l2(p, one.y, one.mask).item());
    if (!warp_.mean.empty()) {
      Scaling warp(warp_);
      warped_ += relative_l2(warp.decode(p), warp.decode(one.y), one.mask).item();
    }
    if (!by_time_.empty()) add_times(p, one);
  }
}

void FieldMeter::add_times(const Tensor& pred, const Batch& one) {
  const auto times = static_cast<int64_t>(by_time_.size());
  const int64_t n = pred.size(1), channels = pred.size(2), frame = channels / times;
  const Tensor truth = contiguous(cast_to(one.y, DType::f32));
  for (int64_t t = 0; t < times; ++t) {
    double error = 0, size = 0;
    for (int64_t p = 0; p < n; ++p) {
      if (one.mask && one.mask.item(p) == 0) continue;
      for (int64_t k = t * frame; k < (t + 1) * frame; ++k) {
        const double y = truth.data<float>()[p * channels + k], d = pred.data<float>()[p * channels + k] - y;
        error += d * d;
        size += y * y;
      }
    }
    if (size > 0) by_time_[static_cast<size_t>(t)] += std::sqrt(error / size);  // as relative_l2 does
  }
}

Json FieldMeter::result() const {
  const size_t n = errors_.size();
  if (n == 0) return {{"loss", 0.0}, {"relative_l2", 0.0}, {"n_samples", 0}};
  const auto mean = [n](double sum) { return sum / static_cast<double>(n); };
  std::vector<size_t> order(n);
  for (size_t i = 0; i < n; ++i) order[i] = i;
  const auto badness = [&](size_t i) { return std::isnan(errors_[i]) ? std::numeric_limits<double>::infinity() : errors_[i]; };
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return badness(a) < badness(b); });
  double sum = 0;
  for (const double e : errors_) sum += e;
  Json out = {{"loss", mean(loss_)}, {"relative_l2", mean(sum)}, {"n_samples", n}};
  if (!by_time_.empty()) {
    double all = 0;
    for (const double e : by_time_) {
      all += mean(e) / static_cast<double>(by_time_.size());
      out["relative_l2_by_time"].push_back(rounded(mean(e)));
    }
    out["relative_l2_step"] = all;
  }
  if (!warp_.mean.empty()) out["relative_l2_warped"] = mean(warped_);
  for (const auto& [name, at] : {std::pair<const char*, size_t>{"best", 0}, {"median", n / 2}, {"worst", n - 1}})
    out[name] = {{"sample", order[at]}, {"relative_l2", errors_[order[at]]}};
  for (const int percent : {5, 25, 50, 75, 95}) {
    const auto at = static_cast<size_t>(std::lround(percent / 100.0 * static_cast<double>(n - 1)));
    out["quantiles"][fmt::format("q{:02}", percent)] = rounded(errors_[order[at]]);
  }
  for (size_t i = 0; i < std::min(n, kMostErrors); ++i) out["errors"].push_back(rounded(errors_[i]));
  return out;
}

}  // namespace flare
