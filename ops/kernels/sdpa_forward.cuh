#pragma once
/// Softmax attention on the matrix units of sm_80 and newer, one pass over the keys.
#include "ops/kernels/attention.h"
#include "ops/kernels/sdpa_tile.cuh"

namespace flare {

template <class T> struct SdpaForwardArgs {
  OperandRows query, key, value;
  Rows<T> out;
  float* lse;                    // [B,H,n_query]
  rest_t<T>* rest;               // or null
  float *part_acc, *part_stats;  // [b,h][chunk][query][D] and [..][2] = (origin, sum) in powers of two; null with one chunk
  const uint8_t* key_mask;
  int64_t n_query, n_key;
  int D;
  float factor;  // scale * log2(e)
  SdpaPlan plan;
};

/// Writes what rounding took from a pair of results.
__device__ __forceinline__ void store_rest(bf16* p, int room, float x, float y) {
  const uint32_t pair = pack_bf16(x, y);
  store_pair(p, room, x - bf16_low(pair), y - bf16_high(pair));
}
/// lse and, in f32, the rest of a query from its origin and sum.
template <class T> __device__ __forceinline__ void store_query(const SdpaForwardArgs<T>& a, int64_t row, float origin, float sum) {
  a.lse[row] = sum != 0 ? 0.6931471805599453f * (origin + log2f(sum)) : 0.0f;
  if constexpr (sizeof(T) == 4)
    if (a.rest) a.rest[2 * row] = sum != 0 ? origin : 0.0f, a.rest[2 * row + 1] = sum != 0 ? 1.0f / sum : 0.0f;
}

/// Shared memory of the kernel below: three stages of a key and a value tile; the queries pass through the third one first.
template <int DP, int kParts, int MT, int BN> constexpr int sdpa_forward_bytes() {
  constexpr int stage = 2 * BN * DP * kParts * 2, queries = 64 * MT * DP * kParts * 2;
  return 2 * stage + (queries > stage ? queries : stage);
}
/// A thread's weights of one row and step summing to more than this have the row's origin moved to its maximum. Rows whose weights
/// are spread never get there; where one weight is nearly all, it becomes 1, which bf16 holds exactly.
inline constexpr float kOriginLimit = 0x1p5f;

/// Grid: (b, h, chunk of keys, tile of 64*MT queries). 4 warps, each owning 16*MT queries: the queries and the weighted sum of
/// values stay in registers, the weights pass from the first product to the second in registers. Tiles of BN keys and values come
/// through three stages of asynchronous copies, one barrier a tile. The steps of 32 keys overlap: while the exponentials of one
/// are computed, the unit works on the scores of the next and the values of the last.
/// Weights are 2^(factor*s - origin) with an origin per row that moves only when a sum of weights passes kOriginLimit, so the
/// common path takes no maximum and never rescales: bf16 and f32 have exponent to spare. Rows start from the maximum of the first
/// 32 keys; where all of those are masked it is -inf, which sends the next step down the slow path, as masked keys do. One FMA,
/// exponential, addition and half a conversion per pair.
template <class T, int DP, int MT, int BN, int kBlocks>
__global__ void __launch_bounds__(128, kBlocks) sdpa_forward_kernel(SdpaForwardArgs<T> a) {
  constexpr int kParts = kOperandParts<T>, KT = DP / 16, NT = DP / 8, BM = 64 * MT, kSteps = BN / 32;
  constexpr int kTile = BN * DP * kParts, kStage = 2 * kTile;  // elements
  bf16* shared = reinterpret_cast<bf16*>(dynamic_shared());
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;
  const int64_t tile = blockIdx.x % a.plan.n_tiles, rest = blockIdx.x / a.plan.n_tiles, chunk = rest % a.plan.n_chunks;
  const int64_t bh = rest / a.plan.n_chunks, b = bh / a.plan.H, h = bh % a.plan.H;
  const uint8_t* mask = a.key_mask ? a.key_mask + b * a.n_key : nullptr;
  const int64_t end = min(a.n_key, (chunk + 1) * a.plan.chunk);
  constexpr uint64_t kAll = BN == 64 ? ~uint64_t{0} : (uint64_t{1} << (BN % 64)) - 1;

  // The next tile from `first` on with a live key, and its keys as bits; bits 0 when there is none.
  uint64_t bits_of[3];
  const auto next_tile = [&](int64_t first, uint64_t& bits) {
    for (bits = 0; first < end; first += BN)
      if ((bits = live_keys(mask, first, end, lane) & kAll) != 0) break;
    return first;
  };
  const auto start_copy = [&](int64_t first, int stage) {
    if (first < end) {
      load_tile_async<DP, BN, kParts, 128>(shared + stage * kStage, a.key, b, h, first, end, a.D, mask);
      load_tile_async<DP, BN, kParts, 128>(shared + stage * kStage + kTile, a.value, b, h, first, end, a.D, mask);
    }
    copy_async_commit();
  };
  bf16* q_tile = shared + 2 * kStage;
  load_tile_async<DP, BM, kParts, 128>(q_tile, a.query, b, h, tile * BM, a.n_query, a.D, nullptr);
  int64_t now = next_tile(chunk * a.plan.chunk, bits_of[0]);
  start_copy(now, 0);
  int64_t next = next_tile(now + BN, bits_of[1]);
  start_copy(next, 1);
  copy_async_wait<1>();
  __syncthreads();
  uint32_t q[MT][KT][kParts][4];
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int k = 0; k < KT; ++k)
#pragma unroll
      for (int p = 0; p < kParts; ++p) load_a<DP>(q[m][k][p], q_tile + p * BM * DP, (warp * MT + m) * 16, 2 * k, lane);

