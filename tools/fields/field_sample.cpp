#include "tools/fields/field_sample.h"

#include "datasets/pde/field_set.h"

namespace flare {

FieldSample field_sample(const DatasetInfo& info, const Tensor& x, const Tensor& prediction, const Tensor& truth, int64_t row,
                         int64_t points) {
  const auto take = [&](const Tensor& all) {
    check(all.ndim() == 3 && row >= 0 && row < all.size(0) && points >= 1 && points <= all.size(1), "field sample: row ", row,
          " and ", points, " points of ", all.shape());
    const Tensor rows = all.view({points, all.size(2)}, {all.strides()[1], all.strides()[2]}, row * all.strides()[0]);
    return contiguous(cast_to(to_device(rows, Device::cpu), DType::f32));
  };
  FieldSample s;
  s.points = points;
  s.x = take(x);
  s.prediction = take(prediction);
  if (truth) s.truth = take(truth);
  check(!truth || s.truth.shape() == s.prediction.shape(), "field sample: prediction ", s.prediction.shape(), " and truth ",
        truth ? s.truth.shape() : Shape{}, " disagree");
  s.coordinates = coordinate_channels(info, s.x.size(1));
  if (s.channels() % info.times == 0) s.times = info.times;
  const std::vector<int64_t>& g = info.grid;
  // A grid that does not have this many points is none of this sample's.
  if (g.size() == 2 && g[0] >= 2 && g[1] >= 2 && points % g[0] == 0 && points / g[0] == g[1]) {
    s.rows = g[0];
    s.columns = g[1];
  }
  return s;
}

}  // namespace flare
