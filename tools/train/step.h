#pragma once
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <vector>

#include "core/graph.h"
#include "core/profile.h"
#include "core/staging.h"
#include "nn/optim/optimizer.h"
#include "tools/train/task.h"

namespace flare {

struct StepOptions {
  int64_t accumulate = 1;    // micro-batches a step
  DType dtype = DType::f32;  // of the activations
  uint64_t seed = 0;
  bool graph = true;  // on CUDA: replay captured steps
  Recompute recompute = Recompute::none;
};

/// A training step: forward, loss, backward for each micro-batch, then clipping, optimizer, schedule and averages. On the GPU the
/// work for one shape of batch is recorded into a CUDA graph when the shape comes the second time (the first time it runs plainly,
/// so that libraries set themselves up) and replayed from then on: one launch in place of a thousand. The kernels are the same
/// either way, and so are the bits. Batches travel beside the work of the step before. What cannot be recorded runs plainly for the
/// rest of the run, and the log says why. Nothing here waits for the device.
class TrainStep {
 public:
  TrainStep(Task& task, Optimizer& optimizer, Device device, const StepOptions& options);

  /// Queues micro-batch `micro` of [0, accumulate) of a step; the last one updates the weights. batch: on the CPU.
  void run(const Batch& batch, int64_t micro);
  struct Forward {
    Tensor output, loss;  // off the tape
  };
  /// Forward and backward alone; batch: on the device. Sets *in_backward, if given, in between.
  Forward forward_backward(const Batch& batch, int64_t micro, bool* in_backward = nullptr);
  /// Sums over the batches run since the caller last cleared them.  f32 [] on the device.
  const Tensor& loss_sum() const { return loss_sum_; }
  const Tensor& score_sum() const { return score_sum_; }

  bool captures() const { return captures_; }
  /// Lets every graph and its memory go; later steps record again.
  void release_graphs();
  int64_t n_graphs() const;
  int64_t n_nodes() const;  // of the graph used last; 0: none
  /// The time of one step of a batch by launch name, as a graph; the step counts. DeviceError without CUDA.
  std::vector<LaunchProfile::Entry> profile(const Batch& batch);

 private:
  /// One shape of batch and one place in the step.
  struct Recorded {
    std::string key;
    Tensor block;                      // u8: the batch's tensors
    Batch batch;                       // views of it
    Graph graph;                       // empty until the second run
    std::vector<bool> void_gradients;  // the optimizer's marks after it
  };
  void work(const Batch& batch, int64_t micro);
  void work_plainly(const Batch& batch, int64_t micro);
  Recorded& find(const Batch& batch, int64_t micro);
  bool capture(Recorded& recorded, int64_t micro);

  Task& task_;
  Optimizer& optimizer_;
  Device device_;
  StepOptions options_;
  bool captures_;
  Tensor loss_sum_, score_sum_;
  std::unique_ptr<Upload> upload_;  // CUDA only
  std::shared_ptr<GraphMemory> memory_;
  std::list<Recorded> recorded_;  // the one used last in front
};

}  // namespace flare
