#pragma once
/// The fused residual MLP in f32 on the warpgroup units of sm_90a, which multiply no f32 numbers: each operand is two fp16 numbers,
/// each product three. A warpgroup carries 64 rows at a time through all layers in registers.
#include "ops/kernels/residual_mlp_halves_rows.cuh"

namespace flare {

/// Splits all weights and permutes their channels. Grid (layers, parts of a layer).
template <int C>
__global__ void __launch_bounds__(1024)
    residual_mlp_halves_prepare_kernel(const __grid_constant__ ResidualMlpArgs<float> args, unsigned char* weights, float* biases,
                                       HalfScale* scales) {
  after_previous();
  constexpr int kPacks = C * C / 4 / 1024;  // of four channels, for each thread
  __shared__ uint32_t largest_of[32];
  const int layer = blockIdx.x, thread = threadIdx.x;
  float4 v[kPacks];
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    v[i] = reinterpret_cast<const float4*>(args.w[layer])[i * 1024 + thread];
    largest = max(largest, __float_as_uint(fmaxf(fmaxf(fabsf(v[i].x), fabsf(v[i].y)), fmaxf(fabsf(v[i].z), fabsf(v[i].w)))));
  }
#pragma unroll
  for (int step = 16; step > 0; step /= 2) largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, step));
  if (thread % 32 == 0) largest_of[thread / 32] = largest;
  __syncthreads();
  largest = 0;
#pragma unroll
  for (int i = 0; i < 32; ++i) largest = max(largest, largest_of[i]);
  const HalfScale scale = scale_for(__uint_as_float(largest), kMostWeightScale);
  __half* image = reinterpret_cast<__half*>(weights + int64_t{layer} * kHalvesLayerBytes<C>);
#pragma unroll
  for (int i = 0; i < kPacks; ++i) {
    if (i % gridDim.y != blockIdx.y) continue;
    const int at = (i * 1024 + thread) * 4, row = half_channel(at / C), column = half_channel(at % C);
    const float values[4] = {v[i].x, v[i].y, v[i].z, v[i].w};
#pragma unroll
    for (int p = 0; p < 2; ++p) {  // a pair goes 8 columns behind the other
      const int c = column + 8 * p;
      uint32_t hi, lo;
      split_halves(values[2 * p] * scale.by, values[2 * p + 1] * scale.by, hi, lo);
      __half* to = image + c / 64 * (C * 64) + tile_offset<64>(row, c % 64 / 8) + c % 8;
      *reinterpret_cast<uint32_t*>(to) = hi;
      *reinterpret_cast<uint32_t*>(to + C * C) = lo;
    }
  }
  if (blockIdx.y > 0) return;
  if (thread < C) biases[layer * C + half_channel(thread)] = args.bias[layer][thread];
  if (thread == 0) scales[layer] = scale;
}

