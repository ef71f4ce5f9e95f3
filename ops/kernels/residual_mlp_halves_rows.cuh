#pragma once
/// What a warpgroup of residual_mlp_halves.cuh holds: 64 rows of C f32 channels in registers, split into two fp16 numbers for a
/// product, and the weights in shared memory that it multiplies them with.
///
/// x = (hi + lo) / s with hi = fp16(s x), lo = fp16(s x - hi) keeps 22 bits of x while |s x| >= 2^-3; below, the error is 2^-25. s
/// is a power of two that brings the largest |x| of the row (of the matrix, for a weight) to 2^14 or more, so what is lost is less
/// than 2^-39 of that. Products with a low part come first: matrix units truncate when they add.
///
/// Channels are permuted (half_channel) so that a thread's part of a row is 16 neighbouring bytes: only the prepared weights and
/// biases have to know.
#include <cuda_fp16.h>

#include "core/launch.cuh"
#include "ops/kernels/bulk_copy.cuh"
#include "ops/kernels/residual_mlp.cuh"
#include "ops/kernels/sdpa_tile.cuh"
#include "ops/kernels/wgmma.cuh"

namespace flare {

inline constexpr int kHalvesRows = 64;

/// Channel 16j + 4t + 2p + e in memory is channel 16j + 8p + 2t + e of the fragments (t < 4, the others bits).
__device__ __forceinline__ int half_channel(int c) { return (c & ~15) | ((c & 2) << 2) | ((c & 12) >> 1) | (c & 1); }

/// s and 1/s: powers of two.
struct HalfScale {
  float by, back;
};
/// For numbers of which the largest is `largest`; s is at most 2^most.
__device__ __forceinline__ HalfScale scale_for(float largest, int most) {
  const int exponent = max(static_cast<int>(__float_as_uint(largest) >> 23), 141 - most);
  return {__uint_as_float(static_cast<uint32_t>(268 - exponent) << 23),
          __uint_as_float(static_cast<uint32_t>(exponent - 14) << 23)};
}
/// The most for rows and for weights: numbers below 2^-63 and 2^-37 lose bits. Together they leave a bias room to 2^33.
inline constexpr int kMostRowScale = 60, kMostWeightScale = 34;

/// GELU (tanh form) and its slope at two points, as MlpGelu<float> but with one reciprocal for both: special functions are what is
/// scarce. Beyond exp(60 log 2) a sigmoid counts as 2^-60.
struct GeluPair {
  float value[2], slope[2];
  __device__ __forceinline__ GeluPair(float a, float b) {
    constexpr float kA = 0.7978845608028654f, kB = 0.044715f, kLog2e = 1.4426950408889634f;  // √(2/π)
    const float x[2] = {a, b};
    float square[2], e[2], sum[2], both;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      square[i] = x[i] * x[i];
      const float minus = fminf(x[i] * fmaf(-2 * kA * kB * kLog2e, square[i], -2 * kA * kLog2e), 60.0f);
      asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e[i]) : "f"(minus));
      sum[i] = 1.0f + e[i];
    }
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(both) : "f"(sum[0] * sum[1]));
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const float sigmoid = both * sum[1 - i];
      value[i] = x[i] * sigmoid;
      slope[i] = fmaf(x[i] * fmaf(6 * kA * kB, square[i], 2 * kA), e[i] * sigmoid * sigmoid, sigmoid);
    }
  }
};

__device__ __forceinline__ void split_halves(float a, float b, uint32_t& hi, uint32_t& lo) {
  const __half2 high = __floats2half2_rn(a, b);
  const float2 back = __half22float2(high);
  const __half2 low = __floats2half2_rn(a - back.x, b - back.y);
  hi = *reinterpret_cast<const uint32_t*>(&high), lo = *reinterpret_cast<const uint32_t*>(&low);
}

