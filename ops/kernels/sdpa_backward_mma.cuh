#pragma once
/// Backward of softmax attention on the matrix units of sm_80 and newer, one pass over the pairs (formulas in sdpa_backward.cuh).
#include "ops/kernels/attention.h"
#include "ops/kernels/sdpa_tile.cuh"

namespace flare {

template <class T> struct SdpaBackwardArgs {
  OperandRows query, key, value, grad;  // grad: rows of g [B,H,n_query,D]
  const float* stats;                   // [b,h][n_blocks * BQ][kRowStats]; 0 past the last query
  const uint8_t* key_mask;
  Rows<T> dk, dv;            // with one chunk of queries; else
  float *dk_part, *dv_part;  // [b,h][chunk][key][D]
  float* dq_part;            // [group][b,h][block of BQ queries][BQ*DP], in the order of the fragments
  int *turn, *ticket;  // turn [group][b,h][block of queries]: key tiles of the group done; ticket: blocks started. Zero at start
  int64_t n_query, n_key, n_bh;  // n_bh = B*H
  int64_t n_blocks, n_groups;    // blocks of BQ queries; groups of key tiles
  int D;
  float scale, factor;  // factor = scale * log2(e)
  SdpaPlan plan;        // tiles of keys, chunks of queries (multiples of BQ)
};

/// How 4 warps cut the gradient of BQ queries of width DP: kQueryWarps along the queries, the others along the width.
template <int DP, int BQ> struct QueryGradCut {
  static constexpr int kQueryWarps = BQ == 16 ? 1 : DP >= 64 || BQ == 32 ? 2 : 4;
  static constexpr int kWidthWarps = 4 / kQueryWarps, QM = BQ / (16 * kQueryWarps), DN = DP / (8 * kWidthWarps);
  static_assert(QM >= 1 && DN >= 2 && DN % 2 == 0);
};

/// Shared memory: key and value tiles, two stages of queries, gradients and their statistics, and dS.
template <int DP, int kParts, int MT, int BQ> constexpr int sdpa_backward_bytes() {
  constexpr int keys = 2 * 64 * MT * DP * kParts * 2, stage = 2 * BQ * DP * kParts * 2 + BQ * (kParts == 1 ? 8 : 16);
  return keys + 2 * stage + 64 * MT * BQ * kParts * 2;
}

/// Grid: as many blocks as (tile of 64*MT keys, chunk of queries, group, b, h), each taking the next one by a ticket. 4 warps, each
/// owning 16*MT keys, whose dk and dv stay in registers. Queries and gradients stream by, BQ at a time through two stages; the
/// weights and dS pass from the products that make them to those that use them in registers (the transposed scores have keys as
/// rows), and dS also through shared memory to dq, which sums over all keys of the block. dq is added to memory in fragment order.
/// The key tiles of a group add to a block of queries in the order of their numbers: a block waits for its turn, which the previous
/// one, started earlier by its ticket, passes on. So every sum has one order. Five products and one exponential per pair; per key
/// tile DP floats added to the second-level cache for each query.
template <class T, int DP, int MT, int BQ, bool kHold, int kBlocks>
__global__ void __launch_bounds__(128, kBlocks) sdpa_backward_kernel(SdpaBackwardArgs<T> a) {
  using Cut = QueryGradCut<DP, BQ>;
  constexpr int kParts = kOperandParts<T>, KT = DP / 16, NT = DP / 8, BK = 64 * MT, QM = Cut::QM, DN = Cut::DN;
  constexpr int kUnroll = 1;
  constexpr int kKeyTile = BK * DP * kParts, kQueryTile = BQ * DP * kParts;  // elements
  bf16* k_tile = reinterpret_cast<bf16*>(dynamic_shared());
  bf16 *v_tile = k_tile + kKeyTile, *ds_tile = v_tile + kKeyTile, *stages = ds_tile + BK * BQ * kParts;
  constexpr int kStats = kRowStats<T>;
  float* stat_stages = reinterpret_cast<float*>(stages + 4 * kQueryTile);
  __shared__ int shared_ticket;
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32, g = lane / 4, t = lane % 4;

  if (threadIdx.x == 0) shared_ticket = atomicAdd(a.ticket, 1);
  __syncthreads();
  // Tickets run over (b,h) first, then groups, then chunks, then the tiles of a group: neighbours in time share no turn.
  int64_t rest = shared_ticket;
  const int64_t bh = rest % a.n_bh, b = bh / a.plan.H, h = bh % a.plan.H;
  rest /= a.n_bh;
  const int64_t group = rest % a.n_groups;
  rest /= a.n_groups;
  const int64_t chunk = rest % a.plan.n_chunks, place = rest / a.plan.n_chunks;
  const int64_t per_group = (a.plan.n_tiles + a.n_groups - 1) / a.n_groups, tile = group * per_group + place;
  if (place >= per_group || tile >= a.plan.n_tiles) return;
  const int64_t first_key = tile * BK, first_block = chunk * a.plan.chunk / BQ;
  const int64_t last_block = min(a.n_blocks, (chunk + 1) * a.plan.chunk / BQ);
  const uint8_t* mask = a.key_mask ? a.key_mask + b * a.n_key : nullptr;
  int* turn = a.turn + (group * a.n_bh + bh) * a.n_blocks;
  float* dq_part = a.dq_part + (group * a.n_bh + bh) * a.n_blocks * (BQ * DP);

  // The keys of this warp that take part, as bits.
  uint32_t live =
      static_cast<uint32_t>(live_keys(mask, first_key + warp * 16 * MT, a.n_key, lane)) & (MT == 2 ? 0xffffffffu : 0xffffu);
  const bool all_live = live == (MT == 2 ? 0xffffffffu : 0xffffu);

  float dk[MT][NT][4] = {}, dv[MT][NT][4] = {};
  const auto start_copy = [&](int64_t block, int stage) {
    bf16* p = stages + stage * 2 * kQueryTile;
    load_tile_async<DP, BQ, kParts, 128>(p, a.query, b, h, block * BQ, a.n_query, a.D, nullptr);
    load_tile_async<DP, BQ, kParts, 128>(p + kQueryTile, a.grad, b, h, block * BQ, a.n_query, a.D, nullptr);
    if (threadIdx.x < BQ * kStats / 4)
      copy_async_16(stat_stages + stage * BQ * kStats + threadIdx.x * 4,
                    a.stats + (bh * a.n_blocks + block) * BQ * kStats + threadIdx.x * 4, true);
    copy_async_commit();
  };
  const bool any_key = __syncthreads_or(live != 0);
  if (!any_key && place != 0) {  // only padding: pass every turn on
    if (threadIdx.x == 0)
      for (int64_t i = first_block; i < last_block; ++i) {
        while (load_acquire(turn + i) != static_cast<int>(place)) {}
        store_release(turn + i, static_cast<int>(place) + 1);
      }
  } else {
    load_tile_async<DP, BK, kParts, 128>(k_tile, a.key, b, h, first_key, a.n_key, a.D, mask);
    load_tile_async<DP, BK, kParts, 128>(v_tile, a.value, b, h, first_key, a.n_key, a.D, mask);
    start_copy(first_block, 0);
    copy_async_wait<0>();
    __syncthreads();
    uint32_t k_held[kHold ? MT : 1][kHold ? KT : 1][kParts][4], v_held[kHold ? MT : 1][kHold ? KT : 1][kParts][4];
    if constexpr (kHold) {
#pragma unroll
      for (int m = 0; m < MT; ++m)
#pragma unroll
        for (int k = 0; k < KT; ++k)
#pragma unroll
          for (int p = 0; p < kParts; ++p) {
            load_a<DP>(k_held[m][k][p], k_tile + p * BK * DP, (warp * MT + m) * 16, 2 * k, lane);
            load_a<DP>(v_held[m][k][p], v_tile + p * BK * DP, (warp * MT + m) * 16, 2 * k, lane);
          }
    }
    for (int64_t block = first_block; block < last_block; ++block) {
      const int stage = static_cast<int>((block - first_block) & 1);
      copy_async_wait<0>();
      __syncthreads();
      if (block + 1 < last_block) start_copy(block + 1, stage ^ 1);
      int seen = static_cast<int>(place);
      if (threadIdx.x == 0 && place != 0) seen = load_acquire(turn + block);
      const bf16 *q_tile = stages + stage * 2 * kQueryTile, *g_tile = q_tile + kQueryTile;
      const float* stats = stat_stages + stage * BQ * kStats;
#pragma unroll kUnroll
      for (int step = 0; step < BQ / 16; ++step) {
        float s[MT][2][4] = {}, dp[MT][2][4] = {};
#pragma unroll
        for (int k = 0; k < KT; ++k) {
          uint32_t f[kParts][4], f2[kParts][4];
#pragma unroll
          for (int p = 0; p < kParts; ++p) {
            load_b<DP>(f[p], q_tile + p * BQ * DP, step * 16, 2 * k, lane);
            load_b<DP>(f2[p], g_tile + p * BQ * DP, step * 16, 2 * k, lane);
          }
#pragma unroll
          for (int m = 0; m < MT; ++m) {
            if constexpr (kHold) {
#pragma unroll
              for (int n = 0; n < 2; ++n) {
                multiply_add<kParts>(s[m][n], k_held[m][k], f, n);
                multiply_add<kParts>(dp[m][n], v_held[m][k], f2, n);
              }
            } else {
              uint32_t e[kParts][4];
#pragma unroll
              for (int p = 0; p < kParts; ++p) load_a<DP>(e[p], k_tile + p * BK * DP, (warp * MT + m) * 16, 2 * k, lane);
#pragma unroll
              for (int n = 0; n < 2; ++n) multiply_add<kParts>(s[m][n], e, f, n);
#pragma unroll
              for (int p = 0; p < kParts; ++p) load_a<DP>(e[p], v_tile + p * BK * DP, (warp * MT + m) * 16, 2 * k, lane);
#pragma unroll
              for (int n = 0; n < 2; ++n) multiply_add<kParts>(dp[m][n], e, f2, n);
            }
          }
        }
#pragma unroll
        for (int n = 0; n < 2; ++n) {
          // (lse, delta) of two queries, or (origin, delta, 1 / sum) of one and of the other
          const float4* row = reinterpret_cast<const float4*>(stats + (step * 16 + n * 8 + 2 * t) * kStats);
          const float4 u = row[0], v = kStats == 4 ? row[1] : make_float4(u.z, u.w, 0, 0);
#pragma unroll
          for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int e = 0; e < 4; ++e) {
              s[m][n][e] = exp2_approx(fmaf(s[m][n][e], a.factor, e & 1 ? -v.x : -u.x));
              if constexpr (kStats == 4) s[m][n][e] *= e & 1 ? v.z : u.z;
            }
          if (!all_live) {
#pragma unroll
            for (int m = 0; m < MT; ++m)
#pragma unroll
              for (int e = 0; e < 4; ++e)
                if (!(live >> (m * 16 + (e / 2) * 8 + g) & 1)) s[m][n][e] = 0;
          }
#pragma unroll
          for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int e = 0; e < 4; ++e) dp[m][n][e] = s[m][n][e] * (dp[m][n][e] - (e & 1 ? v.y : u.y));
        }
        uint32_t weights[MT][kParts][4], ds[MT][kParts][4];
#pragma unroll
        for (int m = 0; m < MT; ++m) {
          as_operand<kParts>(weights[m], s[m][0], s[m][1]);
          as_operand<kParts>(ds[m], dp[m][0], dp[m][1]);
#pragma unroll
          for (int p = 0; p < kParts; ++p)
#pragma unroll
            for (int i = 0; i < 4; ++i)
              *reinterpret_cast<uint32_t*>(ds_tile + p * BK * BQ +
                                           tile_offset<BQ>((warp * MT + m) * 16 + (i & 1) * 8 + g, 2 * step + i / 2) + 2 * t) =
                  ds[m][p][i];
        }
#pragma unroll
        for (int n = 0; n < KT; ++n) {
          uint32_t f[kParts][4], f2[kParts][4];
#pragma unroll
          for (int p = 0; p < kParts; ++p) {
            load_b_trans<DP>(f[p], g_tile + p * BQ * DP, step * 16, 2 * n, lane);
            load_b_trans<DP>(f2[p], q_tile + p * BQ * DP, step * 16, 2 * n, lane);
          }
#pragma unroll
          for (int m = 0; m < MT; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              multiply_add<kParts>(dv[m][2 * n + half], weights[m], f, half);
              multiply_add<kParts>(dk[m][2 * n + half], ds[m], f2, half);
            }
        }
      }
      while (seen != static_cast<int>(place)) seen = load_acquire(turn + block);
      __syncthreads();
      if (threadIdx.x == 0 && block != first_block) store_release(turn + block - 1, static_cast<int>(place) + 1);

      float dq[QM][DN][4] = {};
      const int q0 = warp / Cut::kWidthWarps * QM * 16, d0 = warp % Cut::kWidthWarps * DN;
#pragma unroll
      for (int k = 0; k < BK / 16; ++k) {
        uint32_t e[QM][kParts][4];
#pragma unroll
        for (int m = 0; m < QM; ++m)
#pragma unroll
          for (int p = 0; p < kParts; ++p) load_a_trans<BQ>(e[m][p], ds_tile + p * BK * BQ, k * 16, q0 / 8 + 2 * m, lane);
#pragma unroll
        for (int n = 0; n < DN / 2; ++n) {
          uint32_t f[kParts][4];
#pragma unroll
          for (int p = 0; p < kParts; ++p) load_b_trans<DP>(f[p], k_tile + p * BK * DP, k * 16, d0 + 2 * n, lane);
#pragma unroll
          for (int m = 0; m < QM; ++m) {
            multiply_add<kParts>(dq[m][2 * n], e[m], f, 0);
            multiply_add<kParts>(dq[m][2 * n + 1], e[m], f, 1);
          }
        }
      }
      float* to = dq_part + block * (BQ * DP) + warp * (QM * DN * 128) + lane * 4;
#pragma unroll
      for (int m = 0; m < QM; ++m)
#pragma unroll
        for (int n = 0; n < DN; ++n) {
          if (place == 0)
            *reinterpret_cast<float4*>(to + (m * DN + n) * 128) = make_float4(dq[m][n][0], dq[m][n][1], dq[m][n][2], dq[m][n][3]);
          else
            reduce_add4(to + (m * DN + n) * 128, dq[m][n]);
        }
    }
    __syncthreads();
    if (threadIdx.x == 0) store_release(turn + last_block - 1, static_cast<int>(place) + 1);
  }

