#pragma once
#include <functional>
#include <string>
#include <vector>

#include "datasets/prepared.h"

namespace flare {

// What the data sets of the PDE benchmarks share: samples of N points with input channels x and output channels y, stored in
// their own units; the training task scales them by the normalisation that dataset.json states.

/// One split: x [n,N,in] and y [n,N,out], f32.
struct FieldSplit {
  std::string name;
  Tensor x, y;
};

/// How many channels of x, the first ones, are the position of the point: what dataset.json states, else as many as the grid has
/// axes, else all up to three. DataError when x has fewer.
int64_t coordinate_channels(const DatasetInfo& info, int64_t channels);

/// Mean and deviation (of a sample, plus 1e-8 as in the published code) of each channel, or of all channels at once.
Normalisation channel_normalisation(const Tensor& values, bool per_channel = true);
/// The identity for the channels [first, first+count) of n: coordinates that are used as they are.
void leave_channels(Normalisation& n, size_t first, size_t count);

/// x_k, y_k of an h x w grid on [0,1]², row-major: point i·w + j lies at (i/(h-1), j/(w-1)). f32 [h·w, 2].
Tensor grid_points(int64_t h, int64_t w);
/// Writes points [N,c] into the first channels of every sample of x [n,N,in].
void fill_points(const Tensor& points, const Tensor& x);
/// Writes values [n,N,k], any strides and dtype, into channels [first, first+k) of target [n,N,c].
void fill_channels(const Tensor& values, const Tensor& target, int64_t first);

/// Makes the splits of a generated set on all threads, sample by sample: fill(split, index, x, y) writes a sample's x [n_points,in]
/// and y [n_points,out]. Splits without samples are left out. Shows progress under the set's name; stops when asked to.
struct SplitCounts {
  int64_t train = 0, val = 0, test = 0;
};
std::vector<FieldSplit> make_field_splits(const std::string& name, const SplitCounts& counts, int64_t n_points, int64_t in,
                                          int64_t out,
                                          const std::function<void(int64_t split, int64_t index, float* x, float* y)>& fill);

/// Writes a prepared folder of kind field_regression. DataError naming split and sample when a value is not finite, before
/// anything is written.
void write_field_set(const std::string& out_dir, DatasetInfo info, const std::vector<FieldSplit>& splits);

}  // namespace flare
