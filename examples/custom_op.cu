/// An op of one's own, outside flare's sources: a radial basis function with its derivative, on CPU and GPU. main() checks both.
/// Without CUDA this file is plain C++ (see CMakeLists.txt).   ./custom_op
#include <cstdio>

#include <flare/autograd/gradcheck.h>
#include <flare/autograd/op.h>
#include <flare/core/math.h>
#include <flare/core/parallel.h>
#include <flare/ops/pointwise.h>
#if defined(FLARE_CUDA)
#include <flare/core/launch.cuh>
#endif

using namespace flare;

#if defined(FLARE_CUDA)
/// Grid: a thread an element.
template <class T> __global__ void bump_kernel(const T* x, T* y, int64_t n, float scale) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i >= n) return;
  const float v = static_cast<float>(x[i]);
  y[i] = static_cast<T>(exp_of(scale * v * v));
}
#endif

/// bump(x) = exp(-(x/width)²), elementwise.  x: [any] -> [any].
struct Bump {
  static constexpr const char* name = "bump";
  struct Attrs {
    double width = 1;
    double scale() const { return -1 / (width * width); }
  };
  static constexpr auto keeps = Keep::both;  // the derivative needs x and y

  static OutSpecs infer(Inputs in, const Attrs& a) {  // every check of the arguments
    check(is_float(in[0].dtype()), name, ": needs a floating dtype, got ", in[0].dtype());
    check(a.width > 0, name, ": width ", a.width, " is not positive");
    return {{in[0].shape(), in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    dispatch_float(in[0].dtype(), name, [&](auto tag) {  // f64, f32, bf16
      using T = typename decltype(tag)::type;
      using Acc = acc_t<T>;  // bf16 is computed in float
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      const Acc scale = static_cast<Acc>(a.scale());
      parallel_for(in[0].numel(), 4096, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const Acc v = static_cast<Acc>(x[i]);
          y[i] = static_cast<T>(exp_of(scale * v * v));
        }
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const int64_t n = in[0].numel();
      launch(name, bump_kernel<T>, cover(n), stream, in[0].data<T>(), out[0].data<T>(), n, a.scale());
    });
  }
#endif
  // dy/dx = -2x/width² · y, written with flare's ops, which run on either device.
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) { return {gy * s.in(0) * s.out() * (2 * a.scale())}; }

  static std::vector<Sample> samples() {  // what checks run the op on
    return {{"narrow", {{.shape = {4, 7}}}, Attrs{0.5}}, {"transposed", {{.shape = {6, 5}, .transposed = true}}, Attrs{2}}};
  }
};
FLARE_REGISTER_OP(Bump);

Tensor bump(const Tensor& x, double width = 1) { return apply<Bump>({x}, {width}); }

int main() {
  bool all_agree = true;
  const OpEntry& op = find_op("bump");  // it is in the registry, beside the ops of the library
  for (const Sample& sample : op.samples()) {
    const auto run = [&](const std::vector<Tensor>& in) { return op.run(in, sample.attrs)[0]; };
    const GradcheckResult gradient = gradcheck(run, make_inputs(sample, DType::f64), differentiable_inputs(sample));
    std::printf("%-12s derivative against differences: %.1e %s\n", sample.label.c_str(), gradient.worst, gradient.message.c_str());
    all_agree = all_agree && gradient.ok;
#if defined(FLARE_CUDA)
    if (cuda_available()) {
      const std::vector<Tensor> in = make_inputs(sample, DType::f32);
      const double error = relative_difference(run({to_device(in[0], Device::cuda)}), run(in));
      std::printf("%-12s GPU against CPU: %.1e\n", sample.label.c_str(), error);
      all_agree = all_agree && error < 1e-6;
    }
#endif
  }
  const Tensor x = Tensor::from<float>({0, 1, 2}, {3});
  for (const double y : bump(x).to_vector()) std::printf("%.6f\n", y);
  return all_agree ? 0 : 1;
}
