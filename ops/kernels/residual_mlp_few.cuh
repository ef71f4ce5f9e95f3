#pragma once
/// The fused residual MLP in f32 where there are few rows, so that what counts is how long one tile of 16 rows takes. A warp owns
/// some columns of all layers, a thread two rows of two columns: what it makes in one layer it needs in the next, for residuals
/// and slopes, and keeps in registers. Only the left side of the products is everybody's; it goes through shared memory already
/// split and in the order in which the matrix units read it (the summed index may be permuted), so that a step over 8 channels is
/// three loads, the split of two numbers of the weight, and three products. Two such buffers take turns: one barrier a layer.
#include "core/launch.cuh"
#include "ops/kernels/residual_mlp.cuh"

namespace flare {

/// Buffers: weights that are in shared memory or on their way, at least 2.
template <int Channels, int Buffers, bool Split> struct MlpFewTile {
  static constexpr int kC = Channels, kRows = 16, kWarps = 8, kThreads = 32 * kWarps, kBuffers = Buffers;
  static constexpr int kBlocks = Channels == 64 ? 2 : 1;                    // that share a multiprocessor
  static constexpr int kNT = Channels / 8 / kWarps, kSteps = Channels / 8;  // column tiles of a warp; steps over the channels
  static constexpr bool kSplit = Split;
  static constexpr int kParts = Split ? 2 : 1;
  // Row strides that keep a warp's reads on different banks: pairs along a row, and single numbers of rows 2t down the columns.
  static constexpr int kStride = Channels + 8, kStrideDown = Channels + 4;
  static constexpr int kWeightElements = Channels * kStride, kFragmentElements = kSteps * kParts * 32 * 4;
  static constexpr int64_t kForwardBytes = int64_t{4} * (Buffers * kWeightElements + 2 * kFragmentElements);
  static constexpr int64_t kSlopeBytes = int64_t{4} * kRows * Channels;  // of a layer
  static int64_t backward_bytes(int n_active) { return kForwardBytes + n_active * kSlopeBytes; }
};

/// A thread's numbers: of column tile nt, rows g and g + 8 of columns 2t and 2t + 1, as an accumulator has them.
template <class Tile> using MlpFewRows = float[Tile::kNT][4];

template <class Tile> struct MlpFewPlace {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int64_t first;
  bool live[2];
  __device__ MlpFewPlace(int64_t rows, const uint8_t* mask) : first(static_cast<int64_t>(blockIdx.x) * Tile::kRows) {
    live[0] = is_live(first + g, rows, mask), live[1] = is_live(first + g + 8, rows, mask);
  }
  __device__ int step(int nt) const { return warp * Tile::kNT + nt; }  // of the summed index that its columns are
  __device__ int column(int nt) const { return 8 * step(nt) + 2 * t; }
  __device__ int64_t at(int half, int nt) const { return (first + g + 8 * half) * Tile::kC + column(nt); }
};
/// Rows that are not live become zeros.
template <class Tile> __device__ __forceinline__ void load_few(MlpFewRows<Tile>& v, const float* from, const MlpFewPlace<Tile>& p) {
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 pair = p.live[half] ? load_pair(from + p.at(half, nt)) : float2{0, 0};
      v[nt][2 * half] = pair.x, v[nt][2 * half + 1] = pair.y;
    }
}
/// Rows below `rows`; the backward pass's own arrays have whole tiles.
template <class Tile>
__device__ __forceinline__ void store_few(const MlpFewRows<Tile>& v, float* to, const MlpFewPlace<Tile>& p, int64_t rows) {
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      if (p.first + p.g + 8 * half < rows) store_pair(to + p.at(half, nt), v[nt][2 * half], v[nt][2 * half + 1]);
}
/// What is added to the result, of rows below `rows`; zeros without.
template <class Tile>
__device__ __forceinline__ void load_added(MlpFewRows<Tile>& v, const float* from, const MlpFewPlace<Tile>& p, int64_t rows) {
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float2 pair = from && p.first + p.g + 8 * half < rows ? load_pair(from + p.at(half, nt)) : float2{0, 0};
      v[nt][2 * half] = pair.x, v[nt][2 * half + 1] = pair.y;
    }
}