/// What a thread has of 64 rows: two rows, 8 apart. Numbers as results of products have them, and as left sides.
template <int C> struct MlpFloats {
  float half[C / 64][32];  // 64 columns each
  /// Element e of the pair that becomes word [k][2p + r] of the left side.
  __device__ __forceinline__ float& at(int k, int p, int r, int e) { return half[k / 4][8 * (k % 4) + 4 * p + 2 * r + e]; }
};
template <int C> struct MlpHalves { uint32_t hi[C / 16][4], lo[C / 16][4]; };
/// f(k, p, r) for each pair of a thread in columns 64*kHalf to + 63.
template <int kHalf, class F> __device__ __forceinline__ void for_half(F f) {
#pragma unroll
  for (int k = 4 * kHalf; k < 4 * kHalf + 4; ++k)
#pragma unroll
    for (int p = 0; p < 2; ++p)
#pragma unroll
      for (int r = 0; r < 2; ++r) f(k, p, r);
}
template <int C, class F> __device__ __forceinline__ void for_all(F f) {
  for_half<0>(f);
  if constexpr (C == 128) for_half<1>(f);
}

/// Splits the rows, each with a scale of its own.
template <int C> __device__ __forceinline__ void split_rows(MlpHalves<C>& to, MlpFloats<C>& from, HalfScale (&scales)[2]) {
  float largest[2] = {0, 0};
  for_all<C>(
      [&](int k, int p, int r) { largest[r] = fmaxf(largest[r], fmaxf(fabsf(from.at(k, p, r, 0)), fabsf(from.at(k, p, r, 1)))); });
#pragma unroll
  for (int r = 0; r < 2; ++r) {  // four threads share a row
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 1));
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(0xffffffffu, largest[r], 2));
    scales[r] = scale_for(largest[r], kMostRowScale);
  }
  for_all<C>([&](int k, int p, int r) {
    split_halves(from.at(k, p, r, 0) * scales[r].by, from.at(k, p, r, 1) * scales[r].by, to.hi[k][2 * p + r], to.lo[k][2 * p + r]);
  });
}

/// Where a thread's rows lie in memory: row and row + 8, and its first channel.
template <int C> struct HalvesPlace {
  int row;
  bool live[2];
  __device__ __forceinline__ HalvesPlace(int tile, int rows, const uint8_t* mask) {
    row = tile * kHalvesRows + threadIdx.x % 128 / 32 * 16 + threadIdx.x % 32 / 4;
    live[0] = is_live(row, rows, mask), live[1] = is_live(row + 8, rows, mask);
  }
  __device__ __forceinline__ int64_t at(int r) const { return int64_t{row + 8 * r} * C + threadIdx.x % 4 * 4; }
};
/// f(k, r, channels 16k.. of row r, four of them) for all of a thread's; those not `there` are 0.
template <int C, class F>
__device__ __forceinline__ void read_rows(const float* from, const HalvesPlace<C>& place, const bool (&there)[2], F f) {
#pragma unroll
  for (int k = 0; k < C / 16; ++k)
#pragma unroll
    for (int r = 0; r < 2; ++r)
      f(k, r, there[r] ? *reinterpret_cast<const float4*>(from + place.at(r) + 16 * k) : float4{0, 0, 0, 0});
}
template <int C> __device__ __forceinline__ void load_rows(MlpFloats<C>& h, const float* from, const HalvesPlace<C>& place) {
  read_rows<C>(from, place, place.live, [&](int k, int r, float4 v) {
    h.at(k, 0, r, 0) = v.x, h.at(k, 0, r, 1) = v.y, h.at(k, 1, r, 0) = v.z, h.at(k, 1, r, 1) = v.w;
  });
}
/// Adds rows of `from`, live or not.
template <int C>
__device__ __forceinline__ void add_rows(MlpFloats<C>& h, const float* from, const HalvesPlace<C>& place, int rows) {
  const bool there[2] = {place.row < rows, place.row + 8 < rows};
  read_rows<C>(from, place, there, [&](int k, int r, float4 v) {
    h.at(k, 0, r, 0) += v.x, h.at(k, 0, r, 1) += v.y, h.at(k, 1, r, 0) += v.z, h.at(k, 1, r, 1) += v.w;
  });
}
inline constexpr int kAllRows = 0x7fffffff;  // the backward pass's own arrays are whole tiles
template <int C> __device__ __forceinline__ void store_rows(MlpFloats<C>& h, float* to, const HalvesPlace<C>& place, int rows) {
#pragma unroll
  for (int k = 0; k < C / 16; ++k)
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (place.row + 8 * r < rows)
        store_words(to + place.at(r) + 16 * k, __float_as_uint(h.at(k, 0, r, 0)), __float_as_uint(h.at(k, 0, r, 1)),
                    __float_as_uint(h.at(k, 1, r, 0)), __float_as_uint(h.at(k, 1, r, 1)));
}

