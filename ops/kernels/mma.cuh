#pragma once
/// Matrix units and asynchronous copies by PTX: the instructions of sm_80 and newer, one inline function each, and how their
/// fragments lie. A warp holds a fragment together; with g = lane / 4 and t = lane % 4 a thread has
///   A 16 x k, row:  bf16, k = 16: a[0] (g; 2t, 2t+1)  a[1] (g+8; same)  a[2] (g; 2t+8, 2t+9)  a[3] (g+8; same); k = 8: a[0], a[1]
///   B k x 8,  col:  bf16, k = 16: b[0] (2t, 2t+1; g)  b[1] (2t+8, 2t+9; g);                                    k = 8: b[0]
///   C 16 x 8, f32:  c[0], c[1] (g; 2t, 2t+1)  c[2], c[3] (g+8; same)
///   tf32, k = 8:    a[0] (g; t)  a[1] (g+8; t)  a[2] (g; t+4)  a[3] (g+8; t+4);  b[0] (t; g)  b[1] (t+4; g)
/// So the C fragment of one product, rounded to bf16, is the A fragment of the next: columns become the summed index. Where the
/// summed index may be permuted, any loading order serves, if A and B agree on it.
#include <cuda_runtime.h>

#include <cstdint>

namespace flare {

/// d = a b + c; c may be d.
__device__ __forceinline__ void mma_bf16_k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ void mma_bf16_k8(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t b0, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%7,%8,%9,%10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a0), "r"(a1), "r"(b0), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
/// Operands are f32 bits; the unit reads the upper 19 of them.
__device__ __forceinline__ void mma_tf32_k8(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1, const float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%10,%11,%12,%13};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(c[0]), "f"(c[1]), "f"(c[2]), "f"(c[3]));
}
__device__ __forceinline__ uint32_t tf32_nearest(uint32_t x) { return x + 0x1000u; }  // the unit drops the lower 13 bits
/// x = hi + lo up to 2^-22 |x|, both rounded to the nearest: the unit's own truncation of lo would be an error of one sign.
__device__ __forceinline__ void split_tf32(uint32_t x, uint32_t& hi, uint32_t& lo) {
  hi = tf32_nearest(x) & 0xffffe000u;
  lo = tf32_nearest(__float_as_uint(__uint_as_float(x) - __uint_as_float(hi)));
}

/// Four 8x8 matrices of 16-bit elements from shared memory; lane i names row i % 8 of matrix i / 8 (16 aligned bytes). Register j
/// gets elements (g; 2t, 2t+1) of matrix j, or with _trans (2t, 2t+1; g).
__device__ __forceinline__ void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}
__device__ __forceinline__ void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}
__device__ __forceinline__ void ldmatrix_x2_trans(uint32_t& r0, uint32_t& r1, const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
               : "=r"(r0), "=r"(r1)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row))));
}
/// The transpose of an 8x8 matrix of 16-bit elements held by a warp as (g; 2t, 2t+1).
__device__ __forceinline__ uint32_t transpose_8x8(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
  return y;
}
/// The same of an 8x8 f32 matrix, its halves turned one after the other.
__device__ __forceinline__ void transpose_8x8(float& x0, float& x1) {
  const uint32_t a = __float_as_uint(x0), b = __float_as_uint(x1);
  const uint32_t low = transpose_8x8(__byte_perm(a, b, 0x5410)), high = transpose_8x8(__byte_perm(a, b, 0x7632));
  x0 = __uint_as_float(__byte_perm(low, high, 0x5410)), x1 = __uint_as_float(__byte_perm(low, high, 0x7632));
}

/// 16 bytes from global to shared memory without registers; `live` false writes zeros and reads nothing. The whole line comes to
/// the second-level cache: the other heads of a row are about to be read.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool live) {
  asm volatile(
      "cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
      "l"(global), "r"(live ? 16 : 0)
      : "memory");
}
__device__ __forceinline__ void copy_async_4(void* shared, const void* global, bool live) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(static_cast<uint32_t>(__cvta_generic_to_shared(shared))),
               "l"(global), "r"(live ? 4 : 0)
               : "memory");
}
/// Asks for a line to be in the second-level cache soon.
__device__ __forceinline__ void prefetch(const void* global) { asm volatile("prefetch.global.L2 [%0];" ::"l"(global)); }
__device__ __forceinline__ void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until at most `Pending` of this thread's committed groups are unfinished.
template <int Pending> __device__ __forceinline__ void copy_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

/// Two or four words at once. The compiler takes a vector store apart where its operands do not happen to be neighbours.
__device__ __forceinline__ void store_words(void* to, uint32_t a, uint32_t b) {
  asm volatile("st.global.v2.b32 [%0], {%1, %2};" ::"l"(to), "r"(a), "r"(b) : "memory");
}
__device__ __forceinline__ void store_words(void* to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/// bf16(lo) | bf16(hi) << 16, rounded to nearest even.
__device__ __forceinline__ uint32_t pack_bf16(float lo, float hi) {
  uint32_t r;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
  return r;
}
__device__ __forceinline__ float bf16_low(uint32_t pair) { return __uint_as_float(pair << 16); }
__device__ __forceinline__ float bf16_high(uint32_t pair) { return __uint_as_float(pair & 0xffff0000u); }

}  // namespace flare
