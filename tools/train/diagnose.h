#pragma once
#include <functional>
#include <string>

#include "tools/train/task.h"

namespace flare {

/// Looks for the first tensor with a NaN or an infinity: among the parameters, then in the outputs of every op while
/// `forward_backward` runs once more, then among the gradients. "linear in blocks.0.att.k_proj.fc1 (forward): 3 NaN and 0 infinite
/// of 4096 values, shape [32,128]". "" when everything is finite.
std::string first_bad_tensor(const std::vector<Parameter>& parameters,
                             const std::function<void(bool* in_backward)>& forward_backward);

/// Advice after `error`: how many of the batch's samples would fit, from the peak memory of runs with one and two of them.
std::string what_would_fit(const OutOfMemory& error, const Batch& batch, Device device, int64_t batch_size, int64_t accumulate,
                           const std::function<void(const Batch&)>& forward_backward);

}  // namespace flare
