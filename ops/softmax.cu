#include "ops/softmax.h"

#include <limits>

#include "autograd/op.h"
#include "core/math.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/softmax.cuh"
#endif

namespace flare {
namespace {

struct AxisAttrs {
  int axis = 0;
};

/// x seen as [outer, n, inner] around an axis.
struct AxisLayout {
  int64_t outer = 1, n = 1, inner = 1;
};
AxisLayout around(const Shape& x, int axis) {
  AxisLayout l;
  for (int i = 0; i < x.ndim(); ++i) (i < axis ? l.outer : i == axis ? l.n : l.inner) *= x[i];
  return l;
}

/// Calls body(index of element 0) for every (outer, inner) line; elements of a line are `inner` apart.
template <class F> void each_line(const AxisLayout& l, const F& body) {
  parallel_for(l.outer * l.inner, row_grain(8 * l.n), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) body(u / l.inner * l.n * l.inner + u % l.inner);
  });
}

/// gx = y⊙(gy - Σ y⊙gy) for softmax, gx = gy - exp(y)·Σ gy for log-softmax.  Inputs y, gy.
template <bool kLog> struct SoftmaxBackward {
  static constexpr const char* name = kLog ? "log_softmax_backward" : "softmax_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  using Attrs = AxisAttrs;
  static OutSpecs infer(Inputs in, const Attrs&) {
    check(in[0].shape() == in[1].shape() && in[0].dtype() == in[1].dtype(), name, ": y ", in[0].dtype(), " ", in[0].shape(),
          " and gy ", in[1].dtype(), " ", in[1].shape(), " differ");
    return {{in[0].shape(), in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const AxisLayout l = around(in[0].shape(), a.axis);
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T *y = in[0].data<T>(), *gy = in[1].data<T>();
      T* gx = out[0].data<T>();
      each_line(l, [&](int64_t at) {
        const A total = lane_sum<A>(0, l.n, [&](int64_t i) {
          const int64_t j = at + i * l.inner;
          return kLog ? static_cast<A>(gy[j]) : static_cast<A>(y[j]) * static_cast<A>(gy[j]);
        });
        for (int64_t i = 0; i < l.n; ++i) {
          const int64_t j = at + i * l.inner;
          const A yj = static_cast<A>(y[j]), g = static_cast<A>(gy[j]);
          gx[j] = static_cast<T>(kLog ? g - exp_of(yj) * total : yj * (g - total));
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const AxisLayout l = around(in[0].shape(), a.axis);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      softmax_backward_cuda<kLog>(name, in[0].data<T>(), in[1].data<T>(), out[0].data<T>(), l.outer, l.n, l.inner, stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    const auto two = [](Shape s) { return std::vector<InputSpec>{{.shape = s, .lo = -2, .hi = 0.5}, {.shape = s}}; };
    return {{"rows", two({5, 33}), Attrs{1}}, {"middle axis", two({3, 7, 5}), Attrs{1}}, {"long row", two({2, 1500}), Attrs{1}}};
  }
};

template <bool kLog> struct SoftmaxOp {
  static constexpr const char* name = kLog ? "log_softmax" : "softmax";
  static constexpr auto keeps = Keep::outputs;
  using Attrs = AxisAttrs;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    check(is_float(in[0].dtype()), name, ": needs a floating dtype, got ", in[0].dtype());
    check(a.axis >= 0 && a.axis < in[0].ndim(), name, ": axis ", a.axis, " is outside x ", in[0].shape());
    return {{in[0].shape(), in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const AxisLayout l = around(in[0].shape(), a.axis);
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      each_line(l, [&](int64_t at) {
        const auto value = [&](int64_t i) { return static_cast<A>(x[at + i * l.inner]); };
        A top = -std::numeric_limits<A>::infinity();
        for (int64_t i = 0; i < l.n; ++i) top = std::max(top, value(i));
        const A total = lane_sum<A>(0, l.n, [&](int64_t i) { return exp_of(value(i) - top); });
        const A shift = kLog ? top + log_of(total) : top, scale = A(1) / total;
        for (int64_t i = 0; i < l.n; ++i)
          y[at + i * l.inner] = static_cast<T>(kLog ? value(i) - shift : exp_of(value(i) - shift) * scale);
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const AxisLayout l = around(in[0].shape(), a.axis);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      softmax_cuda<kLog>(name, in[0].data<T>(), out[0].data<T>(), l.outer, l.n, l.inner, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) { return {apply<SoftmaxBackward<kLog>>({s.out(), gy}, a)}; }
  static Tensor reference(Inputs in, const Attrs& a) {
    const Tensor shifted = in[0] - max(in[0], a.axis, true);
    const Tensor e = exp(shifted), total = sum(e, a.axis, true);
    return kLog ? shifted - log(total) : e / total;
  }
  static std::vector<Sample> samples() {
    const auto one = [](Shape s, bool transposed = false) {
      return std::vector<InputSpec>{{.shape = s, .lo = -3, .hi = 3, .transposed = transposed}};
    };
    return {{"rows", one({5, 33}), Attrs{1}},
            {"middle axis", one({3, 7, 5}), Attrs{1}},
            {"first axis", one({9, 4}), Attrs{0}},
            {"one element", one({4, 1}), Attrs{1}},
            {"transposed", one({6, 9}, true), Attrs{1}},
            {"long row", {{.shape = {2, 1500}, .lo = -3, .hi = 3, .differentiable = false}}, Attrs{1}}};
  }
};
using Softmax = SoftmaxOp<false>;
using LogSoftmax = SoftmaxOp<true>;
FLARE_REGISTER_OP(Softmax);
FLARE_REGISTER_OP(LogSoftmax);
FLARE_REGISTER_OP(SoftmaxBackward<false>);
FLARE_REGISTER_OP(SoftmaxBackward<true>);

}  // namespace

Tensor softmax(const Tensor& x, int axis) { return apply<Softmax>({x}, {x.shape().axis(axis)}); }
Tensor log_softmax(const Tensor& x, int axis) { return apply<LogSoftmax>({x}, {x.shape().axis(axis)}); }

}  // namespace flare
