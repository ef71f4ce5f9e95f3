#pragma once
/// The Hopper version of the fused residual MLP, for bf16 of width 128; chosen by residual_mlp_launch.cuh.
#include "core/dtype.h"
#include "ops/kernels/residual_mlp.h"

namespace flare {

inline constexpr int kMlpChannels = 128;
/// Rows that a warpgroup takes at a time, and warpgroups of a block of the forward pass.
inline constexpr int kWgmmaMlpRows = 64, kMlpForwardGroups = 3;

/// Whether it serves the call: this program has its code, the device runs it, and there are enough rows to fill the GPU.
bool has_residual_mlp_wgmma(const ResidualMlpArgs<bf16>& args);
void residual_mlp_forward_wgmma(const ResidualMlpArgs<bf16>& args, const Stream& stream);
/// Fills y, kept and cotangents.
void residual_mlp_backward_wgmma(const ResidualMlpArgs<bf16>& args, const Stream& stream);
/// Fills dw_parts and bias_parts, from x, gy and what the backward kernel left.
void residual_mlp_weights_wgmma(const ResidualMlpArgs<bf16>& args, const Stream& stream);

}  // namespace flare
