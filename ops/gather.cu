#include <algorithm>
#include <limits>

#include "autograd/op.h"
#include "core/parallel.h"
#include "ops/shaping.h"
#if defined(FLARE_CUDA)
#include <cub/device/device_radix_sort.cuh>

#include "core/launch.cuh"
#include "ops/kernels/gather.cuh"
#endif

namespace flare {
namespace {

/// x seen as [outer, length, inner] around the gathered axis.
struct Around {
  int64_t outer = 1, length = 1, inner = 1;
};
Around around(const Shape& s, int axis) {
  Around a;
  const int at = s.axis(axis);
  for (int i = 0; i < at; ++i) a.outer *= s[i];
  a.length = s[at];
  for (int i = at + 1; i < s.ndim(); ++i) a.inner *= s[i];
  return a;
}
void check_index(const char* op, const Tensor& x, const Tensor& index, int axis) {
  const int i = axis < 0 ? axis + x.ndim() : axis;
  check(i >= 0 && i < x.ndim(), op, ": axis ", axis, " is outside x ", x.shape());
  check(index.ndim() == 1 && index.dtype() == DType::i64, op, ": the index must be i64 [K], got ", index.dtype(), " ",
        index.shape());
}
void check_index_values(const char* op, const Tensor& index, int64_t length) {
  const int64_t* k = index.data<int64_t>();
  for (int64_t i = 0; i < index.numel(); ++i)
    check(k[i] >= 0 && k[i] < length, op, ": index ", k[i], " at position ", i, " is outside an axis of ", length);
}
constexpr int64_t kGrain = 1 << 14;

}  // namespace

/// The adjoint of gather: gx[…,r,…] = Σ gy[…,k,…] over the k with index[k] = r, in the order of k.
struct ScatterRows {
  static constexpr const char* name = "scatter_rows";
  struct Attrs {
    int axis = 0;
    int64_t length = 0;
  };
  static constexpr Keep keeps = Keep::inputs;

  static OutSpecs infer(Inputs in, const Attrs& a) {
    check_index(name, in[0], in[1], a.axis);
    check(is_float(in[0].dtype()), name, ": needs a floating dtype, got ", in[0].dtype());
    check(in[0].size(a.axis) == in[1].numel() && a.length >= 0, name, ": ", in[1].numel(), " indices for axis ", a.axis, " of x ",
          in[0].shape());
    check(in[1].numel() <= std::numeric_limits<int32_t>::max(), name, ": more than 2^31 indices");
    Shape shape = in[0].shape();
    shape[a.axis] = a.length;
    return {{shape, in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    check_index_values(name, in[1], a.length);
    const Around s = around(in[0].shape(), a.axis);
    const int64_t* index = in[1].data<int64_t>();
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* gy = in[0].template data<T>();
      T* gx = out[0].template data<T>();
      const Tensor sums = Tensor::zeros({s.outer, a.length, s.inner}, dtype_of<A>);
      A* sum = sums.template data<A>();
      parallel_for(s.outer, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.length * s.inner)),
                   [&](int64_t begin, int64_t end) {
                     for (int64_t o = begin; o < end; ++o) {
                       for (int64_t k = 0; k < s.length; ++k) {
                         const T* from = gy + (o * s.length + k) * s.inner;
                         A* to = sum + (o * a.length + index[k]) * s.inner;
                         for (int64_t i = 0; i < s.inner; ++i) to[i] += static_cast<A>(from[i]);
                       }
                       for (int64_t i = o * a.length * s.inner; i < (o + 1) * a.length * s.inner; ++i) gx[i] = T(sum[i]);
                     }
                   });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    fill(out[0], 0);
    const Around s = around(in[0].shape(), a.axis);
    const int64_t n = in[0].numel();
    if (n == 0) return;
    // A stable sort groups equal rows and keeps the order of k within a group; the group's first thread adds them up.
    const int count = static_cast<int>(s.length);
    const Tensor keys = Tensor::empty({s.length}, DType::i64, Device::cuda),
                 order = Tensor::empty({s.length}, DType::i32, Device::cuda);
    const Tensor positions = Tensor::empty({s.length}, DType::i32, Device::cuda);
    launch("scatter_rows", positions_kernel, cover(s.length), stream, positions.data<int32_t>(), s.length);
    const auto sort = [&](void* scratch, size_t& bytes) {
      cuda_check(cub::DeviceRadixSort::SortPairs(scratch, bytes, in[1].data<int64_t>(), keys.data<int64_t>(),
                                                 positions.data<int32_t>(), order.data<int32_t>(), count, 0, 64, native(stream)),
                 "scatter_rows: sorting the index");
    };
    size_t bytes = 0;
    sort(nullptr, bytes);
    const Tensor scratch = Tensor::empty({std::max<int64_t>(1, static_cast<int64_t>(bytes))}, DType::u8, Device::cuda);
    sort(scratch.raw(), bytes);
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch("scatter_rows", scatter_rows_kernel<T>, cover(n), stream, in[0].template data<T>(), keys.data<int64_t>(),
             order.data<int32_t>(), out[0].template data<T>(), n, s.length, s.inner, a.length);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) { return {gather(gy, s.in(1), a.axis), {}}; }
  static std::vector<Sample> samples() {
    const auto index = [](std::vector<double> values) {
      const auto n = static_cast<int64_t>(values.size());
      return InputSpec{.kind = InputSpec::values, .shape = {n}, .fixed = std::move(values)};
    };
    return {{"repeated rows", {{.shape = {5, 3}}, index({2, 0, 2, 2, 3})}, Attrs{0, 4}},
            {"middle axis", {{.shape = {2, 3, 4}}, index({1, 1, 0})}, Attrs{1, 6}},
            {"many rows",
             {{.shape = {700, 5}, .differentiable = false}, {.kind = InputSpec::index, .shape = {700}, .lo = 0, .hi = 40}},
             Attrs{0, 40}}};
  }
};
FLARE_REGISTER_OP(ScatterRows);

struct Gather {
  static constexpr const char* name = "gather";
  struct Attrs {
    int axis = 0;
  };
  static constexpr Keep keeps = Keep::inputs;