/// Keeps the compiler from moving what makes or uses the sums past this point: it does not know when products read and write them.
__device__ __forceinline__ void settle_sums(float (&half)[32]) {
#pragma unroll
  for (int i = 0; i < 32; ++i) asm volatile("" : "+f"(half[i])::"memory");
}
/// Starts sums = h wᵀ, or sums += h w with kBack; w: the descriptor of the weight's first panel, to which offsets are added in
/// units of 16 bytes. The halves of the columns arrive one after the other; h must stay as it is until the last has.
template <int C, bool kBack> __device__ __forceinline__ void start_product(MlpFloats<C>& sums, const MlpHalves<C>& h, uint64_t w) {
  constexpr int kRow = 64 * 2 / 16, kPanel = C * kRow, kLow = C / 64 * kPanel;
  if constexpr (kBack)
#pragma unroll
    for (int half = 0; half < C / 64; ++half) settle_sums(sums.half[half]);
  wgmma_fence();
#pragma unroll
  for (int half = 0; half < C / 64; ++half) {
#pragma unroll
    for (int part = 0; part < 3; ++part)  // low · high, high · low, high · high
#pragma unroll
      for (int k = 0; k < C / 16; ++k) {
        // Either rows of w are summed, and its columns are 64*half to + 63, or the other way round.
        const int at = kBack ? half * kPanel + 16 * k * kRow : k / 4 * kPanel + half * 64 * kRow + k % 4 * 2;
        const uint64_t right = w + (part == 1 ? kLow : 0) + at;
        if (!kBack && part == 0 && k == 0)
          wgmma_64x64<false, kBack, true>(sums.half[half], h.lo[k], right);
        else
          wgmma_64x64<true, kBack, true>(sums.half[half], part == 0 ? h.lo[k] : h.hi[k], right);
      }
    wgmma_commit();
  }
}
/// Waits for columns 64*kHalf to + 63 of the sums. With the last, the product is done with h.
template <int C, int kHalf> __device__ __forceinline__ void await_half(MlpFloats<C>& sums, MlpHalves<C>& h) {
  wgmma_wait<C / 64 - 1 - kHalf>();
  settle_sums(sums.half[kHalf]);
  if constexpr (kHalf == C / 64 - 1)
#pragma unroll
    for (int k = 0; k < C / 16; ++k)
#pragma unroll
      for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(h.hi[k][i]), "+r"(h.lo[k][i])::"memory");
}

/// Weights and biases as residual_mlp_halves_prepare_kernel leaves them in device memory.
struct PreparedMlp {
  const unsigned char* weights;  // [n][high, low][C/64] panels of C rows of 64 fp16, swizzled
  const float* biases;           // [n, C] in the fragments' order
  const HalfScale* scales;       // [n] of the weights
};
template <int C> inline constexpr int kHalvesLayerBytes = 4 * C* C;
/// Weights that fit beside each other: with 64 channels all, with 128 three.
template <int C> inline constexpr int kHalvesSlots = C == 64 ? kMaxMlpLayers : 3;
template <int C> inline int64_t halves_shared_bytes(int n_layers) {
  const int64_t slots = n_layers < kHalvesSlots<C> ? n_layers : kHalvesSlots<C>;
  return slots * (kHalvesLayerBytes<C> + 16) + n_layers * int64_t{C * 4 + static_cast<int>(sizeof(HalfScale))};
}

