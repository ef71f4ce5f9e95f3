#include "autograd/op.h"
#include "ops/pool.h"
#include "ops/reduce.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/reduce.cuh"
#endif

namespace flare {
namespace {

/// Whether candidate (v, i) replaces the best so far (b, j); index -1 is nothing. NaN wins, then the larger, then the first.
template <class A> FLARE_HD bool replaces(A v, int64_t i, A b, int64_t j) {
  if (i < 0 || j < 0) return j < 0 && i >= 0;
  const bool v_nan = v != v, b_nan = b != b;
  if (v_nan != b_nan) return v_nan;
  return v_nan || v == b ? i < j : v > b;
}

#if defined(FLARE_CUDA)
/// Maximum and its index along the last axis. Grid: one block a row; block: 32 or 256 threads striding over the row.
template <class T> __global__ void max_rows_kernel(const T* x, const uint8_t* mask, T* y, int64_t* index, int64_t n) {
  __shared__ float best_of_warp[kWarp];
  __shared__ int64_t at_of_warp[kWarp];
  const int64_t row = blockIdx.x;
  float best = 0;
  int64_t at = -1;
  for (int64_t i = threadIdx.x; i < n; i += blockDim.x) {
    if (mask && !mask[row * n + i]) continue;
    const float v = static_cast<float>(x[row * n + i]);
    if (replaces(v, i, best, at)) {
      best = v;
      at = i;
    }
  }
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const float v = __shfl_xor_sync(0xffffffffu, best, step);
    const int64_t i = __shfl_xor_sync(0xffffffffu, at, step);
    if (replaces(v, i, best, at)) {
      best = v;
      at = i;
    }
  }
  if (threadIdx.x % kWarp == 0) {
    best_of_warp[threadIdx.x / kWarp] = best;
    at_of_warp[threadIdx.x / kWarp] = at;
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w)
    if (replaces(best_of_warp[w], at_of_warp[w], best, at)) {
      best = best_of_warp[w];
      at = at_of_warp[w];
    }
  y[row] = static_cast<T>(best);
  index[row] = at;
}

/// The same for inner > 1. Grid: one block an (outer, tile of 32 columns). Block: 32 x 32; row ty takes r = ty, ty+32, ...
template <class T>
__global__ void max_columns_kernel(const T* x, const uint8_t* mask, T* y, int64_t* index, int64_t reduce, int64_t inner,
                                   int64_t n_tiles) {
  __shared__ float best_of_row[kWarp][kWarp];
  __shared__ int64_t at_of_row[kWarp][kWarp];
  const int64_t o = blockIdx.x / n_tiles, i = blockIdx.x % n_tiles * kWarp + threadIdx.x;
  float best = 0;
  int64_t at = -1;
  if (i < inner) {
#pragma unroll 4
    for (int64_t r = threadIdx.y; r < reduce; r += kWarp) {
      if (mask && !mask[o * reduce + r]) continue;
      const float v = static_cast<float>(x[(o * reduce + r) * inner + i]);
      if (replaces(v, r, best, at)) {
        best = v;
        at = r;
      }
    }
  }
  best_of_row[threadIdx.y][threadIdx.x] = best;
  at_of_row[threadIdx.y][threadIdx.x] = at;
  __syncthreads();
  if (threadIdx.y != 0 || i >= inner) return;
  for (int r = 1; r < kWarp; ++r) {
    const float v = best_of_row[r][threadIdx.x];
    const int64_t j = at_of_row[r][threadIdx.x];
    if (replaces(v, j, best, at)) {
      best = v;
      at = j;
    }
  }
  y[o * inner + i] = static_cast<T>(best);
  index[o * inner + i] = at;
}

template <class T> struct AtIndex {
  const T* gy;
  const int64_t* index;
  int64_t inner;
  template <int kVec> __device__ void operator()(int64_t o, int64_t r, int64_t i, float (&v)[kVec]) const {
    load_vec<kVec>(gy + o * inner + i, v);
    for (int j = 0; j < kVec; ++j) v[j] = index[o * inner + i + j] == r ? v[j] : 0.0f;
  }
};
#endif

/// gx[o,r,i] = gy[o,i] where r = index[o,i], else 0.
struct MaxBackward {
  static constexpr const char* name = "max_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  struct Attrs {
    Shape shape;
    int64_t outer = 1, reduce = 1, inner = 1;
  };
  static OutSpecs infer(Inputs in, const Attrs& a) { return {{a.shape, in[0].dtype()}}; }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int64_t* index = in[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* gy = in[0].data<T>();
      fill_layout_cpu(out[0].data<T>(), a.outer, a.reduce, a.inner, [&](int64_t o, int64_t r, int64_t i) {
        const int64_t at = o * a.inner + i;
        return index[at] == r ? gy[at] : T(0.0f);
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const AtIndex<T> value{in[0].data<T>(), in[1].data<int64_t>(), a.inner};
      fill_layout(name, out[0].data<T>(), a.outer, a.reduce, a.inner, value, fits_vec(in[0].raw(), a.inner, sizeof(T), 4), stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    return {
        {"rows", {{.shape = {5}}, {.kind = InputSpec::index, .shape = {5}, .lo = -1, .hi = 7}}, Attrs{{5, 7}, 5, 7, 1}},
        {"columns", {{.shape = {2, 8}}, {.kind = InputSpec::index, .shape = {2, 8}, .lo = 0, .hi = 3}}, Attrs{{2, 3, 8}, 2, 3, 8}}};
  }
};
FLARE_REGISTER_OP(MaxBackward);

/// Output 1: i64 index of the maximum, -1 where everything was masked.
template <bool kMasked> struct MaxOver {
  static constexpr const char* name = kMasked ? "masked_max" : "max";
  static constexpr auto keeps = Keep::outputs;
  struct Attrs {
    int axis = 0;
    bool keepdim = false;
  };
  static MaxBackward::Attrs layout_of(const Shape& x, const Attrs& a) {
    MaxBackward::Attrs l{x};
    for (int i = 0; i < x.ndim(); ++i) (i < a.axis ? l.outer : i == a.axis ? l.reduce : l.inner) *= x[i];
    return l;
  }
  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Tensor& x = in[0];
    check(is_float(x.dtype()), name, ": needs a floating dtype, got ", x.dtype());
    check(a.axis >= 0 && a.axis < x.ndim(), name, ": axis ", a.axis, " is outside x ", x.shape());
    check(x.size(a.axis) > 0, name, ": axis ", a.axis, " of x ", x.shape(), " has no elements");
    if constexpr (kMasked) {
      check(x.ndim() == 3 && a.axis == 1, name, ": x must be [B,N,C], got ", x.shape());
      const Tensor& mask = in[1];
      check(mask.dtype() == DType::u8 && mask.ndim() == 2 && mask.size(0) == x.size(0) && mask.size(1) == x.size(1), name,
            ": mask must be u8 [", x.size(0), ",", x.size(1), "], got ", mask.dtype(), " ", mask.shape());
    }
    Shape y = x.shape();
    if (a.keepdim)
      y[a.axis] = 1;
    else
      y = y.without(a.axis);
    return {{y, x.dtype()}, {y, DType::i64}};
  }
  static const uint8_t* mask_of(Inputs in) {
    if constexpr (kMasked) return in[1].data<uint8_t>();
    return nullptr;
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const auto l = layout_of(in[0].shape(), a);
    const uint8_t* mask = mask_of(in);
    int64_t* index = out[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      constexpr int64_t kTile = 256;
      const int64_t tiles = (l.inner + kTile - 1) / kTile;
      parallel_for(l.outer * tiles, row_grain(l.reduce * std::min(l.inner, kTile)), [&](int64_t begin, int64_t end) {
        for (int64_t u = begin; u < end; ++u) {
          const int64_t o = u / tiles, i0 = u % tiles * kTile, width = std::min(l.inner - i0, kTile);
          A best[kTile] = {};
          int64_t at[kTile];
          std::fill_n(at, width, int64_t{-1});
          for (int64_t r = 0; r < l.reduce; ++r) {
            if (mask && !mask[o * l.reduce + r]) continue;
            const T* row = x + (o * l.reduce + r) * l.inner + i0;
            for (int64_t i = 0; i < width; ++i) {
              const A v = static_cast<A>(row[i]);
              if (replaces(v, r, best[i], at[i])) {
                best[i] = v;
                at[i] = r;
              }
            }
          }
          for (int64_t i = 0; i < width; ++i) {
            y[o * l.inner + i0 + i] = static_cast<T>(best[i]);
            index[o * l.inner + i0 + i] = at[i];
          }
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const auto l = layout_of(in[0].shape(), a);
    const uint8_t* mask = mask_of(in);
    int64_t* index = out[1].data<int64_t>();
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      if (l.inner == 1) {
        const LaunchShape shape{dim3(static_cast<unsigned>(l.outer)), dim3(l.reduce <= 512 ? 32 : 256)};
        launch(name, max_rows_kernel<T>, shape, stream, x, mask, y, index, l.reduce);
      } else {
        const int64_t tiles = (l.inner + kWarp - 1) / kWarp;
        const LaunchShape shape{dim3(static_cast<unsigned>(l.outer * tiles)), dim3(kWarp, kWarp)};
        launch(name, max_columns_kernel<T>, shape, stream, x, mask, y, index, l.reduce, l.inner, tiles);
      }
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    Grads g{apply<MaxBackward>({gy, s.out(1)}, layout_of(s.in_shape(0), a))};
    if constexpr (kMasked) g.emplace_back();
    return g;
  }
  static std::vector<Sample> samples() {
    if constexpr (kMasked) {
      const auto with = [](Shape x) {
        return std::vector<InputSpec>{{.shape = x}, {.kind = InputSpec::mask, .shape = {x[0], x[1]}}};
      };
      auto transposed = with({2, 6, 5});
      transposed[0].transposed = true;
      return {{"odd", with({3, 7, 5}), Attrs{1}},
              {"one token", with({2, 1, 8}), Attrs{1}},
              {"width 1", with({2, 40, 1}), Attrs{1}},
              {"transposed", transposed, Attrs{1}},
              {"a sample without tokens",
               {{.shape = {2, 3, 4}},
                {.kind = InputSpec::values, .shape = {2, 3}, .fixed = {0, 0, 0, 1, 0, 1}, .fixed_dtype = DType::u8}},
               Attrs{1}}};
    } else {
      return {{"last axis", {{.shape = {5, 33}}}, Attrs{1}},
              {"middle axis, kept", {{.shape = {3, 7, 8}}}, Attrs{1, true}},
              {"first axis", {{.shape = {70, 5}}}, Attrs{0}},
              {"extent 1", {{.shape = {4, 1}}}, Attrs{1}},
              {"long row", {{.shape = {2, 700}, .differentiable = false}}, Attrs{1}},
              {"transposed", {{.shape = {6, 9}, .transposed = true}}, Attrs{0}}};
    }
  }
};
using Max = MaxOver<false>;
using MaskedMax = MaxOver<true>;
FLARE_REGISTER_OP(Max);
FLARE_REGISTER_OP(MaskedMax);

}  // namespace

Tensor max(const Tensor& x, int axis, bool keepdim) { return apply<Max>({x}, {x.shape().axis(axis), keepdim}); }
Tensor masked_max(const Tensor& x, const Tensor& mask) {
  check(x.ndim() == 3, "masked_max: x must be [B,N,C], got ", x.shape());
  return mask ? apply<MaskedMax>({x, mask}, {1, false}) : max(x, 1);
}

}  // namespace flare
