#include "ops/dropout.h"

#include "autograd/op.h"
#include "core/rng.h"
#include "ops/reduce_cpu.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#include "ops/kernels/vec.cuh"
#endif

namespace flare {
namespace {

#if defined(FLARE_CUDA)
/// One thread draws four words and writes four elements.
template <bool kWide, class T>
__global__ void dropout_kernel(const T* x, const int64_t* rng, T* y, int64_t n, float p, float scale, uint64_t site) {
  after_previous();
  const int64_t block = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x, e = block * 4;
  if (e >= n) return;
  const Philox4 words =
      philox(static_cast<uint64_t>(rng[0]), dropout_stream(site, static_cast<uint64_t>(rng[1])), static_cast<uint64_t>(block));
  if (kWide && e + 4 <= n) {
    float v[4];
    load_vec<4>(x + e, v);
    for (int j = 0; j < 4; ++j) v[j] = uniform_float(words.w[j]) >= p ? v[j] * scale : 0.0f;
    store_vec<4>(y + e, v);
  } else {
    for (int j = 0; j < 4 && e + j < n; ++j)
      y[e + j] = static_cast<T>(uniform_float(words.w[j]) >= p ? static_cast<float>(x[e + j]) * scale : 0.0f);
  }
}
#endif

struct Dropout {
  static constexpr const char* name = "dropout";
  static constexpr auto keeps = Keep::inputs;
  struct Attrs {
    double p = 0.5;
    uint64_t site = 0;
  };
  static OutSpecs infer(Inputs in, const Attrs& a) {
    check(is_float(in[0].dtype()), name, ": needs a floating dtype, got ", in[0].dtype());
    check(a.p >= 0 && a.p < 1, name, ": p must be in [0, 1), got ", a.p);
    check(in[1].defined(), name, ": rng is missing: it must be i64 [2] = {seed, step}");
    check(in[1].dtype() == DType::i64 && in[1].shape() == Shape{2}, name, ": rng must be i64 [2], got ", in[1].dtype(), " ",
          in[1].shape());
    return {{in[0].shape(), in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int64_t n = in[0].numel();
    const auto seed = static_cast<uint64_t>(in[1].data<int64_t>()[0]), step = static_cast<uint64_t>(in[1].data<int64_t>()[1]);
    const uint64_t stream = dropout_stream(a.site, step);
    const float p = static_cast<float>(a.p);
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const A scale = static_cast<A>(1 / (1 - a.p));
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      parallel_for((n + 3) / 4, 2048, [&](int64_t begin, int64_t end) {
        for (int64_t block = begin; block < end; ++block) {
          const Philox4 words = philox(seed, stream, static_cast<uint64_t>(block));
          const int64_t e = block * 4, count = std::min<int64_t>(4, n - e);
          for (int64_t j = 0; j < count; ++j)
            y[e + j] = static_cast<T>(uniform_float(words.w[j]) >= p ? static_cast<A>(x[e + j]) * scale : A(0));
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const int64_t n = in[0].numel();
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      const bool wide = fits_vec(x, 4, sizeof(T), 4) && fits_vec(y, 4, sizeof(T), 4);
      launch_early(name, wide ? dropout_kernel<true, T> : dropout_kernel<false, T>, cover((n + 3) / 4), stream, x,
                   in[1].data<int64_t>(), y, n, static_cast<float>(a.p), static_cast<float>(1 / (1 - a.p)), a.site);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) { return {apply<Dropout>({gy, s.in(1)}, a), {}}; }
  static std::vector<Sample> samples() {
    const auto with = [](Shape x, double seed, double step, bool transposed = false) {
      return std::vector<InputSpec>{{.shape = x, .lo = 0.5, .hi = 1.5, .transposed = transposed},
                                    {.kind = InputSpec::values, .shape = {2}, .fixed = {seed, step}}};
    };
    return {{"p 0.1", with({3, 7, 5}, 1, 2), Attrs{0.1, 0}},
            {"p 0.5", with({4, 32}, 7, 1000), Attrs{0.5, 12}},
            {"one element, p 0", with({1}, 0, 0), Attrs{0, 3}},
            {"transposed", with({6, 9}, 3, 4, true), Attrs{0.3, 1}}};
  }
};
FLARE_REGISTER_OP(Dropout);

}  // namespace

Tensor dropout(const Tensor& x, double p, const Tensor& rng, uint64_t site) {
  return p == 0 ? x : apply<Dropout>({x, rng}, {p, site});
}

}  // namespace flare