/// A block's weights on their way, and the tiles that its warpgroups take. Either all weights stay, and every warpgroup goes its
/// own way; or they come by turns, two layers ahead, and the block's warpgroups take neighbouring tiles and are less than a layer
/// apart, so that the products of one run while another computes activations.
template <int C, int kGroups> struct HalvesWork {
  static constexpr int kThreads = 128 * kGroups, kSlots = kHalvesSlots<C>;
  const PreparedMlp& prepared;
  unsigned char* slots;
  float* biases;
  HalfScale* scales;
  uint64_t *come, *done;   // barriers of the slots: the weight is there; all warps are done with it
  int n_steps, n_forward;  // of a tile: layers forward, then back
  int n_tiles, rows, group = threadIdx.x / 128;
  int turn = 0;  // of the weights that come by turns
  bool stays;

  /// forward, back: layers that a tile goes through, forward from the first, back from the last.
  __device__ __forceinline__ HalvesWork(const PreparedMlp& p, const ResidualMlpArgs<float>& args, int forward, int back)
      : prepared(p), n_steps(forward + back), n_forward(forward) {
    const int n = args.n_layers;
    rows = static_cast<int>(args.rows), n_tiles = (rows + kHalvesRows - 1) / kHalvesRows, stays = n <= kSlots;
    const int n_slots = stays ? n : kSlots;
    slots = dynamic_shared();
    come = reinterpret_cast<uint64_t*>(slots + n_slots * kHalvesLayerBytes<C>), done = come + n_slots;
    scales = reinterpret_cast<HalfScale*>(done + n_slots);
    biases = reinterpret_cast<float*>(scales + n);
    if (threadIdx.x == 0) {
      for (int i = 0; i < n_slots; ++i) make_barrier(come + i, 1), make_barrier(done + i, 4 * kGroups);
      finish_barriers();
      for (int i = 0; i < (stays ? n : 2); ++i) fetch(i, stays ? i : layer_of(i));
    }
    for (int i = threadIdx.x; i < n * C; i += kThreads) biases[i] = prepared.biases[i];
    if (threadIdx.x < n) scales[threadIdx.x] = prepared.scales[threadIdx.x];
    __syncthreads();
  }
  __device__ __forceinline__ int layer_of(int step) const { return step < n_forward ? step : n_steps - 1 - step; }
  __device__ __forceinline__ void fetch(int slot, int layer) {
    start_bulk_copy(slots + slot * kHalvesLayerBytes<C>, prepared.weights + int64_t{layer} * kHalvesLayerBytes<C>,
                    kHalvesLayerBytes<C>, come + slot);
  }
  /// The weight of a tile's step, when it has come. Every thread calls it for every step in turn.
  __device__ __forceinline__ uint64_t weight(int step) {
    int slot = layer_of(step), phase = 0;
    if (!stays) {
      if (threadIdx.x == 0) {
        const int ahead = turn + 2;
        if (ahead >= kSlots) await_phase(done + ahead % kSlots, ahead / kSlots - 1);
        fetch(ahead % kSlots, layer_of((step + 2) % n_steps));
      }
      __syncwarp();
      slot = turn % kSlots, phase = turn / kSlots;
      ++turn;
    }
    await_phase(come + slot, phase);
    return matrix_descriptor(slots) + static_cast<uint32_t>(slot) * (kHalvesLayerBytes<C> / 16);
  }
  /// The product with the last weight() has come.
  __device__ __forceinline__ void release() {
    if (!stays && threadIdx.x % 32 == 0) arrive(done + (turn - 1) % kSlots);
  }
  __device__ __forceinline__ bool any_live(int tile, int count, const uint8_t* mask) const {
    bool live = false;
    for (int r = threadIdx.x % 32; r < count * kHalvesRows; r += 32) live |= is_live(tile * kHalvesRows + r, rows, mask);
    return __any_sync(0xffffffffu, live);
  }
  /// f(tile) for this warpgroup's tiles, or dead(tile) for those of padding alone.
  template <class F, class Dead> __device__ __forceinline__ void for_tiles(const uint8_t* mask, F f, Dead dead) {
    for (int i = 0;; ++i) {
      const int first = stays ? blockIdx.x + (i * kGroups + group) * gridDim.x : (blockIdx.x + i * gridDim.x) * kGroups;
      if (first >= n_tiles) break;
      const int tile = stays ? first : first + group;
      if (!mask || any_live(first, stays ? 1 : kGroups, mask))
        f(tile);
      else
        dead(tile);
    }
    // No copy may be under way when the block ends.
    if (stays)
      for (int i = 0; i < n_steps - n_forward || i < n_forward; ++i) await_phase(come + i, 0);
    else
      for (int i = turn; i < turn + 2; ++i) await_phase(come + i % kSlots, i / kSlots);
  }
};

}  // namespace flare
