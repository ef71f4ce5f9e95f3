#include "ops/linear.h"

#include <algorithm>

#include "autograd/op.h"
#include "core/beside.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "ops/kernels/residual_mlp.h"
#include "ops/matmul.h"
#include "ops/residual_mlp.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#include "ops/kernels/linear.cuh"
#endif

namespace flare {
namespace {

int64_t rows_of(const Shape& s) {
  int64_t rows = 1;
  for (int i = 0; i + 1 < s.ndim(); ++i) rows *= s[i];
  return rows;
}
Tensor as_rows(const Tensor& x) { return contiguous(x).viewed_as({rows_of(x.shape()), x.size(-1)}); }
constexpr int64_t kMostBytesBeside = 8 << 20;  // of a cotangent: larger ones fill the GPU by themselves

#if defined(FLARE_CUDA)
template <class T> constexpr int kPack = 16 / static_cast<int>(sizeof(T));
bool fits_packs(const void* data, int64_t channels, int width) {
  return channels % width == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

template <class T, int kWidth>
void launch_bias_add(T* y, const float* bias, const T* residual, int64_t rows, int64_t channels, const Stream& stream) {
  const int64_t n_packs = rows * channels / kWidth, packs_per_row = channels / kWidth;
  if (n_packs < (int64_t{1} << 31))
    launch_early("linear bias", bias_add_kernel<T, kWidth, uint32_t>, cover(n_packs), stream, y, bias, residual, n_packs,
                 packs_per_row);
  else
    launch_early("linear bias", bias_add_kernel<T, kWidth, int64_t>, cover(n_packs), stream, y, bias, residual, n_packs,
                 packs_per_row);
}

template <class T, int kWidth>
void launch_column_sum(const T* x, float* out, int64_t rows, int64_t channels, int64_t row_blocks, const Stream& stream) {
  const int64_t packs = channels / kWidth;
  unsigned lanes = 1;
  while (lanes < 32 && lanes < packs) lanes *= 2;
  LaunchShape shape;
  shape.block = dim3(lanes, 256 / lanes);
  shape.grid = dim3(static_cast<unsigned>((packs + lanes - 1) / lanes), static_cast<unsigned>(row_blocks));
  shape.shared_bytes = 256 * kWidth * static_cast<int64_t>(sizeof(float));
  launch_early("column_sum", column_sum_kernel<T, kWidth>, shape, stream, x, out, rows, channels,
               (rows + row_blocks - 1) / row_blocks);
}
template <class T>
void column_sum_rows(const T* x, float* out, int64_t rows, int64_t channels, int64_t row_blocks, const Stream& stream) {
  if (fits_packs(x, channels, kPack<T>))
    launch_column_sum<T, kPack<T>>(x, out, rows, channels, row_blocks, stream);
  else
    launch_column_sum<T, 1>(x, out, rows, channels, row_blocks, stream);
}
#endif

}  // namespace

struct ColumnSum {
  static constexpr const char* name = "column_sum";
  struct Attrs {};
  static constexpr Keep keeps = Keep::nothing;

  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor& x = in[0];
    check(x.ndim() >= 1 && is_float(x.dtype()), "column_sum: needs a floating tensor with at least one axis, got ", x.dtype(), " ",
          x.shape());
    return {{Shape{x.size(-1)}, param_dtype(x.dtype())}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t channels = in[0].size(-1), rows = rows_of(in[0].shape());
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].template data<T>();
      A* y = out[0].template data<A>();
      constexpr int64_t kRows = 512;
      const int64_t n_blocks = std::max<int64_t>(1, (rows + kRows - 1) / kRows);
      const Tensor partial = Tensor::zeros({n_blocks, channels}, dtype_of<A>);
      A* sums = partial.template data<A>();
      parallel_for(rows, kRows, [&](int64_t begin, int64_t end) {
        A* sum = sums + begin / kRows * channels;
        for (int64_t r = begin; r < end; ++r)
          for (int64_t c = 0; c < channels; ++c) sum[c] += static_cast<A>(x[r * channels + c]);
      });
      std::copy(sums, sums + channels, y);
      for (int64_t b = 1; b < n_blocks; ++b)
        for (int64_t c = 0; c < channels; ++c) y[c] += sums[b * channels + c];
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t channels = in[0].size(-1), rows = rows_of(in[0].shape());
    const int64_t row_blocks = std::clamp<int64_t>(rows / 64, 1, 256);
    float* y = out[0].data<float>();
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      if (row_blocks == 1) {
        column_sum_rows<T>(in[0].template data<T>(), y, rows, channels, 1, stream);
        return;
      }
      const Tensor partial = Tensor::empty({row_blocks, channels}, DType::f32, Device::cuda);
      column_sum_rows<T>(in[0].template data<T>(), partial.data<float>(), rows, channels, row_blocks, stream);
      column_sum_rows<float>(partial.data<float>(), y, row_blocks, channels, 1, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    Shape steps;
    for (int i = 0; i + 1 < s.in_shape(0).ndim(); ++i) steps.push_back(0);
    steps.push_back(1);
    return {cast_to(contiguous(gy), s.in_dtypes[0]).view(s.in_shape(0), steps)};
  }
  static std::vector<Sample> samples() {
    return {{"odd sizes", {{.shape = {7, 5}}}, Attrs{}},
            {"leading axes", {{.shape = {3, 2, 8}}}, Attrs{}},
            {"one row", {{.shape = {9}}}, Attrs{}},
            {"strided", {{.shape = {6, 4}, .transposed = true}}, Attrs{}},
            {"many rows", {{.shape = {1300, 24}, .differentiable = false}}, Attrs{}},
            {"wide", {{.shape = {130, 517}, .differentiable = false}}, Attrs{}}};
  }
};
FLARE_REGISTER_OP(ColumnSum);

struct Linear {
  static constexpr const char* name = "linear";
  struct Attrs {};
  static constexpr Keep keeps = Keep::inputs;

  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor &x = in[0], &w = in[1], &bias = in[2];
    check(x.ndim() >= 1 && is_float(x.dtype()), "linear: x must be floating with at least one axis, got ", x.dtype(), " ",
          x.shape());
    check(w.ndim() == 2, "linear: weight ", w.shape(), " must be [out,in]");
    check(x.size(-1) == w.size(1), "linear: x ", x.shape(), " and weight ", w.shape(), " disagree on C (", x.size(-1), " vs ",
          w.size(1), ")");
    check(w.dtype() == param_dtype(x.dtype()), "linear: beside x of ", x.dtype(), " the weight must be ", param_dtype(x.dtype()),
          ", got ", w.dtype());
    if (bias) {
      check(bias.shape() == Shape{w.size(0)}, "linear: bias ", bias.shape(), " and weight ", w.shape(),
            " disagree on the output width ", w.size(0));
      check(bias.dtype() == w.dtype(), "linear: bias is ", bias.dtype(), ", weight ", w.dtype());
    }
    Shape shape = x.shape();
    shape[-1] = w.size(0);
    const Tensor& residual = in[3];
    check(!residual || (residual.shape() == shape && residual.dtype() == x.dtype()), "linear: the residual must be ", x.dtype(),
          " ", shape, " like the result, got ", residual ? residual.dtype() : DType::f32, " ",
          residual ? residual.shape() : Shape{});
    return {{shape, x.dtype()}};
  }
  static void product(const Tensor& x, const Tensor& weight, const Tensor& y, Stream& stream) {
    const Tensor w = cast_to(weight, x.dtype());
    GemmArgs g;
    g.transpose_b = true;
    g.m = rows_of(x.shape()), g.n = w.size(0), g.k = w.size(1);
    g.a = x.raw(), g.lda = std::max<int64_t>(1, g.k);
    g.b = w.raw(), g.ldb = std::max<int64_t>(1, g.k);
    g.c = y.raw(), g.ldc = std::max<int64_t>(1, g.n);
    g.dtype = g.out_dtype = x.dtype();
    gemm(g, stream);
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    product(in[0], in[1], out[0], compute_stream(Device::cpu));
    if (!in[2] && !in[3]) return;
    const int64_t width = in[1].size(0), rows = rows_of(in[0].shape());
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      T* y = out[0].template data<T>();
      const std::vector<A> zeros(in[2] ? 0 : static_cast<size_t>(width), A(0));
      const A* bias = in[2] ? in[2].template data<A>() : zeros.data();
      const T* residual = in[3] ? in[3].template data<T>() : nullptr;
      parallel_for(rows, std::max<int64_t>(1, (1 << 15) / std::max<int64_t>(width, 1)), [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          T* row = y + r * width;
          if (residual)
            for (int64_t c = 0; c < width; ++c)
              row[c] = T(static_cast<A>(row[c]) + bias[c] + static_cast<A>(residual[r * width + c]));
          else
            for (int64_t c = 0; c < width; ++c) row[c] = T(static_cast<A>(row[c]) + bias[c]);
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    product(in[0], in[1], out[0], stream);
    if (!in[2] && !in[3]) return;
    const int64_t width = in[1].size(0), rows = rows_of(in[0].shape());
    const float* bias = in[2] ? in[2].data<float>() : nullptr;
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* y = out[0].template data<T>();
      const T* residual = in[3] ? in[3].template data<T>() : nullptr;
      if (width == 0) return;
      if (fits_packs(y, width, kPack<T>) && (!residual || fits_packs(residual, width, kPack<T>)))
        launch_bias_add<T, kPack<T>>(y, bias, residual, rows, width, stream);
      else
        launch_bias_add<T, 1>(y, bias, residual, rows, width, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    Grads g(4);
    const Tensor grad_rows = as_rows(gy);
    const Tensor x = s.needs(1) ? s.in(0) : Tensor{};
    {
      const Beside beside({grad_rows, x}, gy.bytes() <= kMostBytesBeside);
      if (s.needs(1)) beside.made(g[1] = matmul_unrounded(grad_rows, as_rows(x), true, false));
      if (s.needs(2)) beside.made(g[2] = column_sum(grad_rows));
    }
    if (s.needs(3)) g[3] = gy;
    if (s.needs(0)) g[0] = matmul(grad_rows, cast_to(s.in(1), gy.dtype())).viewed_as(s.in_shape(0));
    return g;
  }
  static std::vector<Sample> samples() {
    const auto triple = [](const std::string& label, const Shape& x, int64_t width, bool with_bias, bool strided = false,
                           bool with_residual = false) {
      const InputSpec bias =
          with_bias ? InputSpec{.kind = InputSpec::param, .shape = {width}} : InputSpec{.kind = InputSpec::absent, .shape = {}};
      Shape y = x;
      y[-1] = width;
      const InputSpec residual = with_residual ? InputSpec{.shape = y} : InputSpec{.kind = InputSpec::absent, .shape = {}};
      return Sample{label,
                    {{.shape = x, .transposed = strided}, {.kind = InputSpec::param, .shape = {width, x[-1]}}, bias, residual},
                    Attrs{}};
    };
    return {triple("batch of tokens", {2, 5, 7}, 3, true),
            triple("no bias", {4, 6}, 5, false),
            triple("one token", {1, 1, 9}, 4, true),
            triple("one vector", {6}, 3, true),
            triple("width of 16 bytes", {3, 4, 16}, 24, true),
            triple("strided x", {2, 6, 5}, 7, true, true),
            triple("residual", {2, 5, 7}, 3, true, false, true),
            triple("residual, no bias", {3, 16}, 24, false, false, true)};
  }
};
FLARE_REGISTER_OP(Linear);

Tensor linear(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& residual) {
  const bool is_square = x && weight && bias && x.ndim() > 0 && weight.shape() == Shape{x.size(-1), x.size(-1)};
  if (is_square && x.device() == Device::cuda && x.dtype() == DType::f32 && has_residual_mlp(false, x.size(-1)))
    return residual_mlp(x, {weight}, {bias}, {}, {.input_residual = false, .output_residual = false}, residual);
  return apply<Linear>({x, weight, bias, residual});
}
Tensor column_sum(const Tensor& x) { return apply<ColumnSum>({x}); }

}  // namespace flare
