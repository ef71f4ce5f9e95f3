#pragma once
#include <cstdint>
#include <string>

#include "core/device.h"
#include "core/tensor.h"

namespace flare {

/// navier-stokes-gen: the Navier-Stokes benchmark of Li et al. (arXiv 2010.08895) made from scratch: the flow of VorticitySolver
/// from random initial vorticity, recorded at t = 1, 2, …, `times`, on every `stride`-th of `resolution`² points. The published set
/// was solved on 256² points and with another scheme in time, so errors on one set say nothing about the other. On a GPU many
/// samples are solved at once (BatchedVorticity); the small differences in rounding grow with time, as the flow makes them.
struct NavierStokesOptions {
  uint64_t seed = 0;
  int64_t train = 1000, val = 100, test = 200;
  int64_t resolution = 128, stride = 2;
  int64_t steps = 500;         // per unit of time
  int64_t times = 20;          // records; the first half is input
  int64_t reynolds = 100'000;  // 1/viscosity
  Device device = Device::cpu;
  int64_t batch = 0;  // samples solved at once on a GPU; 0: as many as have half a million points, whose arrays fit its cache
};

/// One sample, f64 [times,side,side] with side = resolution/stride. It depends on the seed, the split and its index in it
/// alone, and its last bits on the device and the batch. NumericError when the steps were too long for the flow.
Tensor make_navier_stokes_sample(const NavierStokesOptions& options, int64_t split, int64_t index);

/// Writes a prepared folder: x = (x, y, first half of the records), y = the other half.
void generate_navier_stokes(const NavierStokesOptions& options, const std::string& out_dir);

}  // namespace flare
