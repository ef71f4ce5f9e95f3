#pragma once
/// Bulk copies of sm_90 from device into shared memory, which one thread starts, and the barriers in shared memory that tell when
/// they have come. A barrier's phases end one after the other: each when as many threads have arrived as it was made for and all
/// bytes that it expects have come. Source: PTX ISA, mbarrier and cp.async.bulk. Without sm_90 the functions do nothing: such code
/// is never launched.
#include <cuda_runtime.h>

#include <cstdint>

namespace flare {

__device__ __forceinline__ uint32_t barrier_address(const uint64_t* barrier) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(barrier));
}
/// By one thread; all others may use it after finish_barriers() of that thread and a __syncthreads().
__device__ __forceinline__ void make_barrier(uint64_t* barrier, int arrivals) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier_address(barrier)), "r"(arrivals) : "memory");
#endif
}
__device__ __forceinline__ void finish_barriers() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ __forceinline__ void arrive(uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier_address(barrier)) : "memory");
#endif
}
/// Waits until phase `phase` (counted from 0) has ended; at most one may have ended since.
__device__ __forceinline__ void await_phase(uint64_t* barrier, int phase) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra ended;\n"
      "bra again;\n"
      "ended:\n"
      "}" ::"r"(barrier_address(barrier)),
      "r"(phase & 1)
      : "memory");
#endif
}
/// Arrives at `barrier` and starts copying `bytes` (a multiple of 16) to a 16-byte boundary in shared memory; its phase ends when
/// they have come.
__device__ __forceinline__ void start_bulk_copy(void* to, const void* from, int bytes, uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier_address(barrier)), "r"(bytes) : "memory");
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   static_cast<uint32_t>(__cvta_generic_to_shared(to))),
               "l"(from), "r"(bytes), "r"(barrier_address(barrier))
               : "memory");
#endif
}

}  // namespace flare
