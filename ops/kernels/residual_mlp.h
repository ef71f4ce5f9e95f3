#pragma once
/// Host side of the fused residual MLP: what its kernels read and write. See ops/residual_mlp.h for the mathematics.
#include <cstdint>

#include "core/device.h"
#include "core/hd.h"

namespace flare {

inline constexpr int kMaxMlpLayers = 8;

/// Pointers are to packed arrays on the device. Arrays of the backward pass may be null in the forward pass.
template <class T> struct ResidualMlpArgs {
  const T* x = nullptr;                             // [rows, C]
  const T* w[kMaxMlpLayers] = {};                   // [C, C] each, 16-byte aligned
  const float* bias[kMaxMlpLayers] = {};            // [C]
  const uint8_t* mask = nullptr;                    // [rows] or null: rows of zeros in x, y and gy where it is 0
  T* y = nullptr;                                   // [rows, C]: the result; backward: the gradient of x
  const T* residual = nullptr;                      // [rows, C] or null: added to y
  const T* gy = nullptr;                            // [rows, C]
  T* kept = nullptr;                                // [n_layers - 1, slot_rows, C]: what each layer after the first read
  T* cotangents = nullptr;                          // [n_active(), slot_rows, C]: of the sums before the activations; another is gy
  float* bias_parts = nullptr;                      // [chunks, n_layers, C]: sums of the cotangents over chunk_rows rows each
  float* dw_parts = nullptr;                        // [n_layers, chunks, C, C]: products over chunk_rows rows each
  int64_t rows = 0, slot_rows = 0, chunk_rows = 0;  // slot_rows: rows filled up to whole tiles
  int n_layers = 0, channels = 0;
  bool input_residual = true, output_residual = true, last_activation = false;
  FLARE_HD int n_active() const { return n_layers - (last_activation ? 0 : 1); }  // layers with an activation
};

/// Whether there is a kernel of this width.
bool has_residual_mlp(bool is_bf16, int64_t channels);

template <class T> void residual_mlp_forward_cuda(const ResidualMlpArgs<T>& args, const Stream& stream);
/// Fills y, kept and cotangents.
template <class T> void residual_mlp_backward_cuda(const ResidualMlpArgs<T>& args, const Stream& stream);
/// Fills dw_parts and bias_parts, from x, gy and what the backward kernel left.
template <class T> void residual_mlp_weights_cuda(const ResidualMlpArgs<T>& args, const Stream& stream);

/// dw[l] = Σ_s dw_parts[l][s],  db[l] = Σ_s bias_parts[s][l];  dw_parts [n_layers, n_chunks, C, C], dw [n_layers, C, C], db
/// [n_layers, C]
void residual_mlp_reduce_cuda(const float* dw_parts, const float* bias_parts, float* dw, float* db, int n_layers, int64_t channels,
                              int64_t n_chunks, const Stream& stream);

}  // namespace flare
