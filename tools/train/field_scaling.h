#pragma once
#include <cstdint>
#include <string>

#include "core/tensor.h"
#include "datasets/prepared.h"

namespace flare {

/// The scales of a field of `channels` channels as a data set states them: one entry for all is repeated, none is the identity.
/// DataError when there are as many as neither, or one divides by 0.
Normalisation normalisation_of(const DatasetInfo& info, const std::string& field, int64_t channels);

/// (value - mean)/std and back, per channel of [B,N,C], differentiable; the constants follow the device and dtype of what they
/// meet.
class Scaling {
 public:
  Scaling() = default;
  explicit Scaling(Normalisation given) : given_(std::move(given)) {}
  const Normalisation& given() const { return given_; }
  Tensor encode(const Tensor& x);
  Tensor decode(const Tensor& x);

 private:
  void follow(const Tensor& x);
  Normalisation given_;
  Tensor mean_, std_;  // [1,1,C]
};

}  // namespace flare