/// Shared memory: weights, then two buffers of fragments, then slopes. A fragment is 16 bytes a lane; those of step s lie side by
/// side over the lanes, high parts before low ones.
template <class Tile> struct MlpFewShared {
  float* weights;
  __device__ float* weight(int i) const { return weights + i % Tile::kBuffers * Tile::kWeightElements; }
  __device__ uint4* fragment(int buffer, int step, int part, int lane) const {
    float* all = weights + Tile::kBuffers * Tile::kWeightElements + buffer * Tile::kFragmentElements;
    return reinterpret_cast<uint4*>(all) + (step * Tile::kParts + part) * 32 + lane;
  }
  __device__ float4* slopes(int layer, int nt) const {
    float* all = weights + Tile::kBuffers * Tile::kWeightElements + 2 * Tile::kFragmentElements;
    return reinterpret_cast<float4*>(all + layer * Tile::kRows * Tile::kC) + nt * Tile::kThreads + threadIdx.x;
  }
  /// Starts the copy of a [C,C] weight into buffer i, rows `stride` apart.
  __device__ __forceinline__ void fetch(int i, const float* w, int stride) const {
    constexpr int kPacks = Tile::kC / 4;
    float* to = weight(i);
#pragma unroll
    for (int j = 0; j < Tile::kC * kPacks / Tile::kThreads; ++j) {
      const int pack = static_cast<int>(threadIdx.x) + j * Tile::kThreads, row = pack / kPacks, col = pack % kPacks * 4;
      copy_async_16(to + row * stride + col, w + row * Tile::kC + col, true);
    }
    copy_async_commit();
  }
  /// This thread's share of the left side of the next product: columns 2t and 2t + 1 are its elements t and t + 4.
  __device__ __forceinline__ void put(int buffer, const MlpFewRows<Tile>& v, const MlpFewPlace<Tile>& p) const {
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      MlpLeft<Tile::kSplit> left;
      left.set(0, v[nt][0]), left.set(1, v[nt][2]), left.set(2, v[nt][1]), left.set(3, v[nt][3]);
      *fragment(buffer, p.step(nt), 0, p.lane) = {left.hi[0], left.hi[1], left.hi[2], left.hi[3]};
      if constexpr (Tile::kSplit) *fragment(buffer, p.step(nt), 1, p.lane) = {left.lo[0], left.lo[1], left.lo[2], left.lo[3]};
    }
  }
};

/// acc += left·wᵀ (kDown false: w is read along its rows), or acc += left·w. Three chains of products side by side, so that none
/// waits for the one before it.
template <class Tile, bool kDown>
__device__ __forceinline__ void few_product(MlpFewRows<Tile>& acc, const MlpFewShared<Tile>& s, int buffer, const float* w,
                                            const MlpFewPlace<Tile>& p) {
  float low[Tile::kNT][2][4] = {};
#pragma unroll
  for (int step = 0; step < Tile::kSteps; ++step) {
    MlpLeft<Tile::kSplit> left;
    const uint4 hi = *s.fragment(buffer, step, 0, p.lane);
    left.hi[0] = hi.x, left.hi[1] = hi.y, left.hi[2] = hi.z, left.hi[3] = hi.w;
    if constexpr (Tile::kSplit) {
      const uint4 lo = *s.fragment(buffer, step, 1, p.lane);
      left.lo[0] = lo.x, left.lo[1] = lo.y, left.lo[2] = lo.z, left.lo[3] = lo.w;
    }
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      const int k = 8 * step + 2 * p.t, n = 8 * p.step(nt) + p.g;
      const float2 pair =
          kDown ? float2{w[k * Tile::kStrideDown + n], w[(k + 1) * Tile::kStrideDown + n]} : load_pair(w + n * Tile::kStride + k);
      mlp_mma(acc[nt], low[nt][0], low[nt][1], left, MlpRight<Tile::kSplit>(pair.x, pair.y));
    }
  }
  if constexpr (Tile::kSplit)
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
      for (int j = 0; j < 4; ++j) acc[nt][j] += low[nt][0][j] + low[nt][1][j];
}

