#pragma once
/// The fused residual MLP on the CPU, in f32. See ops/residual_mlp.h for the mathematics.
#include "ops/kernels/residual_mlp.h"

namespace flare {

/// Whether the CPU has a kernel of this width: those that CUDA has in f32, so that memory plans serve both.
bool has_residual_mlp_cpu(int64_t channels);
/// Fills args.y.
void residual_mlp_forward_cpu(const ResidualMlpArgs<float>& args);
/// Fills args.y (the gradient of x), dw [n_layers, C, C] and db [n_layers, C]. Takes no other memory than sums over runs of rows.
void residual_mlp_backward_cpu(const ResidualMlpArgs<float>& args, float* dw, float* db);

}  // namespace flare
