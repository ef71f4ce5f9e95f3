/// The attention passes on the warpgroup units of sm_90a: host side. The build compiles this file for sm_90a besides the usual
/// targets.
#if defined(FLARE_CUDA)
#include "ops/kernels/sdpa_wgmma.h"

#include "ops/kernels/sdpa_backward_wgmma.cuh"
#include "ops/kernels/sdpa_forward_wgmma.cuh"
#include "ops/kernels/sdpa_host.cuh"

namespace flare {

bool has_wgmma() {
  static const bool usable = [] {
    int device = 0, major = 0;
    cuda_check(cudaGetDevice(&device), "sdpa: device");
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "sdpa: compute capability");
    if (major != 9) return false;
    // Code for other targets has an empty body, which needs few registers.
    cudaFuncAttributes forward{}, backward{};
    cuda_check(cudaFuncGetAttributes(&forward, sdpa_forward_wgmma_kernel), "sdpa: kernel attributes");
    cuda_check(cudaFuncGetAttributes(&backward, sdpa_backward_wgmma_kernel), "sdpa: kernel attributes");
    return forward.numRegs > 64 && backward.numRegs > 64;
  }();
  return usable;
}

void sdpa_forward_wgmma(const SdpaForwardArgs<bf16>& a, int64_t B, Stream& stream) {
  LaunchShape shape = sdpa_grid(B * a.plan.H * a.plan.n_tiles, kSdpaForwardWgmmaBytes);
  shape.block = dim3(256);
  launch("sdpa forward", sdpa_forward_wgmma_kernel, shape, stream, a);
}
void sdpa_backward_wgmma(const SdpaBackwardArgs<bf16>& a, Stream& stream) {
  LaunchShape shape = sdpa_grid(a.n_bh * a.n_groups * divide_up(a.plan.n_tiles, a.n_groups), kSdpaBackwardWgmmaBytes);
  shape.block = dim3(256);
  launch("sdpa backward", sdpa_backward_wgmma_kernel, shape, stream, a);
}
void sdpa_query_grad_wgmma(const SdpaBackwardArgs<bf16>& a, bf16* dq, int64_t n_out, int64_t n_sum, Stream& stream) {
  constexpr int BQ = kWgmmaBackwardStep;
  launch("sdpa query gradient", sdpa_query_grad_kernel<bf16, 64, BQ, QueryGradCutWgmma>, cover(n_out * a.n_blocks * (BQ * 64 / 4)),
         stream, a.dq_part, dq, n_out, n_sum, a.n_groups, a.n_query, a.n_blocks, a.D, a.scale);
}

}  // namespace flare
#endif
