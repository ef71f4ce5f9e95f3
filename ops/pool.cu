#include "ops/pool.h"

#include "autograd/op.h"
#include "ops/reduce.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "ops/kernels/reduce.cuh"
#endif

namespace flare {
namespace {

#if defined(FLARE_CUDA)
struct CountMask {
  const uint8_t* mask;
  int64_t n;
  __device__ void operator()(int64_t b, int64_t i, float (&sums)[1]) const { sums[0] += mask[b * n + i] ? 1.0f : 0.0f; }
};
struct WriteInverse {
  float* y;
  __device__ void operator()(int64_t b, const float (&sums)[1]) const { y[b] = sums[0] > 0 ? 1 / sums[0] : 0.0f; }
};
template <class T> struct MaskedSpread {
  const T* gy;
  const uint8_t* mask;
  const float* inverse;
  int64_t n, c;
  template <int kVec> __device__ void operator()(int64_t b, int64_t token, int64_t i, float (&v)[kVec]) const {
    const float scale = mask[b * n + token] ? inverse[b] : 0.0f;
    load_vec<kVec>(gy + b * c + i, v);
    for (int j = 0; j < kVec; ++j) v[j] = scale != 0 ? v[j] * scale : 0.0f;
  }
};
#endif

/// gx[b,n,c] = mask[b,n]·inverse[b]·gy[b,c]
struct MaskedMeanBackward {
  static constexpr const char* name = "masked_mean_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor &gy = in[0], &mask = in[1];
    return {{{mask.size(0), mask.size(1), gy.size(1)}, gy.dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t b_count = in[1].size(0), n = in[1].size(1), c = in[0].size(1);
    const uint8_t* mask = in[1].data<uint8_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* gy = in[0].data<T>();
      const A* inverse = in[2].data<A>();
      fill_layout_cpu(out[0].data<T>(), b_count, n, c, [&](int64_t b, int64_t token, int64_t i) {
        return mask[b * n + token] ? inverse[b] * static_cast<A>(gy[b * c + i]) : A(0);
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t b_count = in[1].size(0), n = in[1].size(1), c = in[0].size(1);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const MaskedSpread<T> value{in[0].data<T>(), in[1].data<uint8_t>(), in[2].data<float>(), n, c};
      fill_layout(name, out[0].data<T>(), b_count, n, c, value, fits_vec(in[0].raw(), c, sizeof(T), 4), stream);
    });
  }
#endif
  static std::vector<Sample> samples() {
    return {{"width 5",
             {{.shape = {2, 5}}, {.kind = InputSpec::mask, .shape = {2, 7}}, {.kind = InputSpec::param, .shape = {2}}},
             Attrs{}},
            {"width 8",
             {{.shape = {3, 8}}, {.kind = InputSpec::mask, .shape = {3, 33}}, {.kind = InputSpec::param, .shape = {3}}},
             Attrs{}}};
  }
};
FLARE_REGISTER_OP(MaskedMeanBackward);

/// Output 1: the inverse token count of each sample [B] (f32, f64 beside f64), 0 for a sample without tokens.
struct MaskedMean {
  static constexpr const char* name = "masked_mean";
  static constexpr auto keeps = Keep::both;
  struct Attrs {};
  static OutSpecs infer(Inputs in, const Attrs&) {
    const Tensor &x = in[0], &mask = in[1];
    check(is_float(x.dtype()), name, ": needs a floating dtype, got ", x.dtype());
    check(x.ndim() == 3, name, ": x must be [B,N,C], got ", x.shape());
    check(mask.dtype() == DType::u8 && mask.ndim() == 2 && mask.size(0) == x.size(0) && mask.size(1) == x.size(1), name,
          ": mask must be u8 [", x.size(0), ",", x.size(1), "], got ", mask.dtype(), " ", mask.shape());
    return {{{x.size(0), x.size(2)}, x.dtype()}, {{x.size(0)}, param_dtype(x.dtype())}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) {
    const int64_t n = in[0].size(1), c = in[0].size(2);
    const uint8_t* mask = in[1].data<uint8_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      A* inverse = out[1].data<A>();
      T* y = out[0].data<T>();
      row_sums_cpu<A>(
          in[0].size(0), n, [&](int64_t b, int64_t i) { return A(mask[b * n + i] ? 1 : 0); },
          [&](int64_t b, double count) { inverse[b] = count > 0 ? static_cast<A>(1 / count) : A(0); });
      axis_sums_cpu(in[0].data<T>(), mask, in[0].size(0), n, c, [&](int64_t b, int64_t i, double total) {
        y[b * c + i] = static_cast<T>(total * static_cast<double>(inverse[b]));
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream& stream) {
    const int64_t b_count = in[0].size(0), n = in[0].size(1), c = in[0].size(2);
    const uint8_t* mask = in[1].data<uint8_t>();
    float* inverse = out[1].data<float>();
    reduce_rows<1>(name, b_count, n, CountMask{mask, n}, WriteInverse{inverse}, stream);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      column_sums(name, in[0].data<T>(), mask, out[0].data<T>(), b_count, n, c, 1.0, inverse, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    return {apply<MaskedMeanBackward>({gy, s.in(1), s.out(1)}), {}};
  }
  static std::vector<Sample> samples() {
    const auto with = [](Shape x) {
      return std::vector<InputSpec>{{.shape = x}, {.kind = InputSpec::mask, .shape = {x[0], x[1]}}};
    };
    auto transposed = with({2, 6, 5});
    transposed[0].transposed = true;
    auto long_one = with({2, 1500, 8});
    long_one[0].differentiable = false;
    return {{"odd", with({3, 7, 5}), Attrs{}},
            {"one token", with({2, 1, 8}), Attrs{}},
            {"width 1", with({2, 9, 1}), Attrs{}},
            {"transposed", transposed, Attrs{}},
            {"split over tokens", long_one, Attrs{}},
            {"a sample without tokens",
             {{.shape = {2, 3, 4}},
              {.kind = InputSpec::values, .shape = {2, 3}, .fixed = {0, 0, 0, 1, 0, 1}, .fixed_dtype = DType::u8}},
             Attrs{}}};
  }
};
FLARE_REGISTER_OP(MaskedMean);

}  // namespace

Tensor masked_mean(const Tensor& x, const Tensor& mask) {
  check(x.ndim() == 3, "masked_mean: x must be [B,N,C], got ", x.shape());
  return mask ? apply<MaskedMean>({x, mask}) : mean(x, 1);
}

}  // namespace flare
