/// The fused residual MLP on the CPU: a tile of rows goes through all layers while it is in the first caches, in place of one pass
/// over all rows per product, bias, activation and sum. The backward pass runs the layers of a tile again, then walks back; weight
/// gradients are summed over fixed runs of tiles and the runs then added in order, so that bits do not depend on the threads.
#include "ops/kernels/residual_mlp_cpu.h"

#include <algorithm>

#include "core/allocator.h"
#include "core/parallel.h"
#include "ops/kernels/simd.h"

namespace flare {
namespace {

using V = simd::Vec<float>;
constexpr int64_t kLanes = simd::kLanes<float>, kPanel = simd::kBlock<float>;  // columns that a product makes at once
constexpr int64_t kRows = 48;                                                  // of a tile
// Rows of a product, and of a weight gradient, at once: two sums each, 2 vectors of the right side and a number of the left fill 16
// registers, or 32 where there is AVX-512.
constexpr int kMicro = kLanes == 16 ? 12 : 6, kMicroDw = kLanes == 16 ? 8 : 4;
/// Tiles of a run, whose weight gradients are summed before they are added to those of other runs: at least 3, at most 64 runs.
int64_t tiles_of_run(int64_t n_tiles) { return std::max<int64_t>(3, (n_tiles + 63) / 64); }

/// GELU (tanh form) and its slope in each lane: as Gelu in ops/pointwise.h.
struct GeluLanes {
  V value, slope;
  explicit GeluLanes(V x) {
    constexpr float kA = 0.7978845608028654f, kB = 0.044715f;  // √(2/π)
    constexpr float kLog2e = 1.4426950408889634f;
    const V s = x * x, u = x * (2 * kA * kLog2e + 2 * kA * kB * kLog2e * s), below = u < 0 ? u : -u;
    const V e = simd::vexp2(below < -126 ? V{} - 126 : below), r = 1.0f / (1.0f + e), sigmoid = x < 0 ? e * r : r;
    value = x * sigmoid;
    slope = sigmoid + x * e * r * r * (2 * kA + 6 * kA * kB * s);
  }
};

/// sums[r] += Σ_k a[r·a_row + k·a_k] · b[k·b_k … + kPanel)
template <int kM>
inline void multiply(V (&sums)[kM][2], const float* a, int64_t a_row, int64_t a_k, const float* b, int64_t b_k, int64_t n) {
  for (int64_t k = 0; k < n; ++k, a += a_k, b += b_k) {
    const V b0 = simd::load(b), b1 = simd::load(b + kLanes);
#pragma GCC unroll 16
    for (int r = 0; r < kM; ++r) {
      const float x = a[r * a_row];
      sums[r][0] += x * b0, sums[r][1] += x * b1;
    }
  }
}

/// A weight [C,C] as [C / kPanel][k][kPanel]: for h·wᵀ (k runs over its columns), or for g·w (over its rows).
void pack(const float* w, int64_t c, bool back, float* to) {
  for (int64_t p = 0; p < c; p += kPanel)
    for (int64_t k = 0; k < c; ++k)
      for (int64_t i = 0; i < kPanel; ++i) *to++ = back ? w[k * c + p + i] : w[(p + i) * c + k];
}

/// The layers as the tiles use them.
class Mlp {
 public:
  Mlp(const ResidualMlpArgs<float>& args, bool back)
      : a(args), c(args.channels), n(args.n_layers), panels_((back ? 2 : 1) * n * c * c) {
    parallel_for((back ? 2 : 1) * n, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) pack(args.w[i % n], c, i >= n, panels_.data() + i * c * c);
    });
  }
  bool is_active(int layer) const { return layer < a.n_active(); }
  bool has_residual(int layer) const { return layer == 0 ? a.input_residual : layer + 1 < n || a.output_residual; }

