#pragma once
#include <string>
#include <vector>

#include "core/tensor.h"

namespace flare {

/// The names of the ladder's rungs, slowest first: naive, tiled, tensor-core, split-token, final.
const std::vector<std::string>& mixer_rungs();

/// The forward of flare_mixer by the named rung of the reader's ladder (docs/kernels.md); without tape.
/// q [H,M,D] or [B,H,M,D]; k, v [B,N,H*D], any strides with the last axis contiguous; mask u8 [B,N] or undefined. Returns y
/// [B,N,H*D]. f32 tensors meet the tensor cores as tf32 in tensor-core and split-token; `final` is the op itself, on any device and
/// width. ConfigError for another name, ShapeError when shapes disagree or D is not 8, 16, 32 or 64, DeviceError for tensors on the
/// CPU.
Tensor mixer_ladder(const std::string& rung, const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask, double scale);

}  // namespace flare
