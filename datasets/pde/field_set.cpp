#include "datasets/pde/field_set.h"

#include <cmath>
#include <optional>

#include "core/job.h"
#include "core/parallel.h"

namespace flare {
namespace {

void check_finite(const std::string& name, const FieldSplit& split, const char* field, const Tensor& values) {
  const int64_t n = values.numel(), per_sample = n / std::max<int64_t>(values.size(0), 1), channels = values.size(2);
  for (int64_t i = 0; i < n; ++i)
    check<DataError>(std::isfinite(values.data<float>()[i]), name, ": split ", split.name, ", sample ", i / per_sample, ": ", field,
                     " is not finite at point ", i % per_sample / channels, ", channel ", i % channels,
                     "; the source file is damaged, or holds cells that are not part of the field");
}

}  // namespace

int64_t coordinate_channels(const DatasetInfo& info, int64_t channels) {
  constexpr int64_t kMost = 3;
  const auto axes = static_cast<int64_t>(info.grid.size());
  const int64_t n = info.coordinates > 0 ? info.coordinates : std::min(axes > 0 ? axes : channels, kMost);
  check<DataError>(n >= 1 && n <= channels, info.name, ": the position of a point takes ", n, " channels of x, which has ",
                   channels);
  return n;
}

Normalisation channel_normalisation(const Tensor& values, bool per_channel) {
  check(values.ndim() == 3 && values.dtype() == DType::f32 && values.is_contiguous(), "normalisation: needs f32 [n,N,c], got ",
        values.shape());
  const size_t channels = per_channel ? static_cast<size_t>(values.size(2)) : 1;
  const int64_t n = values.numel();
  const double count = static_cast<double>(n) / static_cast<double>(channels);
  std::vector<double> mean(channels), square(channels);
  for (int64_t i = 0; i < n; ++i) mean[static_cast<size_t>(i) % channels] += values.data<float>()[i];
  for (double& m : mean) m /= count;
  for (int64_t i = 0; i < n; ++i) {
    const double d = values.data<float>()[i] - mean[static_cast<size_t>(i) % channels];
    square[static_cast<size_t>(i) % channels] += d * d;
  }
  for (double& s : square) s = std::sqrt(s / std::max(count - 1, 1.0)) + 1e-8;
  return {mean, square};
}

void leave_channels(Normalisation& n, size_t first, size_t count) {
  for (size_t c = first; c < first + count; ++c) {
    n.mean.at(c) = 0;
    n.std.at(c) = 1;
  }
}

Tensor grid_points(int64_t h, int64_t w) {
  check(h >= 2 && w >= 2, "grid: ", h, " x ", w, " has no extent");
  const Tensor points = Tensor::empty({h * w, 2}, DType::f32);
  for (int64_t i = 0; i < h; ++i)
    for (int64_t j = 0; j < w; ++j) {
      float* p = points.data<float>() + 2 * (i * w + j);
      p[0] = static_cast<float>(static_cast<double>(i) / static_cast<double>(h - 1));
      p[1] = static_cast<float>(static_cast<double>(j) / static_cast<double>(w - 1));
    }
  return points;
}

void fill_points(const Tensor& points, const Tensor& x) {
  check(x.ndim() == 3 && points.ndim() == 2 && points.size(0) == x.size(1) && points.size(1) <= x.size(2), "points ",
        points.shape(), " do not fit x ", x.shape());
  const Shape strides{x.size(1) * x.size(2), x.size(2), 1};
  const Tensor part = x.view({x.size(0), x.size(1), points.size(1)}, strides);
  copy(points.view(part.shape(), {0, points.size(1), 1}), part);
}

void fill_channels(const Tensor& values, const Tensor& target, int64_t first) {
  check(values.ndim() == 3 && target.ndim() == 3 && values.size(0) == target.size(0) && values.size(1) == target.size(1) &&
            first >= 0 && first + values.size(2) <= target.size(2),
        "values ", values.shape(), " do not fit channels from ", first, " of ", target.shape());
  copy(values, target.view(values.shape(), target.strides(), first));
}

std::vector<FieldSplit> make_field_splits(const std::string& name, const SplitCounts& counts, int64_t n_points, int64_t in,
                                          int64_t out, const std::function<void(int64_t, int64_t, float*, float*)>& fill) {
  std::vector<FieldSplit> splits;
  Job job(name, counts.train + counts.val + counts.test, "samples");
  int64_t number = -1;
  for (const auto& [split, count] :
       {std::pair("train", counts.train), std::pair("val", counts.val), std::pair("test", counts.test)}) {
    ++number;
    if (count == 0) continue;
    FieldSplit made{split, Tensor::empty({count, n_points, in}, DType::f32), Tensor::empty({count, n_points, out}, DType::f32)};
    float *x = made.x.data<float>(), *y = made.y.data<float>();
    parallel_for(count, 1, [&, number](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const JobItem item(job);
        fill(number, i, x + i * n_points * in, y + i * n_points * out);
      }
    });
    splits.push_back(std::move(made));
  }
  return splits;
}

void write_field_set(const std::string& out_dir, DatasetInfo info, const std::vector<FieldSplit>& splits) {
  info.kind = "field_regression";
  std::optional<Job> job(std::in_place, cat(info.name, ": writing"), 2 * static_cast<int64_t>(splits.size()), "steps");
  for (const FieldSplit& split : splits) {
    const JobItem item(*job);
    check(split.x.ndim() == 3 && split.y.ndim() == 3 && split.x.dtype() == DType::f32 && split.y.dtype() == DType::f32 &&
              split.x.size(0) == split.y.size(0) && split.x.size(1) == split.y.size(1),
          "field set: split ", split.name, " has x ", split.x.shape(), " and y ", split.y.shape());
    check_finite(info.name, split, "x", split.x);
    check_finite(info.name, split, "y", split.y);
  }
  PreparedWriter writer(out_dir, info);
  for (const FieldSplit& split : splits) {
    const JobItem item(*job);
    writer.add(split.name, "x", split.x);
    writer.add(split.name, "y", split.y);
  }
  job.reset();
  writer.commit();
}

}  // namespace flare
