#pragma once
#include <vector>

#include "core/tensor.h"

namespace flare {

struct ResidualMlpAttrs {
  bool input_residual = true, output_residual = true, last_activation = false;
};
/// The residual MLP of FLARE.py with all widths equal, as one op. With h_0 = x and a_l = w_l h_{l-1} + b_l for the layers l = 1 … n
///   h_1 = gelu(a_1) (+ x when input_residual)
///   h_l = h_{l-1} + gelu(a_l), 1 < l < n
///   y = a_n, or gelu(a_n) with last_activation (+ h_{n-1} when output_residual)
/// x [...,C], f32 or bf16 (f64 on the CPU); weights and biases: 1 <= n <= 8 tensors [C,C] ([out,in]) and [C] of
/// param_dtype(x.dtype()) (one layer has both residuals or none); mask: undefined, or u8 of x's shape without C: where it is 0 the
/// row of y is 0 and passes no gradient; residual: undefined, or like x, and added to y, so that a block's sum costs no pass over
/// memory of its own. GELU in its tanh form. Keeps x and nothing else: the backward pass runs the layers again. On CUDA one launch
/// forward and three backward (a kernel, the weight gradients, a reduction), and tiles of padding cost nothing. f32 products are
/// split tf32 ones of f32's accuracy; plain tf32 after set_tf32(true). ShapeError on shapes that disagree or have no kernel. Idea:
/// fully fused MLPs, Müller et al., arXiv 2201.05989.
Tensor residual_mlp(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Tensor& mask = {},
                    const ResidualMlpAttrs& attrs = {}, const Tensor& residual = {});

/// Whether residual_mlp has a kernel for n layers of width C on x's device: 2 <= n <= 8, C = 64 or 128, or 256 in bf16; f32 and
/// (on CUDA) bf16.
bool residual_mlp_fusable(const Tensor& x, int64_t n_layers);

}  // namespace flare
