#include "docs/examples/cumsum.h"

#include <algorithm>

#include "autograd/op.h"
#include "core/parallel.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#include "ops/kernels/warp.cuh"
#endif

namespace flare {
namespace {

#if defined(FLARE_CUDA)
/// Grid: a warp a row. A warp walks along its row in steps of 32; the sum of the steps so far stays in a register.
template <class T> __global__ void cumsum_kernel(const T* x, T* y, int64_t rows, int64_t n, bool reverse) {
  const int64_t row = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / kWarp;
  const int lane = threadIdx.x % kWarp;
  if (row >= rows) return;  // a whole warp leaves together
  float before = 0;
  for (int64_t start = 0; start < n; start += kWarp) {
    const int64_t i = start + lane, at = row * n + (reverse ? n - 1 - i : i);
    float sum = i < n ? static_cast<float>(x[at]) : 0.0f;
    for (int step = 1; step < kWarp; step *= 2) {
      const float left = __shfl_up_sync(0xffffffffu, sum, step);
      if (lane >= step) sum += left;
    }
    if (i < n) y[at] = static_cast<T>(before + sum);
    before += __shfl_sync(0xffffffffu, sum, kWarp - 1);
  }
}
#endif

struct Cumsum {
  static constexpr const char* name = "cumsum";
  struct Attrs {
    bool reverse = false;
  };
  static constexpr auto keeps = Keep::nothing;  // the derivative needs neither x nor y

  static OutSpecs infer(Inputs in, const Attrs&) {
    check(is_float(in[0].dtype()), name, ": needs a floating dtype, got ", in[0].dtype());
    check(in[0].ndim() > 0, name, ": needs at least one axis, got a scalar");
    return {{in[0].shape(), in[0].dtype()}};
  }

  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int64_t n = in[0].size(-1), rows = n == 0 ? 0 : in[0].numel() / n;
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      parallel_for(rows, std::max<int64_t>(1, (1 << 14) / std::max<int64_t>(1, n)), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
          acc_t<T> sum = 0;
          for (int64_t i = 0; i < n; ++i) {
            const int64_t at = row * n + (a.reverse ? n - 1 - i : i);
            sum += static_cast<acc_t<T>>(x[at]);
            y[at] = static_cast<T>(sum);
          }
        }
      });
    });
  }

#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const int64_t n = in[0].size(-1), rows = n == 0 ? 0 : in[0].numel() / n;
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch(name, cumsum_kernel<T>, cover(rows * kWarp), stream, in[0].data<T>(), out[0].data<T>(), rows, n, a.reverse);
    });
  }
#endif

  // gx[i] = Σ_{n≥i} gy[n]: the same op, run the other way.
  static Grads vjp(const Saved&, const Tensor& gy, const Attrs& a) { return {apply<Cumsum>({gy}, {!a.reverse})}; }

  static std::vector<Sample> samples() {
    return {{"rows", {{.shape = {5, 33}}}, Attrs{false}},
            {"reverse", {{.shape = {3, 4, 7}}}, Attrs{true}},
            {"one element", {{.shape = {4, 1}}}, Attrs{false}},
            {"transposed", {{.shape = {6, 9}, .transposed = true}}, Attrs{false}},
            {"long row", {{.shape = {2, 1500}, .differentiable = false}}, Attrs{false}}};
  }
};
FLARE_REGISTER_OP(Cumsum);

}  // namespace

Tensor cumsum(const Tensor& x, bool reverse) { return apply<Cumsum>({x}, {reverse}); }

}  // namespace flare