/// The biases at a thread's columns, read a layer ahead.
template <class Tile> struct MlpFewBias {
  float2 pairs[Tile::kNT];
  __device__ __forceinline__ void load(const float* bias, const MlpFewPlace<Tile>& p) {
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) pairs[nt] = load_pair(bias + p.column(nt));
  }
  __device__ __forceinline__ void start(MlpFewRows<Tile>& acc, const float* next, const MlpFewPlace<Tile>& p) {
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) acc[nt][0] = acc[nt][2] = pairs[nt].x, acc[nt][1] = acc[nt][3] = pairs[nt].y;
    if (next) load(next, p);
  }
};

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    residual_mlp_few_kernel(const __grid_constant__ ResidualMlpArgs<float> args) {
  after_previous();
  extern __shared__ __align__(16) unsigned char shared[];
  const MlpFewShared<Tile> s{reinterpret_cast<float*>(shared)};
  const MlpFewPlace<Tile> p(args.rows, args.mask);
  const int n = args.n_layers;
  MlpFewRows<Tile> h, added;
  const bool any = __syncthreads_or(p.live[0] || p.live[1]);
  load_added(added, args.residual, p, args.rows);
  if (!any) return store_few<Tile>(added, args.y, p, args.rows);
  const auto fetch = [&](int layer) {
    if (layer < n)
      s.fetch(layer, args.w[layer], Tile::kStride);
    else
      copy_async_commit();  // so that the number of pending groups tells which have arrived
  };
  MlpFewBias<Tile> bias;
  load_few(h, args.x, p);
  bias.load(args.bias[0], p);
  for (int layer = 0; layer < Tile::kBuffers - 1; ++layer) fetch(layer);
  s.put(0, h, p);
  for (int layer = 0; layer < n; ++layer) {
    copy_async_wait<Tile::kBuffers - 2>();
    __syncthreads();  // this weight and the left side have come; everyone is done with the ones before
    fetch(layer + Tile::kBuffers - 1);
    MlpFewRows<Tile> acc;
    const bool last = layer == n - 1, residual = layer == 0 ? args.input_residual : !last || args.output_residual;
    bias.start(acc, last ? nullptr : args.bias[layer + 1], p);
    few_product<Tile, false>(acc, s, layer % 2, s.weight(layer), p);
    if (layer < args.n_active()) {  // one branch for all, so that their special functions run side by side
#pragma unroll
      for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[nt][j] = MlpGelu<float>(acc[nt][j]).value;
    }
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
      for (int j = 0; j < 4; ++j) h[nt][j] = residual ? h[nt][j] + acc[nt][j] : acc[nt][j];
    if (!last) s.put((layer + 1) % 2, h, p);
  }
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
    for (int j = 0; j < 4; ++j) h[nt][j] = (p.live[j / 2] ? h[nt][j] : 0.0f) + added[nt][j];
  store_few<Tile>(h, args.y, p, args.rows);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    residual_mlp_few_backward_kernel(const __grid_constant__ ResidualMlpArgs<float> args) {
  after_previous();
  extern __shared__ __align__(16) unsigned char shared[];
  const MlpFewShared<Tile> s{reinterpret_cast<float*>(shared)};
  const MlpFewPlace<Tile> p(args.rows, args.mask);
  const int n = args.n_layers, n_active = args.n_active();
  const int64_t slot = args.slot_rows * Tile::kC;
  MlpFewRows<Tile> h, g, acc;
  const bool any = __syncthreads_or(p.live[0] || p.live[1]);
  if (!any) {
    load_added(h, args.residual, p, args.rows);
    return store_few<Tile>(h, args.y, p, args.rows);
  }
  // Steps below n_active run the layers with activations again; n more go back through layers n-1 to 0.
  const auto fetch = [&](int step) {
    if (step < n_active)
      s.fetch(step, args.w[step], Tile::kStride);
    else if (step < n_active + n)
      s.fetch(step, args.w[n_active + n - 1 - step], Tile::kStrideDown);
    else
      copy_async_commit();
  };
  MlpFewBias<Tile> bias;
  if (n_active > 0) load_few(h, args.x, p), bias.load(args.bias[0], p);  // a single linear layer needs no x
  load_few(g, args.gy, p);
  for (int step = 0; step < Tile::kBuffers - 1; ++step) fetch(step);
  if (n_active > 0) {
    s.put(0, h, p);
    for (int layer = 0; layer < n_active; ++layer) {
      copy_async_wait<Tile::kBuffers - 2>();
      __syncthreads();
      fetch(layer + Tile::kBuffers - 1);
      const bool residual = layer > 0 || args.input_residual;  // what the last layer makes is not read
      bias.start(acc, layer + 1 < n_active ? args.bias[layer + 1] : nullptr, p);
      few_product<Tile, false>(acc, s, layer % 2, s.weight(layer), p);
#pragma unroll
      for (int nt = 0; nt < Tile::kNT; ++nt) {
        float slopes[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const MlpGelu<float> gelu(acc[nt][j]);
          slopes[j] = gelu.slope;
          h[nt][j] = residual ? h[nt][j] + gelu.value : gelu.value;
        }
        *s.slopes(layer, nt) = {slopes[0], slopes[1], slopes[2], slopes[3]};
      }
      if (layer < n - 1) store_few<Tile>(h, args.kept + layer * slot, p, args.slot_rows);
      if (layer < n_active - 1) s.put((layer + 1) % 2, h, p);
    }
  }
  // From here on h is the cotangent of a layer's sum, and acc what reaches the layer's input past the layer.
  const auto times_slopes = [&](const MlpFewRows<Tile>& v, int layer) {
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      const float4 slope = *s.slopes(layer, nt);
      h[nt][0] = v[nt][0] * slope.x, h[nt][1] = v[nt][1] * slope.y, h[nt][2] = v[nt][2] * slope.z, h[nt][3] = v[nt][3] * slope.w;
    }
    store_few<Tile>(h, args.cotangents + layer * slot, p, args.slot_rows);
  };
  if (n_active == n) {
    times_slopes(g, n - 1);
  } else {
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
      for (int j = 0; j < 4; ++j) h[nt][j] = g[nt][j];
  }
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[nt][j] = args.output_residual ? g[nt][j] : 0.0f;
  s.put(n_active % 2, h, p);
  load_added(g, args.residual, p, args.rows);
  for (int step = n_active; step < n_active + n; ++step) {
    const int layer = n_active + n - 1 - step;
    copy_async_wait<Tile::kBuffers - 2>();
    __syncthreads();
    fetch(step + Tile::kBuffers - 1);
    few_product<Tile, true>(acc, s, step % 2, s.weight(step), p);
    if (layer == 0) break;
    times_slopes(acc, layer - 1);
    s.put((step + 1) % 2, h, p);
    if (layer == 1 && !args.input_residual) {
#pragma unroll
      for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[nt][j] = 0;
    }
  }
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt)
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[nt][j] += g[nt][j];
  store_few<Tile>(acc, args.y, p, args.rows);
}

}  // namespace flare
