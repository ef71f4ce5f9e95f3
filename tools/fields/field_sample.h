#pragma once
#include <cstdint>

#include "datasets/prepared.h"

namespace flare {

/// One sample of a field data set with what a model says of it, in the data's units, on the host.
struct FieldSample {
  int64_t points = 0, coordinates = 0;  // the first channels of x are the position
  int64_t rows = 0, columns = 0;        // of a grid, point i·columns + j; 0: no grid of two axes
  int64_t times = 1;                    // recorded times in the output channels, time-major
  Tensor x;                             // f32 [N,in], packed, like the others
  Tensor prediction;                    // f32 [N,out]
  Tensor truth;                         // f32 [N,out], or undefined
  bool is_grid() const { return rows > 0; }
  int64_t channels() const { return prediction.size(1); }
  /// Coordinate c of point p; 0 beyond the last.
  double position(int64_t p, int64_t c) const { return c < coordinates ? x.data<float>()[p * x.size(1) + c] : 0; }
};

/// Row `row` of x [n,N,in], prediction [n,N,out] and truth [n,N,out] or undefined; any float dtype, device and strides. `points`
/// below N leaves the padding out. ShapeError when they disagree; DataError as coordinate_channels.
FieldSample field_sample(const DatasetInfo& info, const Tensor& x, const Tensor& prediction, const Tensor& truth, int64_t row,
                         int64_t points);

}  // namespace flare