  float acc[MT][NT][4] = {}, sum[MT][2], origin[MT][2], s[MT][4][4];
#pragma unroll
  for (int m = 0; m < MT; ++m) sum[m][0] = sum[m][1] = 0, origin[m][0] = origin[m][1] = __int_as_float(0xff800000);

  const auto scores = [&](const bf16* keys, int step) {
#pragma unroll
    for (int m = 0; m < MT; ++m)
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 4; ++e) s[m][n][e] = 0;
#pragma unroll
    for (int k = 0; k < KT; ++k)
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        uint32_t f[kParts][4];
#pragma unroll
        for (int p = 0; p < kParts; ++p) load_b<DP>(f[p], keys + p * BN * DP, step * 32 + n * 16, 2 * k, lane);
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          multiply_add<kParts>(s[m][2 * n], q[m][k], f, 0);
          multiply_add<kParts>(s[m][2 * n + 1], q[m][k], f, 1);
        }
      }
  };
  scores(shared, 0);
#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float top = origin[m][r];
#pragma unroll
      for (int n = 0; n < 4; ++n)
#pragma unroll
        for (int e = 0; e < 2; ++e)
          if (bits_of[0] >> (8 * n + 2 * t + e) & 1) top = fmaxf(top, a.factor * s[m][n][2 * r + e]);
      top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
      origin[m][r] = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
    }

  for (int stage = 0; now < end;) {
    copy_async_wait<0>();
    __syncthreads();
    uint64_t bits = bits_of[0];
    const int stage1 = stage == 2 ? 0 : stage + 1, stage2 = stage1 == 2 ? 0 : stage1 + 1;
    const int64_t after = next_tile(next + BN, bits_of[2]);
    start_copy(after, stage2);
    const bf16 *keys = shared + stage * kStage, *values = keys + kTile;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const uint32_t live = static_cast<uint32_t>(bits >> (32 * step));
      float added[MT][2];
      bool good = live == 0xffffffffu;
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        added[m][0] = added[m][1] = 0;
#pragma unroll
        for (int n = 0; n < 4; ++n)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            s[m][n][e] = exp2_approx(fmaf(s[m][n][e], a.factor, -origin[m][e / 2]));
            added[m][e / 2] += s[m][n][e];
          }
        good = good && added[m][0] <= kOriginLimit && added[m][1] <= kOriginLimit;
      }
      if (__any_sync(0xffffffffu, !good)) {
        scores(keys, step);
#pragma unroll
        for (int m = 0; m < MT; ++m)
#pragma unroll
          for (int r = 0; r < 2; ++r) {
            float top = origin[m][r];
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
              for (int e = 0; e < 2; ++e)
                if (live >> (8 * n + 2 * t + e) & 1) top = fmaxf(top, a.factor * s[m][n][2 * r + e]);
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 1));
            top = fmaxf(top, __shfl_xor_sync(0xffffffffu, top, 2));
            // Rows above the limit, or without an origin, move to their maximum; others stay (a maximum below the limit is fine).
            const bool none = top == __int_as_float(0xff800000);
            const float shrink = none ? 1.0f : exp2_approx(origin[m][r] - top);
            origin[m][r] = top, sum[m][r] *= shrink, added[m][r] = 0;
#pragma unroll
            for (int n = 0; n < NT; ++n) acc[m][n][2 * r] *= shrink, acc[m][n][2 * r + 1] *= shrink;
#pragma unroll
            for (int n = 0; n < 4; ++n)
