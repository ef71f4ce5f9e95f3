#pragma once
/// The fused residual MLP of 128 bf16 channels on the warpgroup units of sm_90a. A block keeps the weights of all layers in shared
/// memory, and each of its warpgroups carries 64 rows at a time through all layers in registers: the result of one product,
/// activated and rounded, is the left side of the next. Nothing waits for anybody after the weights have come; while one warpgroup
/// computes activations, the products of the others run.
#include "ops/kernels/residual_mlp_rows.cuh"

namespace flare {

/// Persistent blocks, one for each multiprocessor.
__global__ void __launch_bounds__(128 * kMlpForwardGroups, 1)
    residual_mlp_wgmma_kernel(const __grid_constant__ ResidualMlpArgs<bf16> args) {
  after_previous();
#if FLARE_HAS_WGMMA
  MlpWork<kMlpForwardGroups> work(args);
  work.for_live<true>([&](int tile, int next) {
    const MlpRowPlace place(tile, work.rows, args.mask);
    MlpRows h;
    MlpSums sums;
    load_rows(h, args.x, place, work.rows);
    if (args.residual) prefetch_rows(args.residual, tile, work.rows);
    prefetch_rows(args.x, next, work.rows);
    for (int layer = 0; layer < args.n_layers; ++layer) {
      start_with_bias(sums, work.biases + layer * kMlpChannels);
      start_product<false>(sums, h, work.weight(layer));
      const bool linear = layer >= args.n_active();
      const bool keeps = layer == 0 ? args.input_residual : layer < args.n_layers - 1 || args.output_residual;
      const auto activate = [&](int k, int p, int r, float& a, float& b) {
        const uint32_t before = keeps ? h.word(k, p, r) : 0;
        a = MlpGelu<bf16>(a).value + bf16_low(before), b = MlpGelu<bf16>(b).value + bf16_high(before);
      };
      const auto add = [&](int k, int p, int r, float& a, float& b) {
        const uint32_t before = keeps ? h.word(k, p, r) : 0;
        a += bf16_low(before), b += bf16_high(before);
      };
      await_half<0>(sums, h);
      if (linear)
        for_pairs<0>(sums, add);
      else
        for_pairs<0>(sums, activate);
      await_half<1>(sums, h);
      if (linear)
        for_pairs<1>(sums, add);
      else
        for_pairs<1>(sums, activate);
      const auto pack = [&](int k, int p, int r, float a, float b) { h.word(k, p, r) = pack_bf16(a, b); };
      for_pairs<0>(sums, pack);
      for_pairs<1>(sums, pack);
    }
    clear_dead(h, place);
    if (args.residual) {
      MlpRows other;
      load_all_rows(other, args.residual, place, work.rows);
#pragma unroll
      for (int k = 0; k < 8; ++k)
#pragma unroll
        for (int i = 0; i < 4; ++i)
          h.h[k][i] = pack_bf16(bf16_low(h.h[k][i]) + bf16_low(other.h[k][i]), bf16_high(h.h[k][i]) + bf16_high(other.h[k][i]));
    }
    store_rows(h, args.y, place, work.rows);
  });
  work.fill_dead(args.y, args.residual);
#endif
}

/// Where the slopes of one tile's activations wait for the way back: those of the first layers in shared memory, the others where
/// the cotangents of the layer's sum will take their place, written and read by the same thread.
template <int kGroups> struct MlpSlopePlace {
  unsigned char* shared;
  int shared_layers;
  bf16* cotangents;
  int64_t slot;
  /// Words of products 2j and 2j + 1.
  template <int j> __device__ __forceinline__ void store(MlpRows& s, int layer, const MlpRowPlace& place) const {
    if (layer >= shared_layers) return store_group<j>(s, cotangents + layer * slot, place, kNoLimit);
    uint4* to = unit(layer);
#pragma unroll
    for (int k = 2 * j; k < 2 * j + 2; ++k) to[128 * k] = {s.h[k][0], s.h[k][1], s.h[k][2], s.h[k][3]};
  }
  template <int j> __device__ __forceinline__ void load(MlpRows& s, int layer, const MlpRowPlace& place) const {
    if (layer >= shared_layers) return load_group<j>(s, cotangents + layer * slot, place, kNoLimit);
    const uint4* from = unit(layer);
#pragma unroll
    for (int k = 2 * j; k < 2 * j + 2; ++k) {
      const uint4 v = from[128 * k];
      s.h[k][0] = v.x, s.h[k][1] = v.y, s.h[k][2] = v.z, s.h[k][3] = v.w;
    }
  }
  __device__ __forceinline__ void load_all(MlpRows& s, int layer, const MlpRowPlace& place) const {
    load<0>(s, layer, place), load<1>(s, layer, place), load<2>(s, layer, place), load<3>(s, layer, place);
  }

 private:
  __device__ __forceinline__ uint4* unit(int layer) const {  // of 16 bytes; a thread's next is 128 further
    return reinterpret_cast<uint4*>(shared + (layer * kGroups + threadIdx.x / 128) * kMlpSlopeBytes) + threadIdx.x % 128;
  }
};

/// Persistent blocks as above. Three warpgroups hide each other's waiting best where a block has few tiles. Two have the registers
/// to keep one layer's slopes and to ask for things early, and shared memory for two more layers' slopes: with many tiles, when
/// memory is what it takes, that is faster.
template <int kGroups>
__global__ void __launch_bounds__(128 * kGroups, 1)
    residual_mlp_backward_wgmma_kernel(const __grid_constant__ ResidualMlpArgs<bf16> args, int shared_slopes) {
  after_previous();
#if FLARE_HAS_WGMMA
  constexpr bool kRoom = kGroups < 3;
  MlpWork<kGroups> work(args);
  const int n = args.n_layers, n_active = args.n_active();
  const int64_t slot = args.slot_rows * kMlpChannels;
  const MlpSlopePlace<kGroups> slope_place{work.rest, shared_slopes, args.cotangents, slot};
  work.template for_live<kRoom>([&](int tile, int next) {
    const MlpRowPlace place(tile, work.rows, args.mask);
    MlpRows h, last_slopes;
    MlpSums sums;
    load_rows(h, args.x, place, work.rows);
    const auto forward = [&](int layer, MlpRows& slopes, auto store) {
      start_with_bias(sums, work.biases + layer * kMlpChannels);
      start_product<false>(sums, h, work.weight(layer));
      const bool keeps = layer > 0 || args.input_residual;
      await_both(sums, h);
      for_groups(
          sums, [](auto) {},
          [&](int k, int p, int r, float a, float b) {
            uint32_t& word = h.word(k, p, r);
            const uint32_t before = keeps ? word : 0;
            const MlpGelu<bf16> ga(a), gb(b);
            slopes.word(k, p, r) = pack_bf16(ga.slope, gb.slope);
            word = pack_bf16(ga.value + bf16_low(before), gb.value + bf16_high(before));
          },
          [&](auto j) {
            store(slopes, j);
            if (layer < n - 1) store_group<j.value>(h, args.kept + layer * slot, place, kNoLimit);
          });
    };
    for (int layer = 0; layer < n_active - kRoom; ++layer) {
      MlpRows slopes;
      forward(layer, slopes, [&](MlpRows& s, auto j) { slope_place.template store<j.value>(s, layer, place); });
    }
    if (kRoom && n_active > 0) {
      prefetch_rows(args.gy, tile, work.rows);
      forward(n_active - 1, last_slopes, [](MlpRows&, auto) {});
    }
    // From here on h is the cotangent of a layer's sum, and sums what reaches the layer's input past the layer.
    load_rows(h, args.gy, place, work.rows);
    for_pairs(sums, [&](int k, int p, int r, float& a, float& b) {
      const uint32_t g = args.output_residual ? h.word(k, p, r) : 0;
      a = bf16_low(g), b = bf16_high(g);
    });
    const bool kept_last = kRoom && n_active < n && n > 1;  // the last slopes are those of layer n - 2, which the loop wants first
    if (n_active == n)
      for_groups(
          sums,
          [&](auto j) {
            if (!kRoom) slope_place.template load<j.value>(last_slopes, n - 1, place);
          },
          [&](int k, int p, int r, float, float) {
            const uint32_t s = last_slopes.word(k, p, r);
            uint32_t& g = h.word(k, p, r);
            g = pack_bf16(bf16_low(g) * bf16_low(s), bf16_high(g) * bf16_high(s));
          },
          [&](auto j) { store_group<j.value>(h, args.cotangents + (n - 1) * slot, place, kNoLimit); });
    const auto back = [&](int layer, MlpRows& slopes, auto load) {
      start_product<true>(sums, h, work.weight(layer));
      if (kRoom) load();
      await_both(sums, h);
      if (!kRoom) load();
      for_pairs(sums, [&](int k, int p, int r, float a, float b) {
        const uint32_t s = slopes.word(k, p, r);
        h.word(k, p, r) = pack_bf16(a * bf16_low(s), b * bf16_high(s));
      });
      store_rows(h, args.cotangents + (layer - 1) * slot, place, kNoLimit);
      if (layer == 1 && !args.input_residual) for_pairs(sums, [](int, int, int, float& a, float& b) { a = b = 0; });
    };
    if (kept_last) back(n - 1, last_slopes, [] {});
    for (int layer = n - 1 - kept_last; layer > 0; --layer) {
      MlpRows slopes;
      back(layer, slopes, [&] { slope_place.load_all(slopes, layer - 1, place); });
    }
    if (kRoom) prefetch_rows(args.x, next, work.rows);
    start_product<true>(sums, h, work.weight(0));
    await_both(sums, h);
    MlpRows other;
    if (args.residual) load_all_rows(other, args.residual, place, work.rows);
    for_pairs(sums, [&](int k, int p, int r, float a, float b) {
      const uint32_t added = args.residual ? other.word(k, p, r) : 0;
      h.word(k, p, r) = pack_bf16(a + bf16_low(added), b + bf16_high(added));
    });
    store_rows(h, args.y, place, work.rows);
  });
  work.fill_dead(args.y, args.residual);
#endif
}

}  // namespace flare
