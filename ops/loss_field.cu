// Losses for fields: mean squared error and relative L2.
#include "autograd/op.h"
#include "core/math.h"
#include "ops/cast.h"
#include "ops/loss.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/loss.cuh"
#endif

namespace flare {
namespace {

void check_pair(const char* name, const Tensor& pred, const Tensor& target) {
  check(is_float(pred.dtype()), name, ": needs a floating dtype, got ", pred.dtype());
  check(pred.shape() == target.shape() && pred.dtype() == target.dtype(), name, ": pred ", pred.dtype(), " ", pred.shape(),
        " and target ", target.dtype(), " ", target.shape(), " differ");
  check(pred.numel() > 0, name, ": nothing to average in ", pred.shape());
}

/// gpred = 2 gy/n · (pred - target).  Inputs pred, target, gy.
struct MseBackward {
  static constexpr const char* name = "mse_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) { return {{in[0].shape(), in[0].dtype()}}; }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t n = in[0].numel();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T *p = in[0].data<T>(), *t = in[1].data<T>();
      const A scale = A(2) * *in[2].data<A>() / static_cast<A>(n);
      T* y = out[0].data<T>();
      parallel_for(n, 8192, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] = static_cast<T>(scale * (static_cast<A>(p[i]) - static_cast<A>(t[i])));
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t n = in[0].numel();
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const SquaredErrorSlope<T> value{in[0].data<T>(), in[1].data<T>(), in[2].data<float>(), 2.0f / static_cast<float>(n)};
      fill_layout(name, out[0].data<T>(), 1, 1, n, value,
                  fits_vec(in[0].raw(), n, sizeof(T), 4) && fits_vec(in[1].raw(), n, sizeof(T), 4), stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    return {{"3 x 5", {{.shape = {3, 5}}, {.shape = {3, 5}}, {.kind = InputSpec::param, .shape = {}, .lo = 1, .hi = 2}}, Attrs{}}};
  }
};
FLARE_REGISTER_OP(MseBackward);

struct Mse {
  static constexpr const char* name = "mse";
  static constexpr auto keeps = Keep::inputs;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) {
    check_pair(name, in[0], in[1]);
    return {{{}, param_dtype(in[0].dtype())}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t n = in[0].numel();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T *p = in[0].data<T>(), *t = in[1].data<T>();
      row_sums_cpu<A>(
          1, n,
          [&](int64_t, int64_t i) {
            const A d = static_cast<A>(p[i]) - static_cast<A>(t[i]);
            return d * d;
          },
          [&](int64_t, double total) { *out[0].data<A>() = static_cast<A>(total / static_cast<double>(n)); });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t n = in[0].numel();
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      reduce_rows<1>(name, 1, n, SquaredError<T>{in[0].data<T>(), in[1].data<T>()},
                     WriteTimes{out[0].data<float>(), 1.0f / static_cast<float>(n)}, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    Grads g(2);
    if (s.needs(0)) g[0] = apply<MseBackward>({s.in(0), s.in(1), gy});
    if (s.needs(1)) g[1] = apply<MseBackward>({s.in(1), s.in(0), gy});
    return g;
  }
  static std::vector<Sample> samples() {
    return {{"3 x 5", {{.shape = {3, 5}}, {.shape = {3, 5}}}, Attrs{}},
            {"one", {{.shape = {1}}, {.shape = {1}, .lo = 2, .hi = 3}}, Attrs{}},
            {"transposed", {{.shape = {4, 9}, .transposed = true}, {.shape = {4, 9}}}, Attrs{}},
            {"split", {{.shape = {5000}, .differentiable = false}, {.shape = {5000}, .differentiable = false}}, Attrs{}}};
  }
};
FLARE_REGISTER_OP(Mse);

const uint8_t* optional_mask(const Tensor& mask) { return mask ? mask.data<uint8_t>() : nullptr; }

/// Gradient of pred or of target.  Inputs pred, target, mask or absent, the norms of pred - target and of target, gy.
template <bool kOfTarget> struct RelativeL2Backward {
  static constexpr const char* name = kOfTarget ? "relative_l2_backward_target" : "relative_l2_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) { return {{in[0].shape(), in[0].dtype()}}; }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t rows = in[0].size(0), n = in[0].numel() / rows, width = in[2] ? n / in[2].size(1) : 1;
    const uint8_t* mask = optional_mask(in[2]);
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T *p = in[0].data<T>(), *t = in[1].data<T>();
      const A *error = in[3].data<A>(), *size = in[4].data<A>(), g = *in[5].data<A>() / static_cast<A>(rows);
      fill_layout_cpu(out[0].data<T>(), rows, n / width, width, [&](int64_t b, int64_t token, int64_t i) {
        const A e = error[b], s = size[b];
        if (!(s > 0) || (mask && !mask[b * (n / width) + token])) return A(0);
        const int64_t at = b * n + token * width + i;
        const A u = static_cast<A>(t[at]), of_error = e > 0 ? (static_cast<A>(p[at]) - u) / (e * s) : A(0);
        return g * (kOfTarget ? -of_error - u * (e / s) / (s * s) : of_error);
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t rows = in[0].size(0), n = in[0].numel() / rows, width = in[2] ? n / in[2].size(1) : 1;
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const RelativeSlope<kOfTarget, T> value{in[0].data<T>(),
                                              in[1].data<T>(),
                                              optional_mask(in[2]),
                                              in[3].data<float>(),
                                              in[4].data<float>(),
                                              in[5].data<float>(),
                                              n,
                                              width,
                                              1.0f / static_cast<float>(rows)};
      fill_layout(name, out[0].data<T>(), rows, 1, n, value,
                  fits_vec(in[0].raw(), n, sizeof(T), 4) && fits_vec(in[1].raw(), n, sizeof(T), 4), stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    const InputSpec one{.kind = InputSpec::param, .shape = {2}, .lo = 1, .hi = 2},
        gy{.kind = InputSpec::param, .shape = {}, .lo = 1, .hi = 2};
    return {
        {"masked", {{.shape = {2, 5, 3}}, {.shape = {2, 5, 3}}, {.kind = InputSpec::mask, .shape = {2, 5}}, one, one, gy}, Attrs{}},
        {"all tokens", {{.shape = {2, 8}}, {.shape = {2, 8}}, {.kind = InputSpec::absent, .shape = {}}, one, one, gy}, Attrs{}}};
  }
};
FLARE_REGISTER_OP(RelativeL2Backward<false>);
FLARE_REGISTER_OP(RelativeL2Backward<true>);

/// Outputs 1 and 2: the norms of pred - target and of target, [B].
struct RelativeL2 {
  static constexpr const char* name = "relative_l2";
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor &pred = in[0], &mask = in[2];
    check_pair(name, pred, in[1]);
    check(pred.ndim() >= 1, name, ": pred must be [B,...], got ", pred.shape());
    if (mask)
      check(pred.ndim() >= 2 && mask.dtype() == DType::u8 && mask.shape() == Shape{pred.size(0), pred.size(1)}, name,
            ": mask must be u8 [B,N] of pred ", pred.shape(), ", got ", mask.dtype(), " ", mask.shape());
    const DType a = param_dtype(pred.dtype());
    return {{{}, a}, {{pred.size(0)}, a}, {{pred.size(0)}, a}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t rows = in[0].size(0), n = in[0].numel() / rows, width = in[2] ? n / in[2].size(1) : 1;
    const uint8_t* mask = optional_mask(in[2]);
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T *p = in[0].data<T>(), *t = in[1].data<T>();
      A *error = out[1].data<A>(), *size = out[2].data<A>();
      const auto keeps_element = [&](int64_t at) { return !mask || mask[at / width]; };
      row_sums_cpu<A>(
          rows, n,
          [&](int64_t b, int64_t i) {
            const int64_t at = b * n + i;
            const A d = static_cast<A>(p[at]) - static_cast<A>(t[at]);
            return keeps_element(at) ? d * d : A(0);
          },
          [&](int64_t b, double total) { error[b] = static_cast<A>(sqrt_of(total)); });
      row_sums_cpu<A>(
          rows, n,
          [&](int64_t b, int64_t i) {
            const A u = static_cast<A>(t[b * n + i]);
            return keeps_element(b * n + i) ? u * u : A(0);
          },
          [&](int64_t b, double total) { size[b] = static_cast<A>(sqrt_of(total)); });
      double total = 0;
      for (int64_t b = 0; b < rows; ++b)
        if (size[b] > 0) total += static_cast<double>(error[b]) / static_cast<double>(size[b]);
      *out[0].data<A>() = static_cast<A>(total / static_cast<double>(rows));
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t rows = in[0].size(0), n = in[0].numel() / rows, width = in[2] ? n / in[2].size(1) : 1;
    const Tensor ratio = Tensor::empty({rows}, DType::f32, Device::cuda);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      reduce_rows<2>(name, rows, n, RelativeTerm<T>{in[0].data<T>(), in[1].data<T>(), optional_mask(in[2]), n, width},
                     WriteNorms{out[1].data<float>(), out[2].data<float>(), ratio.data<float>()}, stream);
    });
    reduce_rows<1>(name, 1, rows, PlainTerm{ratio.data<float>()}, WriteTimes{out[0].data<float>(), 1.0f / static_cast<float>(rows)},
                   stream);
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    const std::vector<Tensor> in{s.in(0), s.in(1), s.in(2), s.out(1), s.out(2), gy};
    Grads g(3);
    if (s.needs(0)) g[0] = apply<RelativeL2Backward<false>>(in);
    if (s.needs(1)) g[1] = apply<RelativeL2Backward<true>>(in);
    return g;
  }
  static std::vector<Sample> samples() {
    const auto with = [](Shape x, bool masked, bool differentiable = true) {
      std::vector<InputSpec> in{{.shape = x, .differentiable = differentiable}, {.shape = x, .differentiable = differentiable}};
      if (masked)
        in.push_back({.kind = InputSpec::mask, .shape = {x[0], x[1]}});
      else
        in.push_back({.kind = InputSpec::absent, .shape = {}});
      return in;
    };
    return {{"fields", with({3, 7, 2}, false), Attrs{}},
            {"masked", with({2, 9, 3}, true), Attrs{}},
            {"one sample", with({1, 8}, false), Attrs{}},
            {"scalars", with({5}, false), Attrs{}},
            {"masked scalars", with({2, 12}, true), Attrs{}},
            {"split", with({2, 1500, 2}, true, false), Attrs{}},
            {"a sample without tokens",
             {{.shape = {2, 3, 4}},
              {.shape = {2, 3, 4}},
              {.kind = InputSpec::values, .shape = {2, 3}, .fixed = {0, 0, 0, 1, 0, 1}, .fixed_dtype = DType::u8}},
             Attrs{}}};
  }
};
FLARE_REGISTER_OP(RelativeL2);

/// Activations and data of different precision meet in the wider one.
std::pair<Tensor, Tensor> same_dtype(const Tensor& a, const Tensor& b) {
  if (a.dtype() == b.dtype()) return {a, b};
  const DType wide = a.dtype() == DType::f64 || b.dtype() == DType::f64 ? DType::f64 : DType::f32;
  return {cast(a, wide), cast(b, wide)};
}

}  // namespace

Tensor mse(const Tensor& pred, const Tensor& target) {
  const auto [p, t] = same_dtype(pred, target);
  return apply<Mse>({p, t});
}
Tensor relative_l2(const Tensor& pred, const Tensor& target, const Tensor& mask) {
  const auto [p, t] = same_dtype(pred, target);
  return apply<RelativeL2>({p, t, mask});
}

}  // namespace flare
