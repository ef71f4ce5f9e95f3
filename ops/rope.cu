#include "ops/rope.h"

#include <algorithm>
#include <cmath>

#include "autograd/op.h"
#include "core/parallel.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#include "ops/kernels/rope.cuh"
#endif

namespace flare {

struct Rope {
  static constexpr const char* name = "rope";
  struct Attrs {
    int64_t heads = 1;
    double base = 10000.0;
    bool inverse = false;
  };
  static constexpr Keep keeps = Keep::nothing;

  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Tensor& x = in[0];
    check(x.ndim() == 3 && is_float(x.dtype()), "rope: x must be floating [B,N,C], got ", x.dtype(), " ", x.shape());
    check(a.heads >= 1 && x.size(2) % a.heads == 0, "rope: ", a.heads, " heads do not divide the ", x.size(2), " channels of x ",
          x.shape());
    check(x.size(2) / a.heads % 2 == 0, "rope: the head width ", x.size(2) / a.heads, " is odd; pairs are rotated");
    check(a.base > 0, "rope: base must be positive, got ", a.base);
    return {{x.shape(), x.dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int64_t tokens = in[0].size(1), channels = in[0].size(2), half = channels / a.heads / 2, rows = in[0].size(0) * tokens;
    if (rows * half == 0) return;
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const Tensor table = Tensor::empty({2, tokens, half}, dtype_of<A>);
      A* cosine = table.template data<A>();
      A* sine = cosine + tokens * half;
      parallel_for(tokens, std::max<int64_t>(1, 1024 / half), [&](int64_t begin, int64_t end) {
        for (int64_t n = begin; n < end; ++n)
          for (int64_t i = 0; i < half; ++i) {
            const double angle = static_cast<double>(n) * std::pow(a.base, -static_cast<double>(i) / static_cast<double>(half));
            cosine[n * half + i] = static_cast<A>(std::cos(angle));
            sine[n * half + i] = static_cast<A>(a.inverse ? -std::sin(angle) : std::sin(angle));
          }
      });
      const T* x = in[0].template data<T>();
      T* y = out[0].template data<T>();
      parallel_for(rows, std::max<int64_t>(1, (1 << 14) / channels), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          const A *c = cosine + row % tokens * half, *s = sine + row % tokens * half;
          for (int64_t h = 0; h < a.heads; ++h) {
            const T* from = x + row * channels + h * 2 * half;
            T* to = y + row * channels + h * 2 * half;
            for (int64_t i = 0; i < half; ++i) {
              const A u = static_cast<A>(from[2 * i]), v = static_cast<A>(from[2 * i + 1]);
              to[2 * i] = T(u * c[i] - v * s[i]);
              to[2 * i + 1] = T(u * s[i] + v * c[i]);
            }
          }
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const int64_t tokens = in[0].size(1), channels = in[0].size(2), width = channels / a.heads, n = in[0].numel();
    if (n == 0) return;
    const Tensor table = Tensor::empty({tokens, width}, DType::f32, Device::cuda);
    launch_early("rope table", rope_table_kernel, cover(tokens * width / 2), stream, table.data<float>(), tokens * width / 2,
                 width / 2, a.base, a.inverse ? -1.0 : 1.0);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = in[0].template data<T>();
      T* y = out[0].template data<T>();
      const auto run = [&](auto vec) {
        constexpr int kVec = decltype(vec)::value;
        launch_early("rope", rope_kernel<kVec, T>, cover(n / kVec), stream, x, table.data<float>(), y, n / kVec, tokens,
                     channels / kVec, width / kVec);
      };
      constexpr int kWide = 16 / sizeof(T);
      if (fits_vec(x, width, sizeof(T), kWide) && fits_vec(y, width, sizeof(T), kWide))
        run(std::integral_constant<int, kWide>{});
      else
        run(std::integral_constant<int, 2>{});
    });
  }
#endif
  static Grads vjp(const Saved&, const Tensor& gy, const Attrs& a) { return {apply<Rope>({gy}, {a.heads, a.base, !a.inverse})}; }
  static std::vector<Sample> samples() {
    return {{"three heads", {{.shape = {2, 5, 12}}}, Attrs{3}},
            {"one pair a head", {{.shape = {2, 3, 6}}}, Attrs{3}},
            {"one token", {{.shape = {1, 1, 8}}}, Attrs{1}},
            {"other base, inverse", {{.shape = {1, 7, 10}}}, Attrs{1, 100.0, true}},
            {"strided", {{.shape = {2, 4, 8}, .transposed = true}}, Attrs{2}},
            {"wide pairs", {{.shape = {2, 3, 32}}}, Attrs{2}},
            {"far tokens", {{.shape = {1, 3000, 16}, .differentiable = false}}, Attrs{2}}};
  }
};
FLARE_REGISTER_OP(Rope);

Tensor rope(const Tensor& x, int64_t heads, double base) { return apply<Rope>({x}, {heads, base, false}); }

}  // namespace flare
