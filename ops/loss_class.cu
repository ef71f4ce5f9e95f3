// Losses and counts for class labels; ops/loss_field.cu has those for fields.
#include <limits>

#include "autograd/op.h"
#include "core/math.h"
#include "ops/loss.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/loss.cuh"
#endif

namespace flare {
namespace {

void check_labels(const char* name, const Tensor& labels, int64_t rows, int64_t k) {
  const int64_t* y = labels.data<int64_t>();
  for (int64_t b = 0; b < rows; ++b)
    check<DataError>(y[b] >= 0 && y[b] < k, name, ": label ", y[b], " of sample ", b, " is outside [0, ", k, ")");
}

/// glogits[b,k] = gy/B · (exp(logits[b,k] - lse[b]) - [k = label b]).  Inputs logits, labels, lse, gy.
struct CrossEntropyBackward {
  static constexpr const char* name = "cross_entropy_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) { return {{in[0].shape(), in[0].dtype()}}; }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t rows = in[0].size(0), k = in[0].size(1);
    const int64_t* labels = in[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      const A *lse = in[2].data<A>(), scale = *in[3].data<A>() / static_cast<A>(rows);
      fill_layout_cpu(out[0].data<T>(), rows, 1, k, [&](int64_t b, int64_t, int64_t i) {
        return scale * (exp_of(static_cast<A>(x[b * k + i]) - lse[b]) - A(labels[b] == i ? 1 : 0));
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t rows = in[0].size(0), k = in[0].size(1);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const CrossEntropySlope<T> value{
          in[0].data<T>(), in[1].data<int64_t>(), in[2].data<float>(), in[3].data<float>(), k, 1.0f / static_cast<float>(rows)};
      fill_layout(name, out[0].data<T>(), rows, 1, k, value, fits_vec(in[0].raw(), k, sizeof(T), 4), stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    const auto with = [](int64_t rows, int64_t k) {
      return std::vector<InputSpec>{{.shape = {rows, k}},
                                    {.kind = InputSpec::index, .shape = {rows}, .lo = 0, .hi = double(k)},
                                    {.kind = InputSpec::param, .shape = {rows}, .lo = 2, .hi = 3},
                                    {.kind = InputSpec::param, .shape = {}, .lo = 1, .hi = 2}};
    };
    return {{"ten classes", with(7, 10), Attrs{}}, {"width 40", with(3, 40), Attrs{}}};
  }
};
FLARE_REGISTER_OP(CrossEntropyBackward);

/// Output 1: log Σ exp(logits) of each row.
struct CrossEntropy {
  static constexpr const char* name = "cross_entropy";
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor &x = in[0], &labels = in[1];
    check(is_float(x.dtype()), name, ": needs floating logits, got ", x.dtype());
    check(x.ndim() == 2 && x.size(0) > 0 && x.size(1) > 0, name, ": logits must be [B,K], both at least 1, got ", x.shape());
    check(labels.dtype() == DType::i64 && labels.shape() == Shape{x.size(0)}, name, ": labels must be i64 [", x.size(0), "], got ",
          labels.dtype(), " ", labels.shape());
    return {{{}, param_dtype(x.dtype())}, {{x.size(0)}, param_dtype(x.dtype())}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t rows = in[0].size(0), k = in[0].size(1);
    check_labels(name, in[1], rows, k);
    const int64_t* labels = in[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      A* lse = out[1].data<A>();
      parallel_for(rows, row_grain(8 * k), [&](int64_t begin, int64_t end) {
        for (int64_t b = begin; b < end; ++b) {
          A top = -std::numeric_limits<A>::infinity();
          for (int64_t i = 0; i < k; ++i) top = std::max(top, static_cast<A>(x[b * k + i]));
          lse[b] = top + log_of(lane_sum<A>(0, k, [&](int64_t i) { return exp_of(static_cast<A>(x[b * k + i]) - top); }));
        }
      });
      row_sums_cpu<A>(
          1, rows, [&](int64_t, int64_t b) { return lse[b] - static_cast<A>(x[b * k + labels[b]]); },
          [&](int64_t, double total) { *out[0].data<A>() = static_cast<A>(total / static_cast<double>(rows)); });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      cross_entropy_cuda(name, in[0].data<T>(), in[1].data<int64_t>(), out[0].data<float>(), out[1].data<float>(), in[0].size(0),
                         in[0].size(1), stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    return {apply<CrossEntropyBackward>({s.in(0), s.in(1), s.out(1), gy}), {}};
  }
  static std::vector<Sample> samples() {
    const auto with = [](int64_t rows, int64_t k, bool transposed = false) {
      return std::vector<InputSpec>{{.shape = {rows, k}, .lo = -2, .hi = 2, .transposed = transposed},
                                    {.kind = InputSpec::index, .shape = {rows}, .lo = 0, .hi = double(k)}};
    };
    return {{"ten classes", with(7, 10), Attrs{}},
            {"one sample", with(1, 3), Attrs{}},
            {"width 40", with(9, 40), Attrs{}},
            {"transposed", with(5, 6, true), Attrs{}},
            {"300 samples", with(300, 2), Attrs{}}};
  }
};
FLARE_REGISTER_OP(CrossEntropy);

/// glogits[b] = gy/B · (σ(logits[b]) - labels[b]).  Inputs logits, labels, gy.
struct BceBackward {
  static constexpr const char* name = "bce_with_logits_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) { return {{in[0].shape(), in[0].dtype()}}; }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t n = in[0].numel();
    const int64_t* labels = in[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      const A scale = *in[2].data<A>() / static_cast<A>(n);
      fill_layout_cpu(out[0].data<T>(), 1, 1, n, [&](int64_t, int64_t, int64_t i) {
        return scale * (sigmoid_of(static_cast<A>(x[i])) - static_cast<A>(labels[i]));
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t n = in[0].numel();
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const BceSlope<T> value{in[0].data<T>(), in[1].data<int64_t>(), in[2].data<float>(), 1.0f / static_cast<float>(n)};
      fill_layout(name, out[0].data<T>(), 1, 1, n, value, fits_vec(in[0].raw(), n, sizeof(T), 4), stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    return {{"seven",
             {{.shape = {7}, .lo = -3, .hi = 3},
              {.kind = InputSpec::index, .shape = {7}, .lo = 0, .hi = 2},
              {.kind = InputSpec::param, .shape = {}, .lo = 1, .hi = 2}},
             Attrs{}}};
  }
};
FLARE_REGISTER_OP(BceBackward);

struct BceWithLogits {
  static constexpr const char* name = "bce_with_logits";
  static constexpr auto keeps = Keep::inputs;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor &x = in[0], &labels = in[1];
    check(is_float(x.dtype()), name, ": needs floating logits, got ", x.dtype());
    check((x.ndim() == 1 || (x.ndim() == 2 && x.size(1) == 1)) && x.size(0) > 0, name, ": logits must be [B] or [B,1], got ",
          x.shape());
    check(labels.dtype() == DType::i64 && labels.shape() == Shape{x.size(0)}, name, ": labels must be i64 [", x.size(0), "], got ",
          labels.dtype(), " ", labels.shape());
    return {{{}, param_dtype(x.dtype())}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t n = in[0].numel();
    check_labels(name, in[1], n, 2);
    const int64_t* labels = in[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      row_sums_cpu<A>(
          1, n,
          [&](int64_t, int64_t i) {
            const A v = static_cast<A>(x[i]);
            return std::max(v, A(0)) - v * static_cast<A>(labels[i]) + std::log1p(std::exp(-std::abs(v)));
          },
          [&](int64_t, double total) { *out[0].data<A>() = static_cast<A>(total / static_cast<double>(n)); });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t n = in[0].numel();
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      reduce_rows<1>(name, 1, n, BceTerm<T>{in[0].data<T>(), in[1].data<int64_t>()},
                     WriteTimes{out[0].data<float>(), 1.0f / static_cast<float>(n)}, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) { return {apply<BceBackward>({s.in(0), s.in(1), gy}), {}}; }
  static std::vector<Sample> samples() {
    const auto with = [](Shape x) {
      return std::vector<InputSpec>{{.shape = x, .lo = -3, .hi = 3}, {.kind = InputSpec::index, .shape = {x[0]}, .lo = 0, .hi = 2}};
    };
    return {{"seven", with({7}), Attrs{}}, {"one", with({1}), Attrs{}}, {"column", with({33, 1}), Attrs{}}};
  }
};
FLARE_REGISTER_OP(BceWithLogits);

struct CorrectCount {
  static constexpr const char* name = "correct_count";
  static constexpr const char* not_differentiable = "a count is piecewise constant";
  struct Attrs {};
  static int64_t width(const Shape& x) { return x.ndim() == 1 ? 1 : x[1]; }
  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor &x = in[0], &labels = in[1];
    check(is_float(x.dtype()), name, ": needs floating logits, got ", x.dtype());
    check(x.ndim() == 1 || (x.ndim() == 2 && x.size(1) > 0), name, ": logits must be [B,K] or [B], got ", x.shape());
    check(labels.dtype() == DType::i64 && labels.shape() == Shape{x.size(0)}, name, ": labels must be i64 [", x.size(0), "], got ",
          labels.dtype(), " ", labels.shape());
    return {{{}, DType::i64}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t rows = in[0].size(0), k = width(in[0].shape());
    const int64_t* labels = in[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      int64_t correct = 0;
      for (int64_t b = 0; b < rows; ++b) {
        int64_t guess = -1;
        if (k == 1) {
          const A v = static_cast<A>(x[b]);
          guess = v > 0 ? 1 : v == v ? 0 : -1;
        } else {
          A best = 0;
          for (int64_t i = 0; i < k; ++i) {
            const A v = static_cast<A>(x[b * k + i]);
            if (v == v && (guess < 0 || v > best)) {
              best = v;
              guess = i;
            }
          }
        }
        correct += guess >= 0 && guess == labels[b];
      }
      *out[0].data<int64_t>() = correct;
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch(name, correct_count_kernel<T>, {dim3(1), dim3(512)}, stream, in[0].data<T>(), in[1].data<int64_t>(),
             out[0].data<int64_t>(), in[0].size(0), width(in[0].shape()));
    });
  }
#endif
  static std::vector<Sample> samples() {
    return {{"ten classes", {{.shape = {70, 10}}, {.kind = InputSpec::index, .shape = {70}, .lo = 0, .hi = 10}}, Attrs{}},
            {"two classes, one logit", {{.shape = {33, 1}}, {.kind = InputSpec::index, .shape = {33}, .lo = 0, .hi = 2}}, Attrs{}},
            {"more rows than threads", {{.shape = {700}}, {.kind = InputSpec::index, .shape = {700}, .lo = 0, .hi = 2}}, Attrs{}}};
  }
};
FLARE_REGISTER_OP(CorrectCount);

}  // namespace

Tensor cross_entropy(const Tensor& logits, const Tensor& labels) { return apply<CrossEntropy>({logits, labels}); }
Tensor bce_with_logits(const Tensor& logits, const Tensor& labels) { return apply<BceWithLogits>({logits, labels}); }
Tensor correct_count(const Tensor& logits, const Tensor& labels) { return apply<CorrectCount>({logits, labels}); }

}  // namespace flare
