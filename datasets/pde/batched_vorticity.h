#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/rng.h"
#include "core/tensor.h"

namespace flare {

/// Many flows of VorticitySolver at once on the GPU, with its force, in f64: the same equations, waves and steps, so the same
/// fields but for rounding. A step is two inverse transforms of [2·batch,n,n] complex values, two of [batch,n,n] real ones (cuFFT),
/// and four kernels, recorded into one CUDA graph. The same GPU, batch and random numbers give the same bits, whatever the other
/// flows are. About 90 bytes a point and flow, and cuFFT's work area.
class BatchedVorticity {
 public:
  /// ConfigError unless n is even, 8 to 16384, and batch is 1 to 65535. DeviceError without CUDA or a GPU.
  BatchedVorticity(int64_t n, int64_t batch, double viscosity, double dt);
  ~BatchedVorticity();
  /// Flow b starts from the field that VorticitySolver::draw makes of rngs[b]; flows beyond them start at rest.
  void draw(const std::vector<Rng>& rngs);
  /// Returns when the steps are done.
  void step(int64_t n_steps);
  /// f64 [batch,n/stride,n/stride] in host memory: every stride-th point. ShapeError unless stride divides n.
  Tensor vorticity(int64_t stride = 1);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

/// Name of the GPU this process works on. DeviceError when there is none.
std::string current_gpu();

}  // namespace flare
