#pragma once
/// The two matrix products of attention on the tensor cores, for one warp that owns 16 queries and meets 64 keys at a time.
/// Fragment layouts: mma.cuh; g = lane / 4, t = lane % 4.
///   scores: s = q k^T     s[j] holds keys 8j ... 8j+7 as a C fragment: queries g and g+8, keys 8j + 2t and 8j + 2t + 1
///   add:    acc += p v    acc[c] holds columns 8c ... 8c+7 in the same layout; p are the weights in the place of s
/// The C fragment of the first product is the A fragment of the second, so weights never leave the registers.
#include "ops/kernels/ladder.cuh"
#include "ops/kernels/mma.cuh"

namespace flare {

inline constexpr int kMmaQueries = 64, kMmaKeys = 64, kMmaThreads = 128;  // of a block: four warps of 16 queries

/// bf16 products, m16n8k16. Head width 8 is padded with zeros to the 16 that one product sums over. Rows of a tile lie 16 bytes
/// further apart than their width, so that the eight rows ldmatrix reads at a time fall into different banks.
template <int D> struct Bf16Unit {
  static constexpr int kWidth = D < 16 ? 16 : D, kStride = kWidth + 8;
  using Element = bf16;
  struct Query {
    uint32_t a[kWidth / 16][4];
  };

  static __device__ __forceinline__ void store(bf16* p, float4 x) {
    *reinterpret_cast<uint2*>(p) = make_uint2(pack_bf16(x.x, x.y), pack_bf16(x.z, x.w));
  }
  static __device__ __forceinline__ void load(const bf16* rows, int lane, Query& q) {
#pragma unroll
    for (int c = 0; c < kWidth / 16; ++c)
      ldmatrix_x4(q.a[c], rows + (lane / 8 % 2 * 8 + lane % 8) * kStride + c * 16 + lane / 16 * 8);
  }
  static __device__ __forceinline__ void scores(const Query& q, const bf16* key, int lane, float (&s)[kMmaKeys / 8][4]) {
#pragma unroll
    for (int j = 0; j < kMmaKeys / 8; j += 2)
#pragma unroll
      for (int c = 0; c < kWidth / 16; ++c) {
        uint32_t b[4];  // keys 8j...: both halves of the columns, then keys 8j + 8...
        ldmatrix_x4(b, key + (j * 8 + lane / 16 * 8 + lane % 8) * kStride + c * 16 + lane / 8 % 2 * 8);
        mma_bf16_k16(s[j], q.a[c], b[0], b[1], s[j]);
        mma_bf16_k16(s[j + 1], q.a[c], b[2], b[3], s[j + 1]);
      }
  }
  static __device__ __forceinline__ void add(const float (&p)[kMmaKeys / 8][4], const bf16* value, int lane,
                                             float (&acc)[D / 8][4]) {
#pragma unroll
    for (int j = 0; j < kMmaKeys / 8; j += 2) {
      const uint32_t a[4] = {pack_bf16(p[j][0], p[j][1]), pack_bf16(p[j][2], p[j][3]), pack_bf16(p[j + 1][0], p[j + 1][1]),
                             pack_bf16(p[j + 1][2], p[j + 1][3])};
#pragma unroll
      for (int c = 0; c < kWidth / 16; ++c) {
        uint32_t b[4];  // columns 16c...: keys 8j... and 8j + 8..., then columns 16c + 8...
        ldmatrix_x4_trans(b, value + (j * 8 + lane / 8 % 2 * 8 + lane % 8) * kStride + c * 16 + lane / 16 * 8);
        mma_bf16_k16(acc[2 * c], a, b[0], b[1], acc[2 * c]);
        if constexpr (D >= 16) mma_bf16_k16(acc[2 * c + 1], a, b[2], b[3], acc[2 * c + 1]);
      }
    }
  }
};

/// tf32 products, m16n8k8, for f32 tensors: 10 bits of mantissa, rounded on the way into shared memory. A tf32 A fragment wants
/// columns t and t+4 where a C fragment has 2t and 2t+1; the order of the summed index is free, so value rows are fetched to match.
template <int D> struct Tf32Unit {
  static constexpr int kWidth = D, kStride = D + 4;
  using Element = float;
  struct Query {
    uint32_t a[D / 8][4];
  };

  static __device__ __forceinline__ uint32_t round(float x) {
    uint32_t r;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(r) : "f"(x));
    return r;
  }
  static __device__ __forceinline__ uint32_t bits(float x) { return __float_as_uint(x); }
  static __device__ __forceinline__ void store(float* p, float4 x) {
    *reinterpret_cast<uint4*>(p) = make_uint4(round(x.x), round(x.y), round(x.z), round(x.w));
  }
  static __device__ __forceinline__ void load(const float* rows, int lane, Query& q) {
    const float* p = rows + lane / 4 * kStride + lane % 4;
#pragma unroll
    for (int c = 0; c < D / 8; ++c, p += 8)
      q.a[c][0] = bits(p[0]), q.a[c][1] = bits(p[8 * kStride]), q.a[c][2] = bits(p[4]), q.a[c][3] = bits(p[8 * kStride + 4]);
  }
  static __device__ __forceinline__ void scores(const Query& q, const float* key, int lane, float (&s)[kMmaKeys / 8][4]) {
#pragma unroll
    for (int j = 0; j < kMmaKeys / 8; ++j) {
      const float* p = key + (j * 8 + lane / 4) * kStride + lane % 4;
#pragma unroll
      for (int c = 0; c < D / 8; ++c) mma_tf32_k8(s[j], q.a[c], bits(p[c * 8]), bits(p[c * 8 + 4]), s[j]);
    }
  }
  static __device__ __forceinline__ void add(const float (&p)[kMmaKeys / 8][4], const float* value, int lane,
                                             float (&acc)[D / 8][4]) {
#pragma unroll
    for (int j = 0; j < kMmaKeys / 8; ++j) {
      const uint32_t a[4] = {round(p[j][0]), round(p[j][2]), round(p[j][1]), round(p[j][3])};
      const float* v = value + (j * 8 + lane % 4 * 2) * kStride + lane / 4;
#pragma unroll
      for (int c = 0; c < D / 8; ++c) mma_tf32_k8(acc[c], a, bits(v[c * 8]), bits(v[kStride + c * 8]), acc[c]);
    }
  }
};

}  // namespace flare
