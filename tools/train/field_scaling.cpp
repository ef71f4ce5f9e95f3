#include "tools/train/field_scaling.h"

#include "core/check.h"
#include "ops/pointwise.h"

namespace flare {

Normalisation normalisation_of(const DatasetInfo& info, const std::string& field, int64_t channels) {
  const auto found = info.normalisation.find(field);
  Normalisation n = found == info.normalisation.end() ? Normalisation{{0}, {1}} : found->second;
  for (std::vector<double>* v : {&n.mean, &n.std}) {
    if (v->size() == 1) v->resize(static_cast<size_t>(channels), v->front());
    check<DataError>(static_cast<int64_t>(v->size()) == channels, info.name, ": the normalisation of ", field, " has ", v->size(),
                     " entries for ", channels, " channels");
  }
  for (const double s : n.std) check<DataError>(s > 0, info.name, ": the normalisation of ", field, " divides by ", s);
  return n;
}

Tensor Scaling::encode(const Tensor& x) {
  follow(x);
  return (x - mean_) / std_;
}

Tensor Scaling::decode(const Tensor& x) {
  follow(x);
  return x * std_ + mean_;
}

void Scaling::follow(const Tensor& x) {
  if (mean_ && mean_.device() == x.device() && mean_.dtype() == x.dtype()) return;
  const auto constant = [&](const std::vector<double>& v) {
    return to_device(cast_to(Tensor::from(v, {1, 1, static_cast<int64_t>(v.size())}), x.dtype()), x.device());
  };
  mean_ = constant(given_.mean);
  std_ = constant(given_.std);
}

}  // namespace flare