#pragma unroll
              for (int e = 0; e < 2; ++e) {
                float& x = s[m][n][2 * r + e];
                x = live >> (8 * n + 2 * t + e) & 1 ? exp2_approx(fmaf(x, a.factor, -top)) : 0.0f;
                added[m][r] += x;
              }
          }
      }
      uint32_t weights[MT][2][kParts][4];
#pragma unroll
      for (int m = 0; m < MT; ++m) {
        sum[m][0] += added[m][0], sum[m][1] += added[m][1];
        as_operand<kParts>(weights[m][0], s[m][0], s[m][1]);
        as_operand<kParts>(weights[m][1], s[m][2], s[m][3]);
      }
      if (step + 1 < kSteps)
        scores(keys, step + 1);
      else if (next < end)
        scores(shared + stage1 * kStage, 0);
#pragma unroll
      for (int k = 0; k < 2; ++k)
#pragma unroll
        for (int n = 0; n < KT; ++n) {
          uint32_t f[kParts][4];
#pragma unroll
          for (int p = 0; p < kParts; ++p) load_b_trans<DP>(f[p], values + p * BN * DP, step * 32 + k * 16, 2 * n, lane);
#pragma unroll
          for (int m = 0; m < MT; ++m) {
            multiply_add<kParts>(acc[m][2 * n], weights[m][k], f, 0);
            multiply_add<kParts>(acc[m][2 * n + 1], weights[m][k], f, 1);
          }
        }
    }
    now = next, next = after, stage = stage1;
    bits_of[0] = bits_of[1], bits_of[1] = bits_of[2];
  }
  copy_async_wait<0>();

#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float total = sum[m][r];
      total += __shfl_xor_sync(0xffffffffu, total, 1);
      total += __shfl_xor_sync(0xffffffffu, total, 2);
      const int64_t i = tile * BM + (warp * MT + m) * 16 + r * 8 + g;
      if (i >= a.n_query) continue;
      const int64_t row = (bh * a.plan.n_chunks + chunk) * a.n_query + i;
      const float weight = a.part_acc ? 1.0f : total != 0 ? 1.0f / total : 0.0f;
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const int d = 8 * n + 2 * t;
        const float x = acc[m][n][2 * r] * weight, y = acc[m][n][2 * r + 1] * weight;
        if (a.part_acc) {
          if (d < a.D) a.part_acc[row * a.D + d] = x;
          if (d + 1 < a.D) a.part_acc[row * a.D + d + 1] = y;
        } else {
          store_pair(a.out.at(b, h, i) + d, a.D - d, x, y);
          if constexpr (sizeof(T) == 2)
            if (a.rest) store_rest(a.rest + (bh * a.n_query + i) * a.D + d, a.D - d, x, y);
        }
      }
      if (t == 0) {
        if (a.part_acc)
          a.part_stats[2 * row] = origin[m][r], a.part_stats[2 * row + 1] = total;
        else
          store_query(a, bh * a.n_query + i, origin[m][r], total);
      }
    }
}

/// Merges the chunks of each query by log-sum-exp, in chunk order. A thread per (b,h,query,d).
template <class T> __global__ void sdpa_merge_kernel(SdpaForwardArgs<T> a, int64_t total) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= total) return;
  const int d = static_cast<int>(e % a.D);
  const int64_t i = e / a.D % a.n_query, bh = e / a.D / a.n_query, row0 = bh * a.plan.n_chunks * a.n_query + i;
  float top = __int_as_float(0xff800000);
#pragma unroll 4
  for (int64_t c = 0; c < a.plan.n_chunks; ++c) top = fmaxf(top, a.part_stats[2 * (row0 + c * a.n_query)]);
  const float origin = top == __int_as_float(0xff800000) ? 0.0f : top;
  float sum = 0, acc = 0;
#pragma unroll 4
  for (int64_t c = 0; c < a.plan.n_chunks; ++c) {
    const int64_t row = row0 + c * a.n_query;
    const float weight = exp2_approx(a.part_stats[2 * row] - origin);
    sum = fmaf(weight, a.part_stats[2 * row + 1], sum), acc = fmaf(weight, a.part_acc[row * a.D + d], acc);
  }
  const float x = sum != 0 ? acc / sum : 0.0f;
  const T rounded = static_cast<T>(x);
  a.out.at(bh / a.plan.H, bh % a.plan.H, i)[d] = rounded;
  if constexpr (sizeof(T) == 2)
    if (a.rest) a.rest[e] = static_cast<T>(x - static_cast<float>(rounded));
  if (d == 0) store_query(a, bh * a.n_query + i, origin, sum);
}

}  // namespace flare
