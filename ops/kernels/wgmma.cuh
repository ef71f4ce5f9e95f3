#pragma once
/// Matrix products of a warpgroup (128 threads) on sm_90a: 64 rows of A times B, asynchronous, B (and A, if wanted) read from
/// shared memory. Fragments of A and of the result lie as in mma.cuh, warp i of the group holding rows 16*i to 16*i + 15; result
/// register 4*n + e is element e of the 16 x 8 block n. Without sm_90a the functions do nothing: such code is never launched.
#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define FLARE_HAS_WGMMA 1
#else
#define FLARE_HAS_WGMMA 0
#endif

namespace flare {

/// A tile of rows of 64 bf16 or fp16 with the 128-byte swizzle (tile_offset<64>, 1024-byte aligned), from `p` on. The summed index
/// may run along the rows (16 more: p + 16 elements) or across them (16 more: p + 16 rows); the products say which.
__device__ __forceinline__ uint64_t matrix_descriptor(const void* p) {
  const uint32_t address = static_cast<uint32_t>(__cvta_generic_to_shared(p));
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kStride = 1024 >> 4;  // 8 rows of 128 bytes
  return (address & 0x3ffff) >> 4 | kStride << 16 | kStride << 32 | kSwizzle128;
}

/// Orders this warpgroup's register and shared-memory accesses before the products that follow.
__device__ __forceinline__ void wgmma_fence() {
#if FLARE_HAS_WGMMA
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ __forceinline__ void wgmma_commit() {
#if FLARE_HAS_WGMMA
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
template <int Pending> __device__ __forceinline__ void wgmma_wait() {
#if FLARE_HAS_WGMMA
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(Pending) : "memory");
#endif
}
/// Shared memory written by this thread becomes visible to the matrix units, once a barrier follows.
__device__ __forceinline__ void fence_for_wgmma() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// clang-format off
#define FLARE_WGMMA_D \
  "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}"
#define FLARE_WGMMA_REGISTERS(x) \
  x(d[0]), x(d[1]), x(d[2]), x(d[3]), x(d[4]), x(d[5]), x(d[6]), x(d[7]), \
  x(d[8]), x(d[9]), x(d[10]), x(d[11]), x(d[12]), x(d[13]), x(d[14]), x(d[15]), \
  x(d[16]), x(d[17]), x(d[18]), x(d[19]), x(d[20]), x(d[21]), x(d[22]), x(d[23]), \
  x(d[24]), x(d[25]), x(d[26]), x(d[27]), x(d[28]), x(d[29]), x(d[30]), x(d[31])
// clang-format on
#define FLARE_NEW(x) "=f"(x)
#define FLARE_SUM(x) "+f"(x)

// A result that starts anew must not name its registers as inputs: whatever wrote them would make the compiler serialise.
#define FLARE_PRODUCT(TYPE, ADD, MODE)                                                                                        \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " " FLARE_WGMMA_D ", {%32,%33,%34,%35}, %36, " ADD \
               ", 1, 1, %37;"                                                                                                 \
               : FLARE_WGMMA_REGISTERS(MODE)                                                                                  \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "n"(kRowsAreSummed ? 1 : 0))
#define FLARE_PRODUCT_SHARED(TYPE, ADD, MODE)                                                                   \
  asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32." TYPE "." TYPE " " FLARE_WGMMA_D ", %32, %33, " ADD \
               ", 1, 1, %34, %34;"                                                                              \
               : FLARE_WGMMA_REGISTERS(MODE)                                                                    \
               : "l"(a), "l"(b), "n"(kRowsAreSummed ? 1 : 0))

/// d = a b, or d += a b with kAdd: 64 x 64 x 16, a from registers; bf16, or fp16 with kFp16. kRowsAreSummed: the rows of b's tile
/// are the summed index, else its columns are.
template <bool kAdd, bool kRowsAreSummed, bool kFp16 = false>
__device__ __forceinline__ void wgmma_64x64(float (&d)[32], const uint32_t (&a)[4], uint64_t b) {
#if FLARE_HAS_WGMMA
  if constexpr (kFp16 && kAdd)
    FLARE_PRODUCT("f16", "1", FLARE_SUM);
  else if constexpr (kFp16)
    FLARE_PRODUCT("f16", "0", FLARE_NEW);
  else if constexpr (kAdd)
    FLARE_PRODUCT("bf16", "1", FLARE_SUM);
  else
    FLARE_PRODUCT("bf16", "0", FLARE_NEW);
#endif
}
/// The same with both a and b from tiles, whose rows or columns are the summed index.
template <bool kAdd, bool kRowsAreSummed, bool kFp16 = false>
__device__ __forceinline__ void wgmma_64x64_shared(float (&d)[32], uint64_t a, uint64_t b) {
#if FLARE_HAS_WGMMA
  if constexpr (kFp16 && kAdd)
    FLARE_PRODUCT_SHARED("f16", "1", FLARE_SUM);
  else if constexpr (kFp16)
    FLARE_PRODUCT_SHARED("f16", "0", FLARE_NEW);
  else if constexpr (kAdd)
    FLARE_PRODUCT_SHARED("bf16", "1", FLARE_SUM);
  else
    FLARE_PRODUCT_SHARED("bf16", "0", FLARE_NEW);
#endif
}
#undef FLARE_PRODUCT
#undef FLARE_PRODUCT_SHARED
#undef FLARE_WGMMA_D
#undef FLARE_WGMMA_REGISTERS
#undef FLARE_NEW
#undef FLARE_SUM

}  // namespace flare
