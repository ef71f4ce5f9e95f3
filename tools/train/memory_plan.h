#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/rehearsal.h"
#include "nn/optim/optimizer.h"
#include "tools/train/task.h"

namespace flare {

/// Where the bytes of a training step go. Sizes are the allocator's.
struct MemoryNeeds {
  int64_t weights = 0;      // with their bf16 copies
  int64_t gradients = 0;    // one buffer
  int64_t optimizer = 0;    // moments, averages, tables
  int64_t batch = 0;        // as the step reads it
  int64_t activations = 0;  // the most that is live at once beside all that: kept for backward, gradients of activations, workspace
  int64_t total() const { return weights + gradients + optimizer + batch + activations; }
};

/// The shape of a batch, its tensors on Device::cuda but without memory: `like` with `samples` samples of `length` tokens (0: as
/// many as in `like`).
Batch shape_of_batch(const Batch& like, int64_t samples, int64_t length);

/// Works out what a step needs by rehearsing it (core/rehearsal.h): no GPU and no memory taken. One lives at a time in a thread.
class StepRehearsal {
 public:
  /// `task`: fresh, on the CPU.
  StepRehearsal(std::unique_ptr<Task> task, const Recipe& recipe);
  MemoryNeeds needs(const Batch& shape, Recompute recompute);
  /// The most samples of this shape that fit in `capacity` bytes, 0 if not even one does.
  int64_t most_samples(const Batch& shape, Recompute recompute, int64_t capacity);

 private:
  Rehearsal rehearsal_;
  std::unique_ptr<Task> task_;
  std::unique_ptr<Optimizer> optimizer_;
  DType dtype_;
  MemoryNeeds fixed_;
};

/// What is left free for the CUDA context's growth, libraries and blocks that the allocator keeps for other sizes.
inline constexpr int64_t kMemoryReserve = int64_t{768} << 20;

struct MemoryPlan {
  Recompute recompute = Recompute::none;
  MemoryNeeds needs;
  int64_t capacity = 0;      // bytes of the device that may be used, the reserve taken off; 0: not known
  int64_t most_samples = 0;  // of this shape that would fit with the same recomputation
  std::string text() const;
};
/// The plan that train.recompute asks for; "auto": the least recomputation that fits. OutOfMemory with the figures when it does not
/// fit, before anything ran.
MemoryPlan plan_memory(std::unique_ptr<Task> task, const Recipe& recipe, const Batch& sample, int64_t length, int64_t capacity);
/// Bytes that a run on the device may use; 0 when that is not known.
int64_t usable_memory(Device device, int gpu_index);

Recompute recompute_named(const std::string& name);  // "none", "norms", "keys"
const char* name_of(Recompute recompute);

}  // namespace flare
