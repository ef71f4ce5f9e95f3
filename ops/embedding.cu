#include "ops/embedding.h"

#include <optional>

#include "autograd/op.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/embedding.cuh"
#endif

namespace flare {
namespace {

/// gweight[v,c] = Σ gy[t,c] over the tokens t with id v.  Inputs tokens, gy; gweight has param_dtype(gy).
struct EmbeddingBackward {
  static constexpr const char* name = "embedding_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  struct Attrs {
    int64_t v_count = 0;
  };
  static OutSpecs infer(Inputs in, const Attrs& a) { return {{{a.v_count, in[1].size(-1)}, param_dtype(in[1].dtype())}}; }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int64_t n = in[0].numel(), c = in[1].size(-1);
    const int64_t* tokens = in[0].data<int64_t>();
    dispatch_float(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* gy = in[1].data<T>();
      A* gw = out[0].data<A>();
      // Tiles of columns, so that each sum is one thread's and in token order.
      parallel_for(c, 32, [&](int64_t begin, int64_t end) {
        for (int64_t v = 0; v < a.v_count; ++v) std::fill(gw + v * c + begin, gw + v * c + end, A(0));
        for (int64_t t = 0; t < n; ++t) {
          A* to = gw + tokens[t] * c;
          const T* g = gy + t * c;
          for (int64_t i = begin; i < end; ++i) to[i] += static_cast<A>(g[i]);
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const int64_t n = in[0].numel(), c = in[1].size(-1);
    if (a.v_count == 0 || c == 0) return;
    dispatch_float_cuda(in[1].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      embedding_backward_cuda(name, in[0].data<int64_t>(), in[1].data<T>(), out[0].data<float>(), n, a.v_count, c, stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    const auto with = [](int64_t n, int64_t v, int64_t c) {
      return Sample{cat(n, " tokens of ", v, ", width ", c),
                    {{.kind = InputSpec::index, .shape = {n}, .lo = 0, .hi = double(v)}, {.shape = {n, c}}},
                    Attrs{v}};
    };
    return {with(9, 4, 5), with(700, 16, 40), with(600, 257, 8), with(300, 2500, 3)};
  }
};
FLARE_REGISTER_OP(EmbeddingBackward);

struct Embedding {
  static constexpr const char* name = "embedding";
  static constexpr auto keeps = Keep::inputs;
  struct Attrs {
    std::optional<DType> out_dtype;
  };  // absent: that of weight
  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Tensor &tokens = in[0], &weight = in[1];
    check(tokens.dtype() == DType::i64, name, ": tokens must be i64, got ", tokens.dtype());
    check(is_float(weight.dtype()) && weight.ndim() == 2, name, ": weight must be floating [V,C], got ", weight.dtype(), " ",
          weight.shape());
    const DType y = a.out_dtype.value_or(weight.dtype());
    check(is_float(y) && param_dtype(y) == weight.dtype(), name, ": weight must be ", param_dtype(y), " beside ", y, ", got ",
          weight.dtype());
    Shape shape = tokens.shape();
    shape.push_back(weight.size(1));
    return {{shape, y}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t n = in[0].numel(), v_count = in[1].size(0), c = in[1].size(1);
    const int64_t* tokens = in[0].data<int64_t>();
    for (int64_t t = 0; t < n; ++t)
      check<DataError>(tokens[t] >= 0 && tokens[t] < v_count, name, ": token ", tokens[t], " at position ", t,
                       " is outside the vocabulary [0, ", v_count, ")");
    dispatch_float(out[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const A* weight = in[1].data<A>();
      fill_layout_cpu(out[0].data<T>(), n, 1, c, [&](int64_t t, int64_t, int64_t i) { return weight[tokens[t] * c + i]; });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t n = in[0].numel(), v_count = in[1].size(0), c = in[1].size(1);
    dispatch_float_cuda(out[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const RowOfToken<float> value{in[0].data<int64_t>(), in[1].data<float>(), v_count, c};
      fill_layout(name, out[0].data<T>(), n, 1, c, value, fits_vec(in[1].raw(), c, sizeof(float), 4), stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    return {{}, apply<EmbeddingBackward>({s.in(0), gy}, {s.in_shape(1)[0]})};
  }
  static std::vector<Sample> samples() {
    const auto with = [](Shape tokens, int64_t v, int64_t c) {
      return Sample{
          cat(tokens, " of ", v, ", width ", c),
          {{.kind = InputSpec::index, .shape = tokens, .lo = 0, .hi = double(v)}, {.kind = InputSpec::param, .shape = {v, c}}},
          Attrs{}};
    };
    return {with({3, 7}, 5, 5), with({2, 33}, 16, 32), with({1}, 3, 8), with({600}, 4, 4)};
  }
};
FLARE_REGISTER_OP(Embedding);

}  // namespace

Tensor embedding(const Tensor& tokens, const Tensor& weight, DType out_dtype) {
  return apply<Embedding>({tokens, weight}, {out_dtype});
}

}  // namespace flare
