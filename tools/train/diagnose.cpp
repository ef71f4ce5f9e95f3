#include "tools/train/diagnose.h"

#include <algorithm>
#include <cmath>

#include "core/allocator.h"
#include "core/beside.h"
#include "tools/train/progress.h"

namespace flare {
namespace {

/// "" when every value is finite.
std::string describe_bad(const Tensor& x) {
  if (!x || !is_float(x.dtype())) return "";
  const Tensor host = contiguous(cast_to(to_device(x, Device::cpu), DType::f64));
  int64_t n_nan = 0, n_infinite = 0;
  const double* data = host.data<double>();
  for (int64_t i = 0, n = host.numel(); i < n; ++i) {
    n_nan += std::isnan(data[i]);
    n_infinite += std::isinf(data[i]);
  }
  if (n_nan + n_infinite == 0) return "";
  return cat(n_nan, " NaN and ", n_infinite, " infinite of ", host.numel(), " values, shape ", x.shape());
}

/// Puts the observer that was there back.
class ObserverScope {
 public:
  explicit ObserverScope(OpObserver observer) : before_(std::move(op_observer())) {
    op_observer() = std::move(observer);
    beside_before_ = set_beside(false);  // so that an op's results can be read as soon as it returns
  }
  ~ObserverScope() {
    op_observer() = std::move(before_);
    set_beside(beside_before_);
  }
  ObserverScope(const ObserverScope&) = delete;
  ObserverScope& operator=(const ObserverScope&) = delete;

 private:
  OpObserver before_;
  bool beside_before_;
};

}  // namespace

std::string first_bad_tensor(const std::vector<Parameter>& parameters,
                             const std::function<void(bool* in_backward)>& forward_backward) {
  for (const Parameter& p : parameters)
    if (const std::string bad = describe_bad(p.value); !bad.empty()) return cat("parameter ", p.name, ": ", bad);
  std::string found;
  bool in_backward = false, looking = false;
  {
    const ObserverScope scope([&](const char* op, std::span<const Tensor> outputs) {
      if (!found.empty() || looking) return;
      looking = true;  // copying to the host must not look at itself
      for (const Tensor& out : outputs) {
        const std::string bad = describe_bad(out);
        if (bad.empty()) continue;
        const std::string& path = ScopeName::current();
        found = cat(op, path.empty() ? "" : " in ", path, in_backward ? " (backward): " : " (forward): ", bad);
        break;
      }
      looking = false;
    });
    forward_backward(&in_backward);
  }
  if (!found.empty()) return found;
  for (const Parameter& p : parameters)
    if (const std::string bad = describe_bad(grad(p.value)); !bad.empty()) return cat("gradient of ", p.name, ": ", bad);
  return "";
}

std::string what_would_fit(const OutOfMemory& error, const Batch& batch, Device device, int64_t batch_size, int64_t accumulate,
                           const std::function<void(const Batch&)>& forward_backward) {
  release_cached(device);
  const int64_t capacity = error.in_use + error.available;
  const std::string what = cat(format_bytes(error.requested), " asked for, ", format_bytes(error.in_use), " in use, ",
                               format_bytes(error.available), " free");
  const int64_t length = batch.tokens ? batch.tokens.size(1) : batch.x ? batch.x.size(1) : 0;
  double peak[2] = {};
  int64_t n_measured = 0;
  for (; n_measured < 2 && n_measured < batch.n_samples; ++n_measured) {
    release_cached(device);
    reset_peak(device);
    try {
      forward_backward(slice_batch(batch, 0, n_measured + 1));
    } catch (const OutOfMemory&) { break; }
    peak[n_measured] = static_cast<double>(memory_stats(device).peak);
  }
  if (n_measured == 0)
    return cat(what, "; not even one sample of ", length,
               " tokens fits: make the model smaller (model.channels, model.blocks, model.latents)");
  int64_t fits = 1;
  if (n_measured == 2) {
    const double per_sample = std::max(peak[1] - peak[0], 1.0);
    // A tenth is kept back: cached blocks come in size classes.
    fits = 1 + static_cast<int64_t>(std::floor((0.9 * static_cast<double>(capacity) - peak[0]) / per_sample));
    fits = std::clamp<int64_t>(fits, 1, std::max<int64_t>(batch_size - 1, 1));
  }
  const int64_t total = batch_size * accumulate;
  return cat(what, "; about ", fits, " of ", batch_size, " samples of ", length, " tokens fit: --set train.batch_size=", fits,
             " --set train.accumulate=", (total + fits - 1) / fits);
}

}  // namespace flare
