#pragma once
#include <cstdint>

#include "core/device.h"
#include "core/dtype.h"

namespace flare {

/// One batched row-major product C = alpha * op(A) * op(B) + beta * C, fp32 accumulation (f64 for f64).
/// op(A): [m,k], op(B): [k,n], C: [m,n]; ld* is the row stride in elements of the matrix as stored; stride_* from one batch
/// entry to the next (0 broadcasts). A and B have `dtype`; C has `out_dtype`: dtype, or f32 beside bf16.
struct GemmArgs {
  bool transpose_a = false, transpose_b = false;
  int64_t m = 0, n = 0, k = 0, batch = 1;
  double alpha = 1, beta = 0;
  const void* a = nullptr;
  int64_t lda = 0, stride_a = 0;
  const void* b = nullptr;
  int64_t ldb = 0, stride_b = 0;
  void* c = nullptr;
  int64_t ldc = 0, stride_c = 0;
  DType dtype = DType::f32, out_dtype = DType::f32;
};
/// OpenBLAS, split over the cores in fixed blocks: the bits do not depend on the number of threads.
void gemm_cpu(const GemmArgs& args);
/// cuBLAS on the stream. f32 uses plain fp32 unless set_tf32(true).
void gemm_cuda(const GemmArgs& args, Stream& stream);
inline void gemm(const GemmArgs& args, Stream& stream) { stream.device == Device::cpu ? gemm_cpu(args) : gemm_cuda(args, stream); }
/// Allows TF32 tensor cores for f32 products on CUDA (precision "tf32"). Off at start.
void set_tf32(bool on);
bool tf32_enabled();

}  // namespace flare