  static OutSpecs infer(Inputs in, const Attrs& a) {
    check_index(name, in[0], in[1], a.axis);
    Shape shape = in[0].shape();
    shape[a.axis] = in[1].numel();
    return {{shape, in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const Around s = around(in[0].shape(), a.axis);
    check_index_values(name, in[1], s.length);
    const int64_t* index = in[1].data<int64_t>();
    const int64_t count = in[1].numel();
    dispatch_any(in[0].dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      const T* x = in[0].template data<T>();
      T* y = out[0].template data<T>();
      parallel_for(s.outer * count, std::max<int64_t>(1, kGrain / std::max<int64_t>(1, s.inner)), [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row)
          std::copy_n(x + (row / count * s.length + index[row % count]) * s.inner, s.inner, y + row * s.inner);
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const Around s = around(in[0].shape(), a.axis);
    const int64_t n = out[0].numel();
    dispatch_any(in[0].dtype(), [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch("gather", gather_kernel<T>, cover(n), stream, in[0].template data<T>(), in[1].data<int64_t>(),
             out[0].template data<T>(), n, in[1].numel(), s.length, s.inner);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    return {apply<ScatterRows>({gy, s.in(1)}, {a.axis, s.in_shape(0)[a.axis]}), {}};
  }
  static std::vector<Sample> samples() {
    const auto rows = [](int64_t count, double n) {
      return InputSpec{.kind = InputSpec::index, .shape = {count}, .lo = 0, .hi = n};
    };
    return {{"rows, repeated", {{.shape = {4, 3}}, rows(9, 4)}, Attrs{0}},
            {"middle axis", {{.shape = {2, 5, 3}}, rows(3, 5)}, Attrs{1}},
            {"last axis", {{.shape = {3, 6}}, rows(4, 6)}, Attrs{-1}},
            {"one row", {{.shape = {1, 7}}, rows(1, 1)}, Attrs{0}},
            {"strided", {{.shape = {5, 4}, .transposed = true}, rows(6, 5)}, Attrs{0}}};
  }
};
FLARE_REGISTER_OP(Gather);

Tensor gather(const Tensor& x, const Tensor& index, int axis) { return apply<Gather>({x, index}, {axis}); }

}  // namespace flare