/// One step of a tile: what it multiplies with, and the factors between numbers and scaled sums.
template <int C> struct HalvesStep {
  uint64_t w;
  float by[2], back[2];  // of the two rows
  template <int kGroups>
  __device__ __forceinline__ HalvesStep(HalvesWork<C, kGroups>& work, int step, const HalfScale (&rows)[2]) : w(work.weight(step)) {
    const HalfScale s = work.scales[work.layer_of(step)];
#pragma unroll
    for (int r = 0; r < 2; ++r) by[r] = rows[r].by * s.by, back[r] = rows[r].back * s.back;
  }
};
/// Asks for the rows of a tile, a line of 128 bytes a thread at a time.
template <int C> __device__ __forceinline__ void prefetch_tile(const float* from, int tile, int rows) {
  const int first = tile * kHalvesRows, lines = min(kHalvesRows, rows - first) * (C / 32);
  for (int i = threadIdx.x % 128; i < lines; i += 128) prefetch(from + int64_t{first} * C + i * 32);
}
template <int C> __device__ __forceinline__ void clear(MlpFloats<C>& h) {
  for_all<C>([&](int k, int p, int r) { h.at(k, p, r, 0) = h.at(k, p, r, 1) = 0; });
}
/// One layer of h, whose split parts go to `halves`: take(k, p, r, a, b) for each pair of its sums with the bias.
template <int C, int kGroups, class F>
__device__ __forceinline__ void layer_forward(HalvesWork<C, kGroups>& work, int layer, MlpFloats<C>& h, bool keeps,
                                              MlpFloats<C>& sums, MlpHalves<C>& halves, F take) {
  HalfScale scales[2];
  split_rows<C>(halves, h, scales);
  if (!keeps) clear<C>(h);
  const HalvesStep<C> step(work, layer, scales);
  start_product<C, false>(sums, halves, step.w);
  const float* bias = work.biases + layer * C + threadIdx.x % 4 * 2;
  const auto pair = [&](int k, int p, int r) {
    const float2 b = load_pair(bias + 16 * k + 8 * p);
    take(k, p, r, fmaf(sums.at(k, p, r, 0), step.back[r], b.x), fmaf(sums.at(k, p, r, 1), step.back[r], b.y));
  };
  await_half<C, 0>(sums, halves);
  if constexpr (C == 64) work.release();
  for_half<0>(pair);
  if constexpr (C == 128) {
    await_half<C, 1>(sums, halves);
    work.release();
    for_half<1>(pair);
  }
}
template <int C> __device__ __forceinline__ void clear_dead(MlpFloats<C>& h, const HalvesPlace<C>& place) {
  for_all<C>([&](int k, int p, int r) {
#pragma unroll
    for (int e = 0; e < 2; ++e) h.at(k, p, r, e) = place.live[r] ? h.at(k, p, r, e) : 0;
  });
}
/// Zeros plus `residual` unless null.
template <int C> __device__ __forceinline__ void store_dead(float* to, const float* residual, int tile, int rows) {
  const HalvesPlace<C> place(tile, rows, nullptr);
  MlpFloats<C> h;
  clear<C>(h);
  if (residual) add_rows<C>(h, residual, place, rows);
  store_rows<C>(h, to, place, rows);
}

/// Persistent blocks, one for each multiprocessor.
template <int C, int kGroups>
__global__ void __launch_bounds__(128 * kGroups, 1)
    residual_mlp_halves_kernel(const __grid_constant__ ResidualMlpArgs<float> args, const __grid_constant__ PreparedMlp prepared) {
  after_previous();
#if FLARE_HAS_WGMMA
  HalvesWork<C, kGroups> work(prepared, args, args.n_layers, 0);
  const auto run = [&](int tile) {
    const HalvesPlace<C> place(tile, work.rows, args.mask);
    MlpFloats<C> h, sums;
    MlpHalves<C> halves;
    load_rows<C>(h, args.x, place);
    for (int layer = 0; layer < args.n_layers; ++layer) {
      const bool keeps = layer == 0 ? args.input_residual : layer < args.n_layers - 1 || args.output_residual;
      if (layer < args.n_active())
        layer_forward<C>(work, layer, h, keeps, sums, halves, [&](int k, int p, int r, float a, float b) {
          const GeluPair g(a, b);
          h.at(k, p, r, 0) += g.value[0], h.at(k, p, r, 1) += g.value[1];
        });
      else
        layer_forward<C>(work, layer, h, keeps, sums, halves,
                         [&](int k, int p, int r, float a, float b) { h.at(k, p, r, 0) += a, h.at(k, p, r, 1) += b; });
    }
    clear_dead<C>(h, place);
    if (args.residual) add_rows<C>(h, args.residual, place, work.rows);
    store_rows<C>(h, args.y, place, work.rows);
  };
  work.for_tiles(args.mask, run, [&](int tile) { store_dead<C>(args.y, args.residual, tile, work.rows); });
#endif
}