  /// f(row, column, sums) for blocks of h wᵀ + bias.
  template <class F> void forward(const float* h, int layer, F f) const {
    product(h, panels_.data() + layer * c * c, f, [&](int64_t, int64_t col, V(&sums)[kMicro][2]) {
      for (auto& row : sums)
        for (int half = 0; half < 2; ++half) std::memcpy(&row[half], a.bias[layer] + col + half * kLanes, sizeof(V));
    });
  }
  /// f(row, column, sums) for blocks of g w + past, or of g w.
  template <class F> void back(const float* g, const float* past, int layer, F f) const {
    product(g, panels_.data() + (n + layer) * c * c, f, [&](int64_t row, int64_t col, V(&sums)[kMicro][2]) {
      for (int r = 0; r < kMicro; ++r)
        for (int half = 0; half < 2; ++half) sums[r][half] = past ? simd::at(past + (row + r) * c + col + half * kLanes) : V{};
    });
  }

  const ResidualMlpArgs<float>& a;
  const int64_t c;
  const int n;

 private:
  template <class F, class Start> void product(const float* left, const float* panels, F f, Start start) const {
    for (int64_t col = 0; col < c; col += kPanel, panels += c * kPanel)
      for (int64_t row = 0; row < kRows; row += kMicro) {
        V sums[kMicro][2];
        start(row, col, sums);
        multiply<kMicro>(sums, left + row * c, c, 1, panels, kPanel, c);
        f(row, col, sums);
      }
  }

  HostScratch<float> panels_;
};

/// kRows rows of an array from `first` on, with zeros in place of those that are not there or not real. Whether any is.
bool load_tile(const float* from, const Mlp& mlp, int64_t first, float* to) {
  bool any = false;
  for (int64_t r = 0; r < kRows; ++r) {
    const int64_t row = first + r;
    const bool live = row < mlp.a.rows && (!mlp.a.mask || mlp.a.mask[row]);
    any |= live;
    if (live)
      std::copy_n(from + row * mlp.c, mlp.c, to + r * mlp.c);
    else
      std::fill_n(to + r * mlp.c, mlp.c, 0.0f);
  }
  return any;
}
/// The inverse: what is not real becomes 0, and args.residual is added. tile null: all zeros.
void store_tile(const float* tile, const Mlp& mlp, int64_t first) {
  const int64_t c = mlp.c;
  for (int64_t r = 0; r < kRows && first + r < mlp.a.rows; ++r) {
    const int64_t row = first + r;
    const bool live = tile && (!mlp.a.mask || mlp.a.mask[row]);
    const float *from = tile + r * c, *added = mlp.a.residual ? mlp.a.residual + row * c : nullptr;
    float* to = mlp.a.y + row * c;
    for (int64_t i = 0; i < c; ++i) to[i] = (live ? from[i] : 0.0f) + (added ? added[i] : 0.0f);
  }
}

/// One layer of a tile: `next` (unless null) gets what it makes, `slopes` (unless null) those of its activation.
void run_layer(const Mlp& mlp, int layer, const float* h, float* next, float* slopes) {
  const int64_t c = mlp.c;
  const bool active = mlp.is_active(layer), residual = mlp.has_residual(layer);
  mlp.forward(h, layer, [&](int64_t row, int64_t col, const V(&sums)[kMicro][2]) {
    for (int r = 0; r < kMicro; ++r)
      for (int half = 0; half < 2; ++half) {
        const int64_t at = (row + r) * c + col + half * kLanes;
        V v = sums[r][half];
        if (active) {
          const GeluLanes g(v);
          v = g.value;
          if (slopes) simd::at(slopes + at) = g.slope;
        }
        if (next) simd::at(next + at) = residual ? v + simd::at(h + at) : v;
      }
  });
}

/// dw += gᵀ h and db += gᵀ 1 over the rows of a tile.
void add_weight_gradients(const float* g, const float* h, int64_t c, float* dw, float* db) {
  for (int64_t out = 0; out < c; out += kMicroDw)
    for (int64_t in = 0; in < c; in += kPanel) {
      V sums[kMicroDw][2] = {};
      multiply<kMicroDw>(sums, g + out, 1, c, h + in, c, kRows);
      for (int r = 0; r < kMicroDw; ++r)
        for (int half = 0; half < 2; ++half) simd::at(dw + (out + r) * c + in + half * kLanes) += sums[r][half];
    }
  for (int64_t i = 0; i < c; i += kLanes) {
    V sum{};
    for (int64_t r = 0; r < kRows; ++r) sum += simd::at(g + r * c + i);
    simd::at(db + i) += sum;
  }
}

