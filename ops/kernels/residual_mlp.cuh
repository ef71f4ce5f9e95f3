#pragma once
/// Device code of the fused residual MLP. A block carries its rows through all layers without leaving shared memory; weights stream
/// in one layer at a time. The backward kernel runs the layers again, then walks back through them; what the weight gradients need
/// (each layer's input and the cotangent of its sum) goes out once, for a matrix product over all rows.
#include <type_traits>

#include "ops/kernels/residual_mlp.h"
#include "ops/kernels/residual_mlp_tile.cuh"

namespace flare {

/// GELU (tanh form) and its slope at one point, from one hyperbolic tangent: f32 as in ops/pointwise.h, with the fast exponential
/// and reciprocal (2 ulp each). bf16 takes the unit's tangent, 2^-11 off at most, an eighth of bf16's rounding: special functions
/// would otherwise take longer than the products.
template <class T> struct MlpGelu {
  float value, slope;
  __device__ explicit MlpGelu(float x) {
    constexpr float kA = 0.7978845608028654f, kB = 0.044715f;  // √(2/π)
    const float s = x * x;
    if constexpr (sizeof(T) == 2) {
      float t;
      asm("tanh.approx.f32 %0, %1;" : "=f"(t) : "f"(x * fmaf(kA * kB, s, kA)));
      const float half = 0.5f * x;
      value = fmaf(half, t, half);
      slope = fmaf(half * fmaf(-t, t, 1.0f), fmaf(3 * kA * kB, s, kA), fmaf(0.5f, t, 0.5f));
    } else {
      const float t = __expf(-fabsf(x * fmaf(2 * kA * kB, s, 2 * kA))), r = __fdividef(1.0f, 1.0f + t);
      const float sigmoid = (x < 0 ? t : 1.0f) * r;
      value = x * sigmoid;
      slope = fmaf(x * t * r * r, fmaf(6 * kA * kB, s, 2 * kA), sigmoid);
    }
  }
};

/// The slopes at a thread's pairs of one column tile, on their way to device memory and back to the same thread: the order there is
/// of no concern, so a warp moves whole lines.
template <class Tile> struct MlpSlopes {
  static constexpr int kWords = Tile::kMT * 4 * sizeof(typename Tile::T) / 4, kUnit = kWords < 4 ? 2 : 4;
  using Unit = std::conditional_t<kUnit == 2, uint2, uint4>;
  union {
    uint32_t words[kWords];
    Unit units[kWords / kUnit];
  };
  __device__ void set(int pair, float a, float b) {
    if constexpr (Tile::kBf16)
      words[pair] = pack_bf16(a, b);
    else
      words[2 * pair] = __float_as_uint(a), words[2 * pair + 1] = __float_as_uint(b);
  }
  __device__ float2 get(int pair) const {
    if constexpr (Tile::kBf16)
      return {bf16_low(words[pair]), bf16_high(words[pair])};
    else
      return {__uint_as_float(words[2 * pair]), __uint_as_float(words[2 * pair + 1])};
  }
  static __device__ Unit* place(typename Tile::T* tile, int nt, int unit) {
    return reinterpret_cast<Unit*>(tile) + (nt * (kWords / kUnit) + unit) * Tile::kThreads + threadIdx.x;
  }
  __device__ void store(typename Tile::T* tile, int nt) const {
#pragma unroll
    for (int u = 0; u < kWords / kUnit; ++u) *place(tile, nt, u) = units[u];
  }
  __device__ void load(typename Tile::T* tile, int nt) {
#pragma unroll
    for (int u = 0; u < kWords / kUnit; ++u) units[u] = *place(tile, nt, u);
  }
};

/// f(row, col, v0, v1, pair) for each pair of a thread's fragments in column tile nt; f may change the values.
template <class Tile, class F>
__device__ __forceinline__ void for_column(MlpFragments<Tile>& acc, const MlpPlace<Tile>& at, int nt, F f) {
#pragma unroll
  for (int mt = 0; mt < Tile::kMT; ++mt)
#pragma unroll
    for (int half = 0; half < 2; ++half)
      f(at.row(mt, half), at.col(nt), acc[mt][nt][2 * half], acc[mt][nt][2 * half + 1], mt * 2 + half);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    residual_mlp_kernel(const __grid_constant__ ResidualMlpArgs<typename Tile::T> args) {
  after_previous();
  using T = typename Tile::T;
  extern __shared__ __align__(16) unsigned char shared[];
  T *weights = reinterpret_cast<T*>(shared), *h = weights + Tile::kBuffers * Tile::kWeightElements;
  const MlpPlace<Tile> at;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Tile::kRows;
  const int n = args.n_layers;
  if (args.mask && !has_live_row<Tile>(first, args.rows, args.mask)) {
    store_rows<Tile>(nullptr, args.y, first, args.rows, nullptr, args.residual);
    return;
  }
  const auto fetch = [&](int layer) {
    if (layer < n)
      fetch_weight<Tile>(weights + layer % Tile::kBuffers * Tile::kWeightElements, args.w[layer], Tile::kStride);
    else
      copy_async_commit();  // so that the number of pending groups tells which have arrived
  };
  fetch_rows<Tile>(h, args.x, first, args.rows, args.mask);
  for (int layer = 0; layer < Tile::kFetched; ++layer) fetch(layer);
  MlpBias<Tile> bias;
  for (int layer = 0; layer < n; ++layer) {
    copy_async_wait<Tile::kFetched - 1>();
    __syncthreads();
    if (Tile::kBuffers > 1) fetch(layer + Tile::kFetched);
    MlpFragments<Tile> acc;
    bias.start(acc, args.bias, layer, n, at);
    mlp_product<Tile, false>(acc, h, weights + layer % Tile::kBuffers * Tile::kWeightElements, at);
    __syncthreads();  // everyone has read h and the weight
    if (Tile::kBuffers == 1) fetch(layer + 1);
    const bool last = layer == n - 1, residual = layer == 0 ? args.input_residual : !last || args.output_residual;
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      for_column<Tile>(acc, at, nt, [&](int row, int col, float v0, float v1, int) {
        if (layer < args.n_active()) v0 = MlpGelu<T>(v0).value, v1 = MlpGelu<T>(v1).value;
        T* mine = h + row * Tile::kStride + col;
        const float2 before = residual ? load_pair(mine) : float2{0, 0};
        store_pair(mine, before.x + v0, before.y + v1);
      });
    }
  }
  __syncthreads();
  store_rows<Tile>(h, args.y, first, args.rows, args.mask, args.residual);
}

template <class Tile>
__global__ void __launch_bounds__(Tile::kThreads, Tile::kBlocks)
    residual_mlp_backward_kernel(const __grid_constant__ ResidualMlpArgs<typename Tile::T> args) {
  after_previous();
  using T = typename Tile::T;
  extern __shared__ __align__(16) unsigned char shared[];
  T *weights = reinterpret_cast<T*>(shared), *h = weights + Tile::kBuffers * Tile::kWeightElements;
  T* slopes_kept = h + Tile::kRows * Tile::kStride;
  const MlpPlace<Tile> at;
  const int64_t first = static_cast<int64_t>(blockIdx.x) * Tile::kRows, slot = args.slot_rows * Tile::kC;
  const int n = args.n_layers, n_active = args.n_active();
  // Steps below n_active run the layers with activations again; n more go back through layers n-1 to 0.
  const auto fetch_for = [&](int step) {
    const bool again = step < n_active;
    if (step >= n_active + n) return copy_async_commit();
    fetch_weight<Tile>(weights + step % Tile::kBuffers * Tile::kWeightElements, args.w[again ? step : n_active + n - 1 - step],
                       again ? Tile::kStride : Tile::kStrideDown);
  };
  if (!has_live_row<Tile>(first, args.rows, args.mask)) {
    store_rows<Tile>(nullptr, args.y, first, args.rows, nullptr, args.residual);
    return;
  }
  // In device memory they lie where the cotangents of the layer's sum will take their place.
  const auto slopes_of = [&](int layer) {
    return Tile::kAhead ? slopes_kept + layer * Tile::kRows * Tile::kC : args.cotangents + layer * slot + first * Tile::kC;
  };
  MlpFragments<Tile> acc;
  if (n_active > 0) fetch_rows<Tile>(h, args.x, first, args.rows, args.mask);  // a single linear layer needs no x
  for (int step = 0; step < Tile::kFetched; ++step) fetch_for(step);
  MlpBias<Tile> bias;
  for (int layer = 0; layer < n_active; ++layer) {
    copy_async_wait<Tile::kFetched - 1>();
    __syncthreads();
    if (Tile::kBuffers > 1) fetch_for(layer + Tile::kFetched);
    if (layer > 0) store_rows<Tile>(h, args.kept + (layer - 1) * slot, first, args.rows);
    bias.start(acc, args.bias, layer, n, at);
    mlp_product<Tile, false>(acc, h, weights + layer % Tile::kBuffers * Tile::kWeightElements, at);
    __syncthreads();
    if (Tile::kBuffers == 1) fetch_for(layer + 1);
    const bool residual = layer > 0 || args.input_residual;  // what the last layer makes is not read
    T* slopes_at = slopes_of(layer);
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      MlpSlopes<Tile> slopes;
      for_column<Tile>(acc, at, nt, [&](int row, int col, float v0, float v1, int pair) {
        const MlpGelu<T> g0(v0), g1(v1);
        slopes.set(pair, g0.slope, g1.slope);
        T* mine = h + row * Tile::kStride + col;
        const float2 before = residual ? load_pair(mine) : float2{0, 0};
        store_pair(mine, before.x + g0.value, before.y + g1.value);
      });
      slopes.store(slopes_at, nt);
    }
  }
  __syncthreads();
  if (n_active < n && n > 1) store_rows<Tile>(h, args.kept + (n - 2) * slot, first, args.rows);
  __syncthreads();
  fetch_rows<Tile>(h, args.gy, first, args.rows, args.mask);
  copy_async_wait<0>();
  __syncthreads();
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt) {
    MlpSlopes<Tile> slopes;
    if (n_active == n) slopes.load(slopes_of(n - 1), nt);
    for_column<Tile>(acc, at, nt, [&](int row, int col, float& v0, float& v1, int pair) {
      T* mine = h + row * Tile::kStride + col;
      const float2 g = load_pair(mine);
      v0 = g.x, v1 = g.y;
      if (n_active == n) store_pair(mine, g.x * slopes.get(pair).x, g.y * slopes.get(pair).y);
    });
  }
  if (!args.output_residual) clear<Tile>(acc);
  for (int layer = n - 1; layer >= 0; --layer) {
    // Here h holds the cotangent of this layer's sum, and acc what reaches the layer's input past the layer.
    const int step = n_active + n - 1 - layer;
    copy_async_wait<Tile::kFetched - 1>();
    __syncthreads();
    if (Tile::kBuffers > 1) fetch_for(step + Tile::kFetched);
    if (layer < n_active) store_rows<Tile>(h, args.cotangents + layer * slot, first, args.rows);
    mlp_product<Tile, true>(acc, h, weights + step % Tile::kBuffers * Tile::kWeightElements, at);
    __syncthreads();
    if (Tile::kBuffers == 1) fetch_for(step + 1);
    if (layer == 0) break;
    T* slopes_at = slopes_of(layer - 1);
#pragma unroll
    for (int nt = 0; nt < Tile::kNT; ++nt) {
      MlpSlopes<Tile> slopes;
      slopes.load(slopes_at, nt);
      for_column<Tile>(acc, at, nt, [&](int row, int col, float v0, float v1, int pair) {
        const float2 slope = slopes.get(pair);
        store_pair(h + row * Tile::kStride + col, v0 * slope.x, v1 * slope.y);
      });
    }
    if (layer == 1 && !args.input_residual) clear<Tile>(acc);
  }
#pragma unroll
  for (int nt = 0; nt < Tile::kNT; ++nt)
    for_column<Tile>(acc, at, nt,
                     [&](int row, int col, float v0, float v1, int) { store_pair(h + row * Tile::kStride + col, v0, v1); });
  __syncthreads();
  store_rows<Tile>(h, args.y, first, args.rows, nullptr, args.residual);
}

}  // namespace flare
