#include "ops/reduce.h"

#include "autograd/op.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/reduce.cuh"
#endif

namespace flare {
namespace {

/// x seen as [outer, reduce, inner].
struct Layout {
  int64_t outer = 1, reduce = 1, inner = 1;
};

Layout layout_of(const Shape& x, int first, int count) {
  Layout l;
  for (int i = 0; i < x.ndim(); ++i) (i < first ? l.outer : i < first + count ? l.reduce : l.inner) *= x[i];
  return l;
}

#if defined(FLARE_CUDA)
template <class T> struct RowTerm {
  const T* x;
  int64_t n;
  __device__ void operator()(int64_t row, int64_t i, float (&sums)[1]) const { sums[0] += static_cast<float>(x[row * n + i]); }
};
template <class T> struct WriteScaled {
  T* y;
  float scale;
  __device__ void operator()(int64_t row, const float (&sums)[1]) const { y[row] = static_cast<T>(sums[0] * scale); }
};
template <class T> struct SpreadValue {
  const T* x;
  int64_t inner;
  float scale;
  template <int kVec> __device__ void operator()(int64_t o, int64_t, int64_t i, float (&v)[kVec]) const {
    load_vec<kVec>(x + o * inner + i, v);
    for (int j = 0; j < kVec; ++j) v[j] *= scale;
  }
};
#endif

/// y[o,r,i] = scale·x[o,i]: the adjoint of a sum over an axis.
struct Spread {
  static constexpr const char* name = "spread";
  struct Attrs {
    Shape shape;
    int first = 0, count = 1;
    double scale = 1;
  };
  static constexpr auto keeps = Keep::nothing;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    check(is_float(in[0].dtype()), "spread: needs a floating dtype, got ", in[0].dtype());
    const Layout l = layout_of(a.shape, a.first, a.count);
    check(in[0].numel() == l.outer * l.inner, "spread: x ", in[0].shape(), " does not fit ", a.shape, " without ", a.count,
          " axes from ", a.first);
    return {{a.shape, in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const Layout l = layout_of(a.shape, a.first, a.count);
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      const A scale = static_cast<A>(a.scale);
      T* y = out[0].data<T>();
      if (l.inner == 1)
        fill_layout_cpu(y, l.outer, 1, l.reduce, [&](int64_t o, int64_t, int64_t) { return static_cast<A>(x[o]) * scale; });
      else
        fill_layout_cpu(y, l.outer, l.reduce, l.inner,
                        [&](int64_t o, int64_t, int64_t i) { return static_cast<A>(x[o * l.inner + i]) * scale; });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const Layout l = layout_of(a.shape, a.first, a.count);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      fill_layout(name, out[0].data<T>(), l.outer, l.reduce, l.inner,
                  SpreadValue<T>{in[0].data<T>(), l.inner, static_cast<float>(a.scale)},
                  fits_vec(in[0].raw(), l.inner, sizeof(T), 4), stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a);
  static std::vector<Sample> samples() {
    return {{"middle axis", {{.shape = {2, 5}}}, Attrs{{2, 3, 5}, 1, 1, 0.5}},
            {"leading axes, width 8", {{.shape = {8}}}, Attrs{{3, 7, 8}, 0, 2, -2}},
            {"last axis", {{.shape = {4, 1}}}, Attrs{{4, 33}, 1, 1, 1}},
            {"scalar", {{.shape = {}}}, Attrs{{3, 4}, 0, 2, 1}}};
  }
};
FLARE_REGISTER_OP(Spread);

/// Sum (times `scale`) or mean over `count` neighbouring axes from `first`; `kept` extents of 1 stay in their place.
struct ReduceAttrs {
  int first = 0, count = 1, kept = 0;
  double scale = 1;
};

template <bool kMean> struct SumOrMean {
  static constexpr const char* name = kMean ? "mean" : "sum";
  using Attrs = ReduceAttrs;
  static constexpr auto keeps = Keep::nothing;
  static double scale_of(const Layout& l, const Attrs& a) { return kMean ? a.scale / static_cast<double>(l.reduce) : a.scale; }
  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Tensor& x = in[0];
    check(is_float(x.dtype()), name, ": needs a floating dtype, got ", x.dtype());
    check(a.first >= 0 && a.count >= 0 && a.first + a.count <= x.ndim(), name, ": axes ", a.first, " to ", a.first + a.count - 1,
          " are outside x ", x.shape());
    check(!kMean || layout_of(x.shape(), a.first, a.count).reduce > 0, name, ": nothing to average in x ", x.shape());
    Shape y;
    for (int i = 0; i < a.first; ++i) y.push_back(x.size(i));
    for (int i = 0; i < a.kept; ++i) y.push_back(1);
    for (int i = a.first + a.count; i < x.ndim(); ++i) y.push_back(x.size(i));
    return {{y, x.dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const Layout l = layout_of(in[0].shape(), a.first, a.count);
    const double scale = scale_of(l, a);
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      T* y = out[0].data<T>();
      axis_sums_cpu(in[0].data<T>(), nullptr, l.outer, l.reduce, l.inner,
                    [&](int64_t o, int64_t i, double total) { y[o * l.inner + i] = static_cast<T>(total * scale); });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const Layout l = layout_of(in[0].shape(), a.first, a.count);
    const double scale = scale_of(l, a);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      if (l.inner == 1)
        reduce_rows<1>(name, l.outer, l.reduce, RowTerm<T>{x, l.reduce}, WriteScaled<T>{y, static_cast<float>(scale)}, stream);
      else
        column_sums(name, x, nullptr, y, l.outer, l.reduce, l.inner, scale, nullptr, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    const Shape& x = s.in_shape(0);
    return {apply<Spread>({gy}, {x, a.first, a.count, scale_of(layout_of(x, a.first, a.count), a)})};
  }
  static std::vector<Sample> samples() {
    return {{"last axis", {{.shape = {5, 33}}}, Attrs{1, 1, 0}},
            {"middle axis, kept", {{.shape = {3, 7, 5}}}, Attrs{1, 1, 1}},
            {"leading axes, width 8", {{.shape = {3, 9, 8}}}, Attrs{0, 2, 0}},
            {"extent 1", {{.shape = {1, 4}}}, Attrs{0, 1, 0}},
            {"transposed", {{.shape = {6, 9}, .transposed = true}}, Attrs{0, 1, 0}},
            {"split columns", {{.shape = {1, 2100, 4}, .lo = 0.5, .hi = 1.5, .differentiable = false}}, Attrs{1, 1, 0}},
            {"split row", {{.shape = {2, 9001}, .lo = 0.5, .hi = 1.5, .differentiable = false}}, Attrs{1, 1, 0}},
            {"everything", {{.shape = {2, 3, 4, 5}, .lo = 0.5, .hi = 1.5}}, Attrs{0, 4, 0}}};
  }
};
using Sum = SumOrMean<false>;
using Mean = SumOrMean<true>;
FLARE_REGISTER_OP(Sum);
FLARE_REGISTER_OP(Mean);

Grads Spread::vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
  return {apply<Sum>({gy}, {a.first, a.count, 0, a.scale}).viewed_as(s.in_shape(0))};
}

/// Sums runs of neighbouring stretched axes, last run first so that earlier axis numbers stay valid.
struct SumTo {
  static constexpr const char* name = "sum_to";
  struct Attrs {
    Shape shape;
  };
  static Tensor compose(Inputs in, const Attrs& a) {
    Tensor x = in[0];
    const Shape from = x.shape(), &to = a.shape;
    const int extra = from.ndim() - to.ndim();
    bool fits = extra >= 0;
    for (int i = 0; fits && i < to.ndim(); ++i) fits = to[i] == from[i + extra] || to[i] == 1;
    check(fits, "sum_to: ", to, " does not broadcast to x ", from);
    const auto shrinks = [&](int i) { return i < extra || (to[i - extra] == 1 && from[i] != 1); };
    for (int last = from.ndim() - 1; last >= 0; --last) {
      if (!shrinks(last)) continue;
      int first = last;
      while (first > 0 && shrinks(first - 1)) --first;
      const int kept = last + 1 - std::max(first, extra);
      x = apply<Sum>({x}, {first, last + 1 - first, std::max(kept, 0)});
      last = first;
    }
    return x;
  }
  static std::vector<Sample> samples() {
    return {{"leading axes", {{.shape = {2, 5, 3}}}, Attrs{{3}}},
            {"first axis", {{.shape = {4, 5, 3}}}, Attrs{{5, 3}}},
            {"inner ones", {{.shape = {2, 3, 4, 5}}}, Attrs{{3, 1, 5}}},
            {"first and last", {{.shape = {2, 3, 4}}}, Attrs{{1, 3, 1}}},
            {"scalar", {{.shape = {3, 4}, .lo = 0.5, .hi = 1.5}}, Attrs{{}}}};
  }
};
FLARE_REGISTER_OP(SumTo);

}  // namespace

Tensor sum(const Tensor& x, int axis, bool keepdim) { return apply<Sum>({x}, {x.shape().axis(axis), 1, keepdim}); }
Tensor mean(const Tensor& x, int axis, bool keepdim) { return apply<Mean>({x}, {x.shape().axis(axis), 1, keepdim}); }
Tensor sum_all(const Tensor& x) { return apply<Sum>({x}, {0, x.ndim(), 0}); }
Tensor mean_all(const Tensor& x) { return apply<Mean>({x}, {0, x.ndim(), 0}); }
Tensor sum_to(const Tensor& x, const Shape& shape) { return x.shape() == shape ? x : apply<SumTo>({x}, {shape}); }

}  // namespace flare
