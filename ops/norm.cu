#include "ops/norm.h"

#include "autograd/op.h"
#include "core/math.h"
#include "ops/cast.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/norm.cuh"
#endif

namespace flare {
namespace {

/// Inputs x, weight, statistics (mean for layer norm, then rstd), gy, and what is added to gx or undefined. Outputs gx, gweight
/// and, for layer norm, gbias.
template <bool kCentered> struct NormBackward {
  static constexpr const char* name = kCentered ? "layer_norm_backward" : "rms_norm_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  static constexpr size_t kRstd = kCentered ? 3 : 2, kGy = kRstd + 1, kAddend = kGy + 1;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) {
    check(in[0].shape() == in[kGy].shape() && in[0].dtype() == in[kGy].dtype(), name, ": x ", in[0].dtype(), " ", in[0].shape(),
          " and gy ", in[kGy].dtype(), " ", in[kGy].shape(), " differ");
    const Tensor& addend = in[kAddend];
    check(!addend || (addend.shape() == in[0].shape() && addend.dtype() == in[0].dtype()), name, ": the addend is not like x, ",
          in[0].dtype(), " ", in[0].shape());
    OutSpecs out{{in[0].shape(), in[0].dtype()}, {in[1].shape(), in[1].dtype()}};
    if (kCentered) out.push_back({in[1].shape(), in[1].dtype()});
    return out;
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t c = in[0].size(-1), rows = c ? in[0].numel() / c : 0;
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T *x = in[0].data<T>(), *gy = in[kGy].data<T>(), *addend = in[kAddend] ? in[kAddend].data<T>() : nullptr;
      const A *weight = in[1].data<A>(), *rstd = in[kRstd].data<A>(), *mean = kCentered ? in[2].data<A>() : nullptr;
      T* gx = out[0].data<T>();
      const int64_t chunk = std::max<int64_t>(16, row_grain(c)), n_parts = (rows + chunk - 1) / chunk;
      std::vector<A> parts(static_cast<size_t>(n_parts * 2 * c), A(0));
      parallel_for(rows, chunk, [&](int64_t begin, int64_t end) {
        A *gw = parts.data() + begin / chunk * 2 * c, *gb = gw + c;
        std::vector<A> xh(static_cast<size_t>(c)), g(static_cast<size_t>(c));
        for (int64_t row = begin; row < end; ++row) {
          const T *xr = x + row * c, *gr = gy + row * c;
          const A mu = kCentered ? mean[row] : A(0), r = rstd[row];
          A *h = xh.data(), *gg = g.data();
          for (int64_t i = 0; i < c; ++i) {
            const A gi = static_cast<A>(gr[i]);
            h[i] = (static_cast<A>(xr[i]) - mu) * r;
            gw[i] += gi * h[i];
            gb[i] += gi;
            gg[i] = gi * weight[i];
          }
          const A mean_g = kCentered ? lane_sum<A>(0, c, [&](int64_t i) { return gg[i]; }) / static_cast<A>(c) : A(0);
          const A mean_gx = lane_sum<A>(0, c, [&](int64_t i) { return gg[i] * h[i]; }) / static_cast<A>(c);
          for (int64_t i = 0; i < c; ++i) gg[i] = r * (gg[i] - mean_g - h[i] * mean_gx);
          for (int64_t i = 0; addend && i < c; ++i) gg[i] += static_cast<A>(addend[row * c + i]);
          for (int64_t i = 0; i < c; ++i) gx[row * c + i] = static_cast<T>(gg[i]);
        }
      });
      for (size_t which = 0; which < (kCentered ? 2 : 1); ++which) {
        A* to = out[1 + which].data<A>();
        for (int64_t i = 0; i < c; ++i) {
          double total = 0;
          for (int64_t p = 0; p < n_parts; ++p)
            total +=
                static_cast<double>(parts[(static_cast<size_t>(p) * 2 + which) * static_cast<size_t>(c) + static_cast<size_t>(i)]);
          to[i] = static_cast<A>(total);
        }
      }
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t c = in[0].size(-1), rows = c ? in[0].numel() / c : 0;
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      norm_backward_cuda<kCentered>(name, in[0].data<T>(), in[1].data<float>(), kCentered ? in[2].data<float>() : nullptr,
                                    in[kRstd].data<float>(), in[kGy].data<T>(), in[kAddend] ? in[kAddend].data<T>() : nullptr,
                                    out[0].data<T>(), out[1], kCentered ? out[2] : Tensor(), rows, c, stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    std::vector<Sample> out;
    for (const auto& [label, x] :
         {std::pair<const char*, Shape>{"width 5", {3, 7, 5}}, {"width 32", {40, 32}}, {"width 200", {33, 200}}}) {
      const int64_t c = x[-1], rows = x.numel() / c;
      std::vector<InputSpec> in{{.shape = x}, {.kind = InputSpec::param, .shape = {c}}};
      if (kCentered) in.push_back({.kind = InputSpec::param, .shape = {rows}, .lo = -0.1, .hi = 0.1});
      in.push_back({.kind = InputSpec::param, .shape = {rows}, .lo = 1, .hi = 2});
      in.push_back({.shape = x});
      in.push_back({.kind = InputSpec::absent, .shape = {}});
      out.push_back({label, in, Attrs{}});
      in.back() = {.shape = x};
      out.push_back({std::string(label) + ", added", in, Attrs{}});
    }
    return out;
  }
};

/// Further outputs: the row statistics mean (layer norm only) and rstd = 1/√(variance + eps), [...] without the last axis.
template <bool kCentered> struct Norm {
  static constexpr const char* name = kCentered ? "layer_norm" : "rms_norm";
  static constexpr auto keeps = Keep::inputs_and_statistics;
  static constexpr size_t kRstd = kCentered ? 2 : 1;
  static constexpr bool adds = true;  // in a block the residual stream goes past the norm
  struct Attrs {
    double eps = 1e-5;
  };
  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor& x = in[0];
    check(is_float(x.dtype()), name, ": needs a floating dtype, got ", x.dtype());
    check(x.ndim() >= 1 && x.size(-1) > 0, name, ": x must be [...,C] with C > 0, got ", x.shape());
    const DType param = param_dtype(x.dtype());
    for (size_t i = 1; i < in.size(); ++i)
      check(in[i].shape() == Shape{x.size(-1)} && in[i].dtype() == param, name, ": ", i == 1 ? "weight" : "bias", " must be ",
            param, " [", x.size(-1), "] for x ", x.dtype(), " ", x.shape(), ", got ", in[i].dtype(), " ", in[i].shape());
    const Shape rows = x.shape().without(-1);
    OutSpecs out{{x.shape(), x.dtype()}, {rows, param}};
    if (kCentered) out.push_back({rows, param});
    return out;
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int64_t c = in[0].size(-1), rows = in[0].numel() / c;
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      const A *weight = in[1].data<A>(), *bias = kCentered ? in[2].data<A>() : nullptr;
      T* y = out[0].data<T>();
      A *mean = kCentered ? out[1].data<A>() : nullptr, *rstd = out[kRstd].data<A>();
      parallel_for(rows, row_grain(c), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const T* xr = x + row * c;
          A mu = 0;
          if constexpr (kCentered)
            mean[row] = mu = lane_sum<A>(0, c, [&](int64_t i) { return static_cast<A>(xr[i]); }) / static_cast<A>(c);
          const A squares = lane_sum<A>(0, c, [&](int64_t i) {
            const A d = static_cast<A>(xr[i]) - mu;
            return d * d;
          });
          const A r = rstd[row] = A(1) / sqrt_of(squares / static_cast<A>(c) + static_cast<A>(a.eps));
          for (int64_t i = 0; i < c; ++i) {
            const A h = (static_cast<A>(xr[i]) - mu) * r * weight[i];
            if constexpr (kCentered)
              y[row * c + i] = static_cast<T>(h + bias[i]);
            else
              y[row * c + i] = static_cast<T>(h);
          }
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const int64_t c = in[0].size(-1), rows = in[0].numel() / c;
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      norm_cuda<kCentered>(name, in[0].data<T>(), in[1].data<float>(), kCentered ? in[2].data<float>() : nullptr, out[0].data<T>(),
                           kCentered ? out[1].data<float>() : nullptr, out[kRstd].data<float>(), rows, c, a.eps, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    std::vector<Tensor> in{s.in(0), s.in(1), s.out(1)};
    if (kCentered) in.push_back(s.out(2));
    in.push_back(gy);
    in.push_back(s.addend);
    return apply_all<NormBackward<kCentered>>(std::move(in));
  }
  static Tensor reference(Inputs in, const Attrs& a) {
    const Tensor x = cast(in[0], param_dtype(in[0].dtype()));
    const Tensor d = kCentered ? x - mean(x, -1, true) : x;
    const Tensor h = d / sqrt(mean(square(d), -1, true) + a.eps) * in[1];
    return cast(kCentered ? h + in[2] : h, in[0].dtype());
  }
  static std::vector<Sample> samples() {
    const auto with = [](Shape x, bool transposed = false, bool differentiable = true) {
      std::vector<InputSpec> in{
          {.shape = x, .differentiable = differentiable, .transposed = transposed},
          {.kind = InputSpec::param, .shape = {x[-1]}, .lo = 0.5, .hi = 1.5, .differentiable = differentiable}};
      if (kCentered) in.push_back({.kind = InputSpec::param, .shape = {x[-1]}, .differentiable = differentiable});
      return in;
    };
    return {{"width 5", with({3, 7, 5}), Attrs{}},
            {"one row, width 128", with({128}), Attrs{}},
            {"width 32, 17 rows", with({17, 32}), Attrs{1e-3}},
            {"width 132", with({3, 132}), Attrs{}},
            {"transposed", with({8, 12}, true), Attrs{}},
            {"many rows", with({1000, 8}, false, false), Attrs{}},
            {"width 1030", with({2, 1030}, false, false), Attrs{}},
            {"width 768", with({3, 768}, false, false), Attrs{}}};
  }
};
using LayerNorm = Norm<true>;
using RmsNorm = Norm<false>;
FLARE_REGISTER_OP(LayerNorm);
FLARE_REGISTER_OP(RmsNorm);
FLARE_REGISTER_OP(NormBackward<true>);
FLARE_REGISTER_OP(NormBackward<false>);

}  // namespace

Tensor layer_norm(const Tensor& x, const Tensor& weight, const Tensor& bias, double eps) {
  return apply<LayerNorm>({x, weight, bias}, {eps});
}
Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) { return apply<RmsNorm>({x, weight}, {eps}); }

}  // namespace flare