#pragma unroll
  for (int m = 0; m < MT; ++m)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int in_warp = m * 16 + r * 8 + g;
      const int64_t i = first_key + warp * 16 * MT + in_warp;
      if (i >= a.n_key) continue;
      const bool is_live = live >> in_warp & 1;
#pragma unroll
      for (int n = 0; n < NT; ++n) {
        const int d = 8 * n + 2 * t;
        const float k0 = is_live ? a.scale * dk[m][n][2 * r] : 0, k1 = is_live ? a.scale * dk[m][n][2 * r + 1] : 0;
        const float v0 = is_live ? dv[m][n][2 * r] : 0, v1 = is_live ? dv[m][n][2 * r + 1] : 0;
        if (a.dk_part) {
          const int64_t row = ((bh * a.plan.n_chunks + chunk) * a.n_key + i) * a.D + d;
          store_pair(a.dk_part + row, a.D - d, k0, k1);
          store_pair(a.dv_part + row, a.D - d, v0, v1);
        } else {
          store_pair(a.dk.at(b, h, i) + d, a.D - d, k0, k1);
          store_pair(a.dv.at(b, h, i) + d, a.D - d, v0, v1);
        }
      }
    }
}

/// dq rows from the fragments: out[(b),h,i,d] = scale * sum over b' (when the query is shared) and groups, in that order. A thread
/// per four floats of a fragment; packed output.
template <class T, int DP, int BQ, class Cut>
__global__ void sdpa_query_grad_kernel(const float* part, T* out, int64_t n_out, int64_t n_sum, int64_t n_groups, int64_t n_query,
                                       int64_t n_blocks, int D, float scale) {
  const int64_t per_bh = n_blocks * (BQ * DP / 4), i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n_out * per_bh) return;
  const int64_t bh = i / per_bh, e = i % per_bh, block = e / (BQ * DP / 4);
  const int in_block = static_cast<int>(e % (BQ * DP / 4)), lane = in_block % 32, n = in_block / 32 % Cut::DN;
  const int m = in_block / 32 / Cut::DN % Cut::QM, warp = in_block / 32 / Cut::DN / Cut::QM;
  float4 sum = make_float4(0, 0, 0, 0);
  for (int64_t s = 0; s < n_sum; ++s)
    for (int64_t group = 0; group < n_groups; ++group) {
      const float4 x = reinterpret_cast<const float4*>(part)[((group * n_sum + s) * n_out + bh) * per_bh + e];
      sum.x += x.x, sum.y += x.y, sum.z += x.z, sum.w += x.w;
    }
  const int64_t query = block * BQ + (warp / Cut::kWidthWarps * Cut::QM + m) * 16 + lane / 4;
  const int d = (warp % Cut::kWidthWarps * Cut::DN + n) * 8 + 2 * (lane % 4);
  T* row = out + (bh * n_query + query) * D + d;
  if (query < n_query) store_pair(row, D - d, scale * sum.x, scale * sum.y);
  if (query + 8 < n_query) store_pair(row + 8 * D, D - d, scale * sum.z, scale * sum.w);
}

}  // namespace flare
