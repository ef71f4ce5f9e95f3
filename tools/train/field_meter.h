#pragma once
#include <functional>
#include <vector>

#include "tools/train/task.h"

namespace flare {

/// Errors of fields in the data's units, sample by sample: {"loss", "relative_l2", "n_samples", "best", "median", "worst",
/// "quantiles", "errors"}, and where dataset.json asks for them
///   times T > 1   "relative_l2_by_time": of each time, ‖ŷ_t − y_t‖/‖y_t‖ averaged over samples; "relative_l2_step": their mean
///   warp          "relative_l2_warped": of ŷ·std + mean to y·std + mean
class FieldMeter : public Meter {
 public:
  /// The loss of a batch of one.
  using Loss = std::function<Tensor(const Tensor& output, const Batch& batch)>;
  FieldMeter(const DatasetInfo& info, Loss loss);
  void add(const Batch& batch, const Tensor& output) override;
  Json result() const override;

 private:
  void add_times(const Tensor& pred, const Batch& one);
  Loss loss_of_;
  Normalisation warp_;
  double loss_ = 0, warped_ = 0;
  std::vector<double> errors_;   // by sample
  std::vector<double> by_time_;  // sums over samples; empty for one time
};

}  // namespace flare
