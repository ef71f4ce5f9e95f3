/// Softmax attention on the GPU: the forward of sdpa and both halves of the FLARE mixer.
#if defined(FLARE_CUDA)
#include "ops/kernels/attention.cuh"

namespace flare {
namespace {

template <class Tq, class Tk> struct AttendKernelArgs {
  DeviceRows<const Tq> query;
  DeviceRows<const Tk> key, value;
  DeviceRows<Tq> out;
  float* lse;
  float *part_acc, *part_stats;  // [b,h][chunk][query][D] and [..][2] = (max, sum) in powers of two; null with one chunk
  const uint8_t *key_mask, *query_mask;
  int64_t n_query, n_key;
  int D;
  float scale;
  AttentionDropout dropout;
  bool dropout_transposed;
  int dropout_half;
  Plan plan;
};

/// Grid: (b, h, tile of blockDim*R queries, chunk of keys). A thread owns R queries: q, the running maximum and sum, and the
/// weighted sum of values in registers, 2*R*DP floats. Keys and values pass through 2*32*DP floats of shared memory, kGroup at a
/// time, so that the accumulators are rescaled once per group. Reads D elements of k and of v per key and block, writes
/// D per query and chunk. 2*DP FMAs and one exponential per pair.
template <class Tq, class Tk, int DP, int R, int kGroup>
__global__ void __launch_bounds__(kMaxThreads) attend_kernel(AttendKernelArgs<Tq, Tk> a) {
  __shared__ __align__(16) float k_tile[kTileRows<DP> * DP], v_tile[kTileRows<DP> * DP], bias[kTileRows<DP>];
  const Work w = work_of(a.plan);
  const int t = static_cast<int>(threadIdx.x);
  const int64_t first = w.tile * blockDim.x * R + t;
  float q[R][DP], acc[R][DP], max[R], sum[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = first + r * static_cast<int64_t>(blockDim.x);
    const bool live = i < a.n_query && (!a.query_mask || a.query_mask[w.b * a.n_query + i]);
    load_row<DP>(a.query.rows.at(w.b, w.h, live ? i : 0), a.D, a.query.vec, a.scale * kLog2e, live, q[r]);
    max[r] = minus_infinity(), sum[r] = 0;
#pragma unroll
    for (int d = 0; d < DP; ++d) acc[r][d] = 0;
  }
  const uint8_t* mask = a.key_mask ? a.key_mask + w.b * a.n_key : nullptr;
  const int64_t begin = w.chunk * a.plan.chunk, end = min(a.n_key, begin + a.plan.chunk);
  for (int64_t j0 = begin; j0 < end; j0 += kTileRows<DP>) {
    const int count = static_cast<int>(min(static_cast<int64_t>(kTileRows<DP>), end - j0));
    const bool mine = t < count && (!mask || mask[j0 + t]);  // a block has at least a thread per tile row
    if (!__syncthreads_or(mine)) continue;                   // padding only
    load_tile<DP>(a.key, w.b, w.h, j0, count, a.D, 1.0f, mask, k_tile);
    load_tile<DP>(a.value, w.b, w.h, j0, count, a.D, 1.0f, mask, v_tile);
    if (t < kTileRows<DP>) bias[t] = mine ? 0.0f : minus_infinity();
    __syncthreads();
    for (int g = 0; g < count; g += kGroup) {
      float s[R][kGroup];
#pragma unroll
      for (int r = 0; r < R; ++r)
#pragma unroll
        for (int j = 0; j < kGroup; ++j) s[r][j] = bias[g + j];
#pragma unroll
      for (int d = 0; d < DP; d += 4)
#pragma unroll
        for (int j = 0; j < kGroup; ++j) {
          const float4 k = *reinterpret_cast<const float4*>(k_tile + (g + j) * DP + d);
#pragma unroll
          for (int r = 0; r < R; ++r)
            s[r][j] = fmaf(q[r][d + 3], k.w, fmaf(q[r][d + 2], k.z, fmaf(q[r][d + 1], k.y, fmaf(q[r][d], k.x, s[r][j]))));
        }
#pragma unroll
      for (int r = 0; r < R; ++r) {
        float m = max[r];
#pragma unroll
        for (int j = 0; j < kGroup; ++j) m = fmaxf(m, s[r][j]);
        const float origin = m == minus_infinity() ? 0.0f : m;  // no key yet: any finite origin makes every weight 0
        const float shrink = exp2_fast(max[r] - origin);
        max[r] = m, sum[r] *= shrink;
#pragma unroll
        for (int d = 0; d < DP; ++d) acc[r][d] *= shrink;
#pragma unroll
        for (int j = 0; j < kGroup; ++j) s[r][j] = exp2_fast(s[r][j] - origin), sum[r] += s[r][j];
        if (a.dropout.on()) {
          const int64_t i = first + r * static_cast<int64_t>(blockDim.x);
#pragma unroll
          for (int j = 0; j < kGroup; j += 2) {
            const int64_t c = j0 + g + j;
            const Philox4 p = a.dropout_transposed ? a.dropout.patch(w.bh, c, i) : a.dropout.patch(w.bh, i, c);
#pragma unroll
            for (int e = 0; e < 2; ++e)
              s[r][j + e] *= a.dropout_transposed ? a.dropout.factor(p, c + e, i, a.dropout_half)
                                                  : a.dropout.factor(p, i, c + e, a.dropout_half);
          }
        }
      }
#pragma unroll
      for (int j = 0; j < kGroup; ++j)
#pragma unroll
        for (int d = 0; d < DP; d += 4) {
          const float4 v = *reinterpret_cast<const float4*>(v_tile + (g + j) * DP + d);
#pragma unroll
          for (int r = 0; r < R; ++r) {
            acc[r][d] = fmaf(s[r][j], v.x, acc[r][d]), acc[r][d + 1] = fmaf(s[r][j], v.y, acc[r][d + 1]);
            acc[r][d + 2] = fmaf(s[r][j], v.z, acc[r][d + 2]), acc[r][d + 3] = fmaf(s[r][j], v.w, acc[r][d + 3]);
          }
        }
    }
    __syncthreads();
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = first + r * static_cast<int64_t>(blockDim.x);
    if (i >= a.n_query) continue;
    if (a.part_acc) {
      const int64_t row = (w.bh * a.plan.n_chunks + w.chunk) * a.n_query + i;
      store_row<DP>(a.part_acc + row * a.D, a.D, a.D % 4 == 0, 1.0f, acc[r]);
      a.part_stats[2 * row] = max[r], a.part_stats[2 * row + 1] = sum[r];
    } else {
      const bool live = sum[r] > 0 && (!a.query_mask || a.query_mask[w.b * a.n_query + i]);
      store_row<DP>(a.out.rows.at(w.b, w.h, i), a.D, a.out.vec, live ? 1.0f / sum[r] : 0.0f, acc[r]);
      a.lse[w.bh * a.n_query + i] = live ? kLn2 * (max[r] + log2f(sum[r])) : 0.0f;
    }
  }
}

/// Merges the chunks of each query by log-sum-exp, in chunk order. A thread per (b,h,query,d).
template <class Tq, class Tk> __global__ void attend_merge_kernel(AttendKernelArgs<Tq, Tk> a, int64_t total) {
  const int64_t e = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (e >= total) return;
  const int d = static_cast<int>(e % a.D);
  const int64_t i = e / a.D % a.n_query, bh = e / a.D / a.n_query, b = bh / a.plan.H, h = bh % a.plan.H;
  const int64_t row0 = bh * a.plan.n_chunks * a.n_query + i;
  float max = minus_infinity();
#pragma unroll 4
  for (int64_t c = 0; c < a.plan.n_chunks; ++c) max = fmaxf(max, a.part_stats[2 * (row0 + c * a.n_query)]);
  const float origin = max == minus_infinity() ? 0.0f : max;
  float sum = 0, acc = 0;
#pragma unroll 4
  for (int64_t c = 0; c < a.plan.n_chunks; ++c) {
    const int64_t row = row0 + c * a.n_query;
    const float weight = exp2_fast(a.part_stats[2 * row] - origin);
    sum = fmaf(weight, a.part_stats[2 * row + 1], sum), acc = fmaf(weight, a.part_acc[row * a.D + d], acc);
  }
  const bool live = sum > 0 && (!a.query_mask || a.query_mask[b * a.n_query + i]);
  a.out.rows.at(b, h, i)[d] = static_cast<Tq>(live ? acc / sum : 0.0f);
  if (d == 0) a.lse[bh * a.n_query + i] = live ? kLn2 * (max + log2f(sum)) : 0.0f;
}

}  // namespace

template <class Tq, class Tk> void attend_cuda(const AttendArgs<Tq, Tk>& args, Stream& stream) {
  dispatch_width("attention", args.D, [&](auto width) {
    constexpr int DP = decltype(width)::value, R = DP <= 16 ? 2 : 1, kGroup = DP <= 64 ? 8 : 4;
    const Plan plan = make_plan(args.B, args.H, args.n_query, args.n_key, R, true);
    AttendKernelArgs<Tq, Tk> a{device_rows(args.query, args.D),
                               device_rows(args.key, args.D),
                               device_rows(args.value, args.D),
                               device_rows(args.out, args.D),
                               args.lse,
                               nullptr,
                               nullptr,
                               args.key_mask,
                               args.query_mask,
                               args.n_query,
                               args.n_key,
                               static_cast<int>(args.D),
                               static_cast<float>(args.scale),
                               args.dropout,
                               args.dropout_transposed,
                               args.dropout_half,
                               plan};
    Tensor acc, stats;
    const int64_t rows = args.B * args.H * args.n_query;
    if (plan.n_chunks > 1) {
      acc = Tensor::empty(Shape{plan.n_chunks * rows * args.D}, DType::f32, Device::cuda);
      stats = Tensor::empty(Shape{plan.n_chunks * rows * 2}, DType::f32, Device::cuda);
      a.part_acc = acc.data<float>(), a.part_stats = stats.data<float>();
    }
    launch("attend", attend_kernel<Tq, Tk, DP, R, kGroup>, plan.shape(args.B), stream, a);
    if (plan.n_chunks > 1) launch("attend merge", attend_merge_kernel<Tq, Tk>, cover(rows * args.D), stream, a, rows * args.D);
  });
}
template void attend_cuda(const AttendArgs<float, float>&, Stream&);
template void attend_cuda(const AttendArgs<bf16, bf16>&, Stream&);
template void attend_cuda(const AttendArgs<float, bf16>&, Stream&);
template void attend_cuda(const AttendArgs<bf16, float>&, Stream&);

}  // namespace flare
#endif
