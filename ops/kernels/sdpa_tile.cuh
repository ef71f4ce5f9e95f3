#pragma once
/// What the tensor-core attention kernels share: operands split into bf16 parts, swizzled tiles in shared memory, and products of
/// split operands. A bf16 operand is one part. An f32 operand is three, x = x0 + x1 + x2 with 8 significant bits each, and a
/// product keeps the six terms xi*yj with i + j <= 2: what is dropped is below 2^-25 of |x||y|.
#include "core/dtype.h"
#include "ops/kernels/mma.cuh"
#include "ops/kernels/sdpa_plan.h"
#include "ops/kernels/sdpa_ptx.cuh"

namespace flare {

template <class T> inline constexpr int kOperandParts = sizeof(T) == 2 ? 1 : 3;

/// What the forward leaves for its backward besides out and lse, packed. bf16: [B,H,n_query,D], what rounding took from out, since
/// g.out must cancel g.v where one weight is near 1. f32: [B,H,n_query,2], origin in powers of two and 1 / sum, since lse near 100
/// has no bits left for the weights.
template <class T> using rest_t = T;
/// Floats of a query's statistics in the backward: bf16 (lse in powers of two, g.out), f32 (origin, g.out, 1 / sum, unused).
template <class T> inline constexpr int kRowStats = sizeof(T) == 2 ? 2 : 4;

/// Rows of bf16 parts: 16-byte aligned, strides in elements and multiples of 8; part p lies p * part further on.
struct OperandRows {
  const bf16* data = nullptr;
  int64_t batch = 0, head = 0, row = 0, part = 0;
};

/// Where 16-byte chunk `chunk` of row `row` lies in a tile of rows of W bf16, in elements. The chunks are permuted so that 8
/// consecutive rows of one chunk fall into 32 different banks: the 32-, 64- and 128-byte swizzles of the matrix units.
template <int W> __device__ __forceinline__ int tile_offset(int row, int chunk) {
  const int permuted = W >= 64 ? chunk ^ (row & 7) : W == 32 ? chunk ^ ((row >> 1) & 3) : chunk ^ ((row >> 2) & 1);
  return row * W + permuted * 8;
}

/// Starts copying `kRows` rows from `first` on into a tile per part. Rows from `end` on, masked ones and columns from D on
/// become 0.
template <int W, int kRows, int kParts, int kThreads>
__device__ __forceinline__ void load_tile_async(bf16* tile, const OperandRows& src, int64_t b, int64_t h, int64_t first,
                                                int64_t end, int D, const uint8_t* mask) {
  constexpr int kChunks = W / 8, kStep = kThreads / kChunks;  // rows between the pieces of a thread
  static_assert(kStep % 8 == 0, "the permutation must repeat from one piece to the next");
  const int row0 = static_cast<int>(threadIdx.x) / kChunks, chunk = static_cast<int>(threadIdx.x) % kChunks;
  const bf16* p = src.data + b * src.batch + h * src.head + (first + row0) * src.row + chunk * 8;
  bf16* to = tile + tile_offset<W>(row0, chunk);
  const int count = chunk * 8 < D ? static_cast<int>(min(static_cast<int64_t>(kRows), end - first)) : 0;
  const int64_t step = kStep * src.row;
#pragma unroll
  for (int r = 0; r < kRows; r += kStep, p += step) {
    if (kRows % kStep != 0 && r + row0 >= kRows) break;
    const bool live = r + row0 < count && (!mask || mask[first + r + row0]);
#pragma unroll
    for (int part = 0; part < kParts; ++part) copy_async_16(to + part * kRows * W + r * W, p + part * src.part, live);
  }
}

/// Fragments of the 16 x 16 block at (row0, 8 * chunk0) of a tile. Stored as [m][k] or [n][k]: plain; as [k][m] or [k][n]: _trans.
/// B fragments serve two products: registers 0, 1 for columns 0..7, registers 2, 3 for columns 8..15.
template <int W> __device__ __forceinline__ void load_a(uint32_t (&r)[4], const bf16* tile, int row0, int chunk0, int lane) {
  ldmatrix_x4(r, tile + tile_offset<W>(row0 + (lane & 15), chunk0 + (lane >> 4)));
}
template <int W> __device__ __forceinline__ void load_b_trans(uint32_t (&r)[4], const bf16* tile, int row0, int chunk0, int lane) {
  ldmatrix_x4_trans(r, tile + tile_offset<W>(row0 + (lane & 15), chunk0 + (lane >> 4)));
}
template <int W> __device__ __forceinline__ void load_b(uint32_t (&r)[4], const bf16* tile, int row0, int chunk0, int lane) {
  ldmatrix_x4(r, tile + tile_offset<W>(row0 + (lane & 7) + (lane >> 4) * 8, chunk0 + ((lane >> 3) & 1)));
}
template <int W> __device__ __forceinline__ void load_a_trans(uint32_t (&r)[4], const bf16* tile, int row0, int chunk0, int lane) {
  ldmatrix_x4_trans(r, tile + tile_offset<W>(row0 + (lane & 7) + (lane >> 4) * 8, chunk0 + ((lane >> 3) & 1)));
}

/// acc += a b for a 16 x 8 x 16 product. The unit truncates its sums: with three parts each product is summed on its own, small
/// terms first, and added by a rounding addition.
template <int kParts>
__device__ __forceinline__ void multiply_add(float (&acc)[4], const uint32_t (&a)[kParts][4], const uint32_t (&b)[kParts][4],
                                             int half) {
  const int i = 2 * half, j = i + 1;
  if constexpr (kParts == 1) {
    mma_bf16_k16(acc, a[0], b[0][i], b[0][j], acc);
  } else {
    float t[4] = {0, 0, 0, 0};
    mma_bf16_k16(t, a[0], b[2][i], b[2][j], t);
    mma_bf16_k16(t, a[2], b[0][i], b[0][j], t);
    mma_bf16_k16(t, a[1], b[1][i], b[1][j], t);
    mma_bf16_k16(t, a[0], b[1][i], b[1][j], t);
    mma_bf16_k16(t, a[1], b[0][i], b[0][j], t);
    mma_bf16_k16(t, a[0], b[0][i], b[0][j], t);
#pragma unroll
    for (int e = 0; e < 4; ++e) acc[e] += t[e];
  }
}

/// The C fragments of two neighbouring 16 x 8 products as the parts of one 16 x 16 A fragment.
template <int kParts>
__device__ __forceinline__ void as_operand(uint32_t (&a)[kParts][4], const float (&c0)[4], const float (&c1)[4]) {
  float x[8] = {c0[0], c0[1], c0[2], c0[3], c1[0], c1[1], c1[2], c1[3]};
#pragma unroll
  for (int p = 0; p < kParts; ++p)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      a[p][i] = pack_bf16(x[2 * i], x[2 * i + 1]);
      if (p + 1 < kParts) x[2 * i] -= bf16_low(a[p][i]), x[2 * i + 1] -= bf16_high(a[p][i]);
    }
}