/// Back through all layers of a tile whose inputs hs[l] and slopes[l] are there; g: the cotangent of y, at the end that of x.
void run_back(const Mlp& mlp, const float* hs, const float* slopes, float*& g, float*& other, float* da, float* dw, float* db) {
  const int64_t c = mlp.c, size = kRows * c;
  for (int layer = mlp.n - 1; layer >= 0; --layer) {
    const float* cotangent = g;  // of the layer's sum
    if (mlp.is_active(layer)) {
      const float* slope = slopes + layer * size;
      for (int64_t i = 0; i < size; i += kLanes) simd::at(da + i) = simd::at(g + i) * simd::at(slope + i);
      cotangent = da;
    }
    add_weight_gradients(cotangent, hs + layer * size, c, dw + layer * c * c, db + layer * c);
    mlp.back(cotangent, mlp.has_residual(layer) ? g : nullptr, layer, [&](int64_t row, int64_t col, const V(&sums)[kMicro][2]) {
      for (int r = 0; r < kMicro; ++r)
        for (int half = 0; half < 2; ++half) simd::at(other + (row + r) * c + col + half * kLanes) = sums[r][half];
    });
    std::swap(g, other);
  }
}

int64_t tiles_of(const ResidualMlpArgs<float>& args) { return (args.rows + kRows - 1) / kRows; }

}  // namespace

bool has_residual_mlp_cpu(int64_t channels) { return channels == 64 || channels == 128; }

void residual_mlp_forward_cpu(const ResidualMlpArgs<float>& args) {
  const Mlp mlp(args, false);
  const int64_t size = kRows * mlp.c;
  parallel_for(tiles_of(args), 1, [&](int64_t begin, int64_t end) {
    const HostScratch<float> space(2 * size);
    for (int64_t tile = begin; tile < end; ++tile) {
      float *h = space.data(), *next = h + size;
      if (!load_tile(args.x, mlp, tile * kRows, h)) {
        store_tile(nullptr, mlp, tile * kRows);
        continue;
      }
      for (int layer = 0; layer < mlp.n; ++layer, std::swap(h, next)) run_layer(mlp, layer, h, next, nullptr);
      store_tile(h, mlp, tile * kRows);
    }
  });
}

void residual_mlp_backward_cpu(const ResidualMlpArgs<float>& args, float* dw, float* db) {
  const Mlp mlp(args, true);
  const int64_t c = mlp.c, n = mlp.n, size = kRows * c, n_tiles = tiles_of(args), run = tiles_of_run(n_tiles);
  const int64_t n_runs = (n_tiles + run - 1) / run, per_run = n * (c * c + c);
  const HostScratch<float> parts(n_runs * per_run);
  parallel_for(n_tiles, run, [&](int64_t begin, int64_t end) {
    float* dw_part = parts.data() + begin / run * per_run;
    std::fill_n(dw_part, per_run, 0.0f);
    const HostScratch<float> space((2 * n + 3) * size);
    float *hs = space.data(), *slopes = hs + n * size, *da = slopes + n * size;
    for (int64_t tile = begin; tile < end; ++tile) {
      float *g = da + size, *other = g + size;
      if (!load_tile(args.x, mlp, tile * kRows, hs)) {
        store_tile(nullptr, mlp, tile * kRows);
        continue;
      }
      for (int layer = 0; layer < args.n_active(); ++layer) {
        float* h = hs + layer * size;
        run_layer(mlp, layer, h, layer + 1 < n ? h + size : nullptr, slopes + layer * size);
      }
      load_tile(args.gy, mlp, tile * kRows, g);
      run_back(mlp, hs, slopes, g, other, da, dw_part, dw_part + n * c * c);
      store_tile(g, mlp, tile * kRows);
    }
  });
  parallel_for(per_run, 4096, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float sum = 0;
      for (int64_t r = 0; r < n_runs; ++r) sum += parts.data()[r * per_run + i];
      (i < n * c * c ? dw[i] : db[i - n * c * c]) = sum;
    }
  });
}

}  // namespace flare
