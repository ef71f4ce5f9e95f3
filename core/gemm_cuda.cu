#include "core/gemm.h"

#if defined(FLARE_CUDA)
#include <cublas_v2.h>

#include <cstdio>
#include <map>

#include "core/allocator.h"
#include "core/gemm_check.h"
#include "core/launch.cuh"
#endif

namespace flare {
#if defined(FLARE_CUDA)
namespace {

void cublas_check(cublasStatus_t status, const char* what) {
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    throw DeviceError(cat(what, ": ", cublasGetStatusName(status), " (", cublasGetStatusString(status), ")"));
}

/// A cuBLAS handle. Its workspace is ours and fixed: with cuBLAS's own pool a captured graph would allocate,
/// and results could differ between runs. The first product of a stream therefore has to run before a capture
/// begins.
class CublasHandle {
 public:
  CublasHandle() {
    cublas_check(cublasCreate(&handle_), "gemm: creating the cuBLAS handle");
    try {
      workspace_ = allocate_bytes(Device::cuda, kWorkspaceBytes);
      // f32 stays f32 unless a call asks for TF32; sums over bf16 products are never kept in bf16 between split parts.
      const int mode = static_cast<int>(CUBLAS_DEFAULT_MATH) | static_cast<int>(CUBLAS_MATH_DISALLOW_REDUCED_PRECISION_REDUCTION);
      cublas_check(cublasSetMathMode(handle_, static_cast<cublasMath_t>(mode)), "gemm: setting the math mode");
      cublas_check(cublasSetPointerMode(handle_, CUBLAS_POINTER_MODE_HOST), "gemm: setting the pointer mode");
      cublas_check(cublasSetAtomicsMode(handle_, CUBLAS_ATOMICS_NOT_ALLOWED), "gemm: forbidding atomics");
    } catch (...) {
      release();
      throw;
    }
  }
  ~CublasHandle() { release(); }
  CublasHandle(const CublasHandle&) = delete;
  CublasHandle& operator=(const CublasHandle&) = delete;

  cublasHandle_t on(const Stream& stream) {
    if (!bound_ || stream_ != stream.handle) {
      cublas_check(cublasSetStream(handle_, native(stream)), "gemm: binding the stream");
      // Binding a stream takes the workspace away, so it is set again each time.
      cublas_check(cublasSetWorkspace(handle_, workspace_, kWorkspaceBytes), "gemm: setting the workspace");
      stream_ = stream.handle;
      bound_ = true;
    }
    return handle_;
  }

 private:
  static constexpr int64_t kWorkspaceBytes = 32 << 20;  // what NVIDIA recommends for sm_90
  void release() noexcept {
    if (cublasDestroy(handle_) != CUBLAS_STATUS_SUCCESS) std::fprintf(stderr, "gemm: cuBLAS did not shut down cleanly\n");
    if (workspace_) release_bytes(Device::cuda, workspace_, kWorkspaceBytes);
  }
  cublasHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  void* stream_ = nullptr;
  bool bound_ = false;
};

/// One handle and workspace for each stream: products of two streams may run at the same time.
CublasHandle& cublas_handle(const Stream& stream) {
  static std::map<void*, CublasHandle> handles;
  return handles[stream.handle];
}

cudaDataType_t cuda_type(DType t) { return t == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F; }

/// C = beta * C when there is nothing to sum over; cuBLAS does not promise to write C then.
void scale_only(const GemmArgs& g, const Stream& stream) {
  check(g.beta == 0 || g.beta == 1, "gemm: k=0 with beta ", g.beta, " is not supported on CUDA");
  if (g.beta == 1) return;
  const auto element = static_cast<size_t>(size_of(g.out_dtype));
  for (int64_t i = 0; i < g.batch; ++i)
    cuda_check(cudaMemset2DAsync(static_cast<char*>(g.c) + static_cast<size_t>(i * g.stride_c) * element,
                                 static_cast<size_t>(g.ldc) * element, 0, static_cast<size_t>(g.n) * element,
                                 static_cast<size_t>(g.m), native(stream)),
               "gemm: clearing C");
}

}  // namespace

void gemm_cuda(const GemmArgs& g, Stream& stream) {
  check_gemm(g);
  check(g.dtype == DType::f32 || g.dtype == DType::bf16, "gemm: CUDA takes f32 and bf16, got ", g.dtype, "; use the CPU for f64");
  if (g.m == 0 || g.n == 0 || g.batch == 0) return;
  if (g.k == 0) {
    scale_only(g, stream);
    return;
  }

  // cuBLAS is column-major: the row-major C is its C^T = op(B)^T op(A)^T, so the operands swap and nothing is moved.
  const cublasOperation_t op_a = g.transpose_a ? CUBLAS_OP_T : CUBLAS_OP_N, op_b = g.transpose_b ? CUBLAS_OP_T : CUBLAS_OP_N;
  const auto alpha = static_cast<float>(g.alpha), beta = static_cast<float>(g.beta);
  const cudaDataType_t type = cuda_type(g.dtype), out_type = cuda_type(g.out_dtype);
  const cublasComputeType_t compute = g.dtype == DType::f32 && tf32_enabled() ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F;
  const int m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
  const int lda = static_cast<int>(g.lda), ldb = static_cast<int>(g.ldb), ldc = static_cast<int>(g.ldc);
  cublasHandle_t handle = cublas_handle(stream).on(stream);
  mark_launch("gemm");
  const cublasStatus_t status = g.batch == 1
                                    ? cublasGemmEx(handle, op_b, op_a, n, m, k, &alpha, g.b, type, ldb, g.a, type, lda, &beta, g.c,
                                                   out_type, ldc, compute, CUBLAS_GEMM_DEFAULT)
                                    : cublasGemmStridedBatchedEx(handle, op_b, op_a, n, m, k, &alpha, g.b, type, ldb, g.stride_b,
                                                                 g.a, type, lda, g.stride_a, &beta, g.c, out_type, ldc, g.stride_c,
                                                                 static_cast<int>(g.batch), compute, CUBLAS_GEMM_DEFAULT);
  if (status != CUBLAS_STATUS_SUCCESS) [[unlikely]]
    throw DeviceError(cat("gemm: cuBLAS failed on m=", g.m, " n=", g.n, " k=", g.k, " batch=", g.batch, " ", g.dtype, ": ",
                          cublasGetStatusName(status), " (", cublasGetStatusString(status), ")"));
  if (sync_each_launch()) cuda_check(cudaStreamSynchronize(native(stream)), "gemm");
}
#else
void gemm_cuda(const GemmArgs&, Stream&) { throw DeviceError("gemm: this build has no CUDA code; configure with -DFLARE_CUDA=ON"); }
#endif
}  // namespace flare