/// Writes two neighbours, of which `room` exist. p is aligned to a pair where both exist and rows have even width.
__device__ __forceinline__ void store_pair(float* p, int room, float x, float y) {
  if (room > 0) p[0] = x;
  if (room > 1) p[1] = y;
}
__device__ __forceinline__ void store_pair(bf16* p, int room, float x, float y) {
  const uint32_t pair = pack_bf16(x, y);
  if (room > 1 && (reinterpret_cast<uintptr_t>(p) & 3) == 0)
    *reinterpret_cast<uint32_t*>(p) = pair;
  else {
    if (room > 0) p[0].bits = static_cast<uint16_t>(pair);
    if (room > 1) p[1].bits = static_cast<uint16_t>(pair >> 16);
  }
}

/// Writes a row of 64 bf16 (D <= 64 of them) held by 4 lanes as pairs, w[n] at columns 8n + 2t: exchanged, so that a lane has 16
/// bytes in a row, where the row allows it. All lanes of a warp call it together; `live` says which rows exist.
__device__ __forceinline__ void store_row64(bf16* row, int D, const uint32_t (&w)[8], int t, bool live) {
  if (D % 8 != 0) {  // rows are packed, from an aligned start
#pragma unroll
    for (int n = 0; n < 8; ++n)
      if (live) store_pair(row + 8 * n + 2 * t, D - 8 * n - 2 * t, bf16_low(w[n]), bf16_high(w[n]));
    return;
  }
  const bool odd = t & 1, upper = t & 2;
#pragma unroll
  for (int n = 0; n < 8; n += 4) {
    const uint32_t x0 = __shfl_xor_sync(0xffffffffu, odd ? w[n] : w[n + 1], 1),
                   x1 = __shfl_xor_sync(0xffffffffu, odd ? w[n + 2] : w[n + 3], 1);
    const uint32_t b0 = odd ? x0 : w[n], b1 = odd ? w[n + 1] : x0, b2 = odd ? x1 : w[n + 2], b3 = odd ? w[n + 3] : x1;
    const uint32_t y0 = __shfl_xor_sync(0xffffffffu, upper ? b0 : b2, 2), y1 = __shfl_xor_sync(0xffffffffu, upper ? b1 : b3, 2);
    const uint4 all = upper ? make_uint4(y0, y1, b2, b3) : make_uint4(b0, b1, y0, y1);
    if (live && 8 * (n + t) < D) *reinterpret_cast<uint4*>(row + 8 * (n + t)) = all;
  }
}

/// Bit i tells whether key first + i takes part, for 64 keys. All lanes of a warp call it together.
__device__ __forceinline__ uint64_t live_keys(const uint8_t* mask, int64_t first, int64_t end, int lane) {
  if (!mask) return end - first >= 64 ? ~uint64_t{0} : end <= first ? 0 : (uint64_t{1} << (end - first)) - 1;
  const uint32_t low = __ballot_sync(0xffffffffu, first + lane < end && mask[first + lane] != 0);
  const uint32_t high = __ballot_sync(0xffffffffu, first + 32 + lane < end && mask[first + 32 + lane] != 0);
  return static_cast<uint64_t>(high) << 32 | low;
}

}  // namespace flare