/// Slopes of the activations wait where the cotangents of the layer's sum will take their place, written and read by the same
/// thread.
template <int C, int kGroups>
__global__ void __launch_bounds__(128 * kGroups, 1)
    residual_mlp_halves_backward_kernel(const __grid_constant__ ResidualMlpArgs<float> args,
                                        const __grid_constant__ PreparedMlp prepared) {
  after_previous();
#if FLARE_HAS_WGMMA
  const int n = args.n_layers, n_active = args.n_active();
  const int64_t slot = args.slot_rows * C;
  HalvesWork<C, kGroups> work(prepared, args, n_active, n);
  const auto run = [&](int tile) {
    const HalvesPlace<C> place(tile, work.rows, args.mask);
    const bool all[2] = {true, true};
    MlpFloats<C> h, sums;
    MlpHalves<C> halves;
    if (n_active > 0) load_rows<C>(h, args.x, place);  // a single linear layer needs no x
    prefetch_tile<C>(args.gy, tile, work.rows);
    for (int layer = 0; layer < n_active; ++layer) {
      const bool keeps = layer > 0 || args.input_residual;  // what the last layer makes is not read
      layer_forward<C>(work, layer, h, keeps, sums, halves, [&](int k, int p, int r, float a, float b) {
        const GeluPair g(a, b);
        h.at(k, p, r, 0) += g.value[0], h.at(k, p, r, 1) += g.value[1];
        sums.at(k, p, r, 0) = g.slope[0], sums.at(k, p, r, 1) = g.slope[1];
      });
      store_rows<C>(sums, args.cotangents + layer * slot, place, kAllRows);
      if (layer < n - 1) store_rows<C>(h, args.kept + layer * slot, place, kAllRows);
    }
    // From here on h is the cotangent of a layer's sum, and sums what reaches the layer's input past the layer.
    load_rows<C>(h, args.gy, place);
    if (args.output_residual)
      sums = h;
    else
      clear<C>(sums);
    const auto load_slopes = [&](int layer, MlpFloats<C>& to) {
      read_rows<C>(args.cotangents + layer * slot, place, all, [&](int k, int r, float4 v) {
        to.at(k, 0, r, 0) = v.x, to.at(k, 0, r, 1) = v.y, to.at(k, 1, r, 0) = v.z, to.at(k, 1, r, 1) = v.w;
      });
    };
    if (n_active == n) {
      read_rows<C>(args.cotangents + (n - 1) * slot, place, all, [&](int k, int r, float4 v) {
        h.at(k, 0, r, 0) *= v.x, h.at(k, 0, r, 1) *= v.y, h.at(k, 1, r, 0) *= v.z, h.at(k, 1, r, 1) *= v.w;
      });
      store_rows<C>(h, args.cotangents + (n - 1) * slot, place, kAllRows);
    }
    for (int layer = n - 1; layer >= 0; --layer) {
      HalfScale scales[2];
      split_rows<C>(halves, h, scales);
      constexpr bool kEarly = C == 64;  // they come while the product runs; with 128 channels registers would not do
      if (kEarly && layer > 0) load_slopes(layer - 1, h);
      const HalvesStep<C> step(work, n_active + n - 1 - layer, scales);
      for_all<C>([&](int k, int p, int r) { sums.at(k, p, r, 0) *= step.by[r], sums.at(k, p, r, 1) *= step.by[r]; });
      start_product<C, true>(sums, halves, step.w);
      await_half<C, 0>(sums, halves);
      if constexpr (C == 128) await_half<C, 1>(sums, halves);
      work.release();
      for_all<C>([&](int k, int p, int r) { sums.at(k, p, r, 0) *= step.back[r], sums.at(k, p, r, 1) *= step.back[r]; });
      if (layer == 0) break;
      if (!kEarly) load_slopes(layer - 1, h);
      for_all<C>([&](int k, int p, int r) { h.at(k, p, r, 0) *= sums.at(k, p, r, 0), h.at(k, p, r, 1) *= sums.at(k, p, r, 1); });
      store_rows<C>(h, args.cotangents + (layer - 1) * slot, place, kAllRows);
      if (layer == 1 && !args.input_residual) clear<C>(sums);
    }
    if (args.residual) add_rows<C>(sums, args.residual, place, work.rows);
    store_rows<C>(sums, args.y, place, work.rows);
  };
  work.for_tiles(args.mask, run, [&](int tile) { store_dead<C>(args.y, args.residual, tile, work.rows); });
#endif
}

}  // namespace flare
