#pragma once
/// The Hopper version of the fused residual MLP in f32, widths 64 and 128; chosen by residual_mlp_launch.cuh. Operands of products
/// are split into two fp16 numbers.
#include "ops/kernels/residual_mlp.h"

namespace flare {

/// Whether it serves the call: this program has its code, the device runs it, and there are enough rows to fill the GPU.
bool has_residual_mlp_halves(const ResidualMlpArgs<float>& args);
void residual_mlp_forward_halves(const ResidualMlpArgs<float>& args, const Stream& stream);
/// Fills y, kept and cotangents.
void residual_mlp_backward_halves(const ResidualMlpArgs<float>& args, const Stream& stream);
/// Fills dw_parts and bias_parts, from x, gy and what a backward kernel left.
void residual_mlp_weights_halves(const ResidualMlpArgs<float>& args, const Stream& stream);

}  // namespace flare
