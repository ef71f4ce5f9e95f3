/// Loops, kernels, tape nodes and samples of every op in the lists of ops/pointwise.h.
#include "ops/pointwise.h"

#include "core/parallel.h"
#include "core/rehearsal.h"
#include "ops/reduce.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#include "ops/kernels/vec.cuh"
#endif

namespace flare {
namespace {

constexpr int64_t kGrain = 1 << 14;

/// How the elements of a broadcast operand are found: adjacent axes merged, stride 0 where it is stretched.
struct BroadcastLayout {
  int n = 0;
  int64_t extent[kMaxDims] = {}, x[kMaxDims] = {}, y[kMaxDims] = {};
  bool packed() const { return n == 0 || (n == 1 && x[0] == 1 && y[0] == 1); }
};

BroadcastLayout broadcast_layout(const Shape& out, const Shape& x, const Shape& y) {
  const Shape sx = x.strides(), sy = y.strides();
  BroadcastLayout l;
  for (int i = 0; i < out.ndim(); ++i) {
    if (out[i] == 1) continue;
    const int ix = i - (out.ndim() - x.ndim()), iy = i - (out.ndim() - y.ndim());
    const int64_t step_x = ix >= 0 && x[ix] != 1 ? sx[ix] : 0, step_y = iy >= 0 && y[iy] != 1 ? sy[iy] : 0;
    const int last = l.n - 1;
    if (l.n && l.x[last] == step_x * out[i] && l.y[last] == step_y * out[i]) {
      l.extent[last] *= out[i];
      l.x[last] = step_x;
      l.y[last] = step_y;
    } else {
      l.extent[l.n] = out[i];
      l.x[l.n] = step_x;
      l.y[l.n++] = step_y;
    }
  }
  return l;
}

FLARE_HD void broadcast_offsets(const BroadcastLayout& l, int64_t i, int64_t& ox, int64_t& oy) {
  ox = oy = 0;
  for (int axis = l.n - 1; axis > 0; --axis) {
    const int64_t q = i / l.extent[axis], r = i - q * l.extent[axis];
    ox += r * l.x[axis];
    oy += r * l.y[axis];
    i = q;
  }
  if (l.n) {
    ox += i * l.x[0];
    oy += i * l.y[0];
  }
}

// The three elementwise bodies. Arithmetic is in acc_t<T>: double for f64, float for f32 and bf16.
template <class Op> struct UnaryForward {
  static constexpr bool kBroadcasts = false;
  static constexpr int kOperands = 1;
  template <class A> FLARE_HD static A at(A x, A) { return Op::forward(x); }
};
/// first: the saved x (or y when the op keeps its output); second: gy.
template <class Op> struct UnaryBackward {
  static constexpr bool kBroadcasts = false;
  static constexpr int kOperands = 2;
  template <class A> FLARE_HD static A at(A saved, A gy) {
    if constexpr (Op::needs_output)
      return gy * Op::derivative(saved, saved);
    else
      return gy * Op::derivative(saved, Op::forward(saved));
  }
};
template <class Op> struct BinaryForward {
  static constexpr bool kBroadcasts = true;
  static constexpr int kOperands = 2;
  template <class A> FLARE_HD static A at(A x, A y) { return Op::forward(x, y); }
};
template <class Op> struct PartialX {
  static constexpr bool kBroadcasts = true;
  static constexpr int kOperands = 2;
  template <class A> FLARE_HD static A at(A x, A y) { return Op::dx(x, y); }
};
template <class Op> struct PartialY {
  static constexpr bool kBroadcasts = true;
  static constexpr int kOperands = 2;
  template <class A> FLARE_HD static A at(A x, A y) { return Op::dy(x, y); }
};

template <class T> FLARE_HD T rounded(acc_t<T> v) { return static_cast<T>(v); }

#if defined(FLARE_CUDA)
template <class T> using Pack16 = Pack<T, 16 / sizeof(T)>;

/// Broadcast operands. Grid: ceil(n/256) blocks of 256; a thread owns one output element.
template <class Body, class T> __global__ void broadcast_kernel(const T* x, const T* y, T* out, BroadcastLayout l, int64_t n) {
  after_previous();
  using A = acc_t<T>;
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i >= n) return;
  int64_t ox, oy;
  broadcast_offsets(l, i, ox, oy);
  out[i] = rounded<T>(Body::at(static_cast<A>(x[ox]), static_cast<A>(y[oy])));
}
/// The same where the innermost axis holds whole packs of 16 bytes of the output, one a thread, and an operand is packed or one
/// number along it.
template <class Body, class T>
__global__ void broadcast_packs_kernel(const T* x, const T* y, T* out, BroadcastLayout l, int64_t n) {
  after_previous();
  using A = acc_t<T>;
  constexpr int kWidth = 16 / sizeof(T);
  const int64_t first = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * kWidth;
  if (first >= n) return;
  int64_t ox, oy;
  broadcast_offsets(l, first, ox, oy);
  const auto pack_of = [](const T* p, int64_t step) {
    Pack16<T> pack;
    if (step == 1)
      pack = *reinterpret_cast<const Pack16<T>*>(p);
    else
      for (T& v : pack.v) v = *p;
    return pack;
  };
  const Pack16<T> px = pack_of(x + ox, l.x[l.n - 1]), py = pack_of(y + oy, l.y[l.n - 1]);
  Pack16<T> result;
#pragma unroll
  for (int j = 0; j < kWidth; ++j) result.v[j] = rounded<T>(Body::at(static_cast<A>(px.v[j]), static_cast<A>(py.v[j])));
  *reinterpret_cast<Pack16<T>*>(out + first) = result;
}
/// Packed operands: a thread owns 16 bytes of the output, read and written in one access each where `aligned`.
template <class Body, class T> __global__ void packed_kernel(const T* x, const T* y, T* out, bool aligned, int64_t n) {
  after_previous();
  using A = acc_t<T>;
  constexpr int kWidth = 16 / sizeof(T);
  const int64_t first = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * kWidth;
  if (aligned && first + kWidth <= n) {
    const Pack16<T> px = *reinterpret_cast<const Pack16<T>*>(x + first);
    Pack16<T> py = px, result;
    if constexpr (Body::kOperands == 2) py = *reinterpret_cast<const Pack16<T>*>(y + first);
#pragma unroll
    for (int j = 0; j < kWidth; ++j) result.v[j] = rounded<T>(Body::at(static_cast<A>(px.v[j]), static_cast<A>(py.v[j])));
    *reinterpret_cast<Pack16<T>*>(out + first) = result;
  } else {
#pragma unroll 1
    for (int64_t i = first; i < min(n, first + kWidth); ++i)
      out[i] = rounded<T>(Body::at(static_cast<A>(x[i]), static_cast<A>((Body::kOperands == 2 ? y : x)[i])));
  }
}
template <class T> __global__ void affine_kernel(const T* x, T* out, float a, float b, int64_t n) {
  after_previous();
  const int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x;
  if (i < n) out[i] = static_cast<T>(a * static_cast<float>(x[i]) + b);
}
bool aligned16(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }
/// Whether broadcast_packs_kernel takes an operand at p with these steps along the axes of l.
bool reads_packs(const BroadcastLayout& l, const int64_t* steps, const void* p, int64_t width) {
  if (steps[l.n - 1] == 0) return true;
  bool whole = steps[l.n - 1] == 1 && aligned16(p);
  for (int axis = 0; axis + 1 < l.n; ++axis) whole = whole && steps[axis] % width == 0;
  return whole;
}
#endif

/// out[i] = Body(x[i], y[i]) under broadcasting; y may be absent.
template <class Body> void run(const char* name, const Tensor& x, const Tensor& y, const Tensor& out) {
  const int64_t n = out.numel();
  if (is_rehearsed(out.raw())) return;  // derivatives come here directly, not through apply
  const BroadcastLayout l = broadcast_layout(out.shape(), x.shape(), y ? y.shape() : x.shape());
  const bool packed = l.packed();
  if (out.device() == Device::cpu) {
    dispatch_float(x.dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* px = x.data<T>();
      const T* py = y ? y.data<T>() : px;
      T* po = out.data<T>();
      if (packed) {
        parallel_for(n, kGrain, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) po[i] = rounded<T>(Body::at(static_cast<A>(px[i]), static_cast<A>(py[i])));
        });
      } else if constexpr (Body::kBroadcasts) {
        // Rows of the innermost axis, whose strides are 0 or 1 for every contiguous operand, so that the loop vectorises.
        const int64_t inner = l.extent[l.n - 1], step_x = l.x[l.n - 1], step_y = l.y[l.n - 1];
        parallel_for(n / inner, std::max<int64_t>(1, kGrain / inner), [&](int64_t begin, int64_t end) {
          for (int64_t row = begin; row < end; ++row) {
            int64_t ox, oy;
            broadcast_offsets(l, row * inner, ox, oy);
            T* o = po + row * inner;
            for (int64_t i = 0; i < inner; ++i)
              o[i] = rounded<T>(Body::at(static_cast<A>(px[ox + i * step_x]), static_cast<A>(py[oy + i * step_y])));
          }
        });
      }
    });
    return;
  }
#if defined(FLARE_CUDA)
  dispatch_float_cuda(x.dtype(), name, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const T* px = x.data<T>();
    const T* py = y ? y.data<T>() : nullptr;
    Stream& stream = compute_stream(Device::cuda);
    constexpr int64_t kWidth = 16 / sizeof(T);
    if (packed) {
      const bool aligned = aligned16(px) && aligned16(py) && aligned16(out.raw());
      launch_early(name, packed_kernel<Body, T>, cover((n + kWidth - 1) / kWidth), stream, px, py, out.data<T>(), aligned, n);
    } else if constexpr (Body::kBroadcasts) {
      const bool packs = l.extent[l.n - 1] % kWidth == 0 && aligned16(out.raw()) && reads_packs(l, l.x, px, kWidth) &&
                         reads_packs(l, l.y, py, kWidth);
      launch_early(name, packs ? broadcast_packs_kernel<Body, T> : broadcast_kernel<Body, T>, cover(packs ? n / kWidth : n), stream,
                   px, py, out.data<T>(), l, n);
    }
  });
#endif
}

/// A registered unary op and, as an op of its own, its backward pass.
template <class F> struct UnaryGrad {
  static const char* op_name() {
    static const std::string n = std::string(F::name) + "_backward";
    return n.c_str();
  }
  static Tensor compute(const Tensor& saved, const Tensor& gy) {
    const Tensor a = contiguous(saved), b = contiguous(gy), out = Tensor::empty(gy.shape(), gy.dtype(), gy.device());
    run<UnaryBackward<F>>(op_name(), a, b, out);
    return out;
  }
};

template <class F> struct Unary {
  static constexpr const char* name = F::name;
  struct Attrs {};
  static constexpr Keep keeps = F::needs_output ? Keep::outputs : Keep::inputs;
  static OutSpecs infer(Inputs in, const Attrs&) {
    check(is_float(in[0].dtype()), name, ": needs a floating dtype, got ", in[0].dtype());
    return {{in[0].shape(), in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) { run<UnaryForward<F>>(name, in[0], {}, out[0]); }
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream&) { run<UnaryForward<F>>(name, in[0], {}, out[0]); }
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    return {UnaryGrad<F>::compute(F::needs_output ? s.out() : s.in(0), gy)};
  }
  static std::vector<Sample> samples() {
    return {{"[7,33]", {{.shape = {7, 33}, .lo = F::lo, .hi = F::hi}}, Attrs{}},
            {"[3,5] transposed", {{.shape = {3, 5}, .lo = F::lo, .hi = F::hi, .transposed = true}}, Attrs{}},
            {"[0]", {{.shape = {0}, .lo = F::lo, .hi = F::hi}}, Attrs{}}};
  }
};

template <class F> struct Binary {
  static constexpr const char* name = F::name;
  struct Attrs {};
  static constexpr Keep keeps = F::needs_inputs ? Keep::inputs : Keep::nothing;
  static OutSpecs infer(Inputs in, const Attrs&) {
    check(in[0].defined() && in[1].defined(), name, ": needs two tensors");
    check(is_float(in[0].dtype()) && in[0].dtype() == in[1].dtype(), name, ": needs two tensors of one floating dtype, got ",
          in[0].dtype(), " and ", in[1].dtype());
    return {{broadcast_shape(in[0].shape(), in[1].shape(), name), in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs&) { run<BinaryForward<F>>(name, in[0], in[1], out[0]); }
  static void forward_cuda(Inputs in, Outputs out, const Attrs&, Stream&) { run<BinaryForward<F>>(name, in[0], in[1], out[0]); }
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) {
    return {s.needs(0) ? side<PartialX<F>>(s, gy, 0) : Tensor(), s.needs(1) ? side<PartialY<F>>(s, gy, 1) : Tensor()};
  }
  static std::vector<Sample> samples() {
    const auto pair = [](Shape x, Shape y, bool transposed = false) {
      return std::vector<InputSpec>{{.shape = x, .lo = F::lo, .hi = F::hi, .transposed = transposed},
                                    {.shape = y, .lo = F::lo, .hi = F::hi}};
    };
    return {{"same", pair({5, 33}, {5, 33}), Attrs{}},
            {"row", pair({2, 5, 7}, {7}), Attrs{}},
            {"column", pair({4, 6}, {4, 1}), Attrs{}},
            {"both stretch", pair({3, 1, 4}, {2, 1}), Attrs{}},
            {"scalar", pair({3, 4}, {}), Attrs{}},
            {"transposed", pair({3, 4}, {3, 4}, true), Attrs{}},
            {"a table for each", pair({3, 5, 8}, {5, 8}), Attrs{}},
            {"wide column", pair({2, 3, 16}, {2, 3, 1}), Attrs{}},
            {"both stretch, wide", pair({3, 1, 8}, {2, 8}), Attrs{}}};
  }

 private:
  /// gy · ∂f summed down to the shape of the operand.
  template <class Partial> static Tensor side(const Saved& s, const Tensor& gy, size_t i) {
    if constexpr (std::is_same_v<F, Add>) return sum_to(gy, s.in_shape(i));
    if constexpr (std::is_same_v<F, Sub>) return sum_to(i == 0 ? gy : neg(gy), s.in_shape(i));
    const Tensor x = contiguous(s.in(0)), y = contiguous(s.in(1)), partial = Tensor::empty(gy.shape(), gy.dtype(), gy.device());
    run<Partial>(name, x, y, partial);
    return sum_to(mul(gy, partial), s.in_shape(i));
  }
};

struct Affine {
  static constexpr const char* name = "affine";
  struct Attrs {
    double a = 1, b = 0;
  };
  static constexpr Keep keeps = Keep::nothing;
  static OutSpecs infer(Inputs in, const Attrs&) {
    check(is_float(in[0].dtype()), "affine: needs a floating dtype, got ", in[0].dtype());
    return {{in[0].shape(), in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& at) {
    dispatch_float(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      using A = acc_t<T>;
      const T* x = in[0].data<T>();
      T* y = out[0].data<T>();
      const A a = static_cast<A>(at.a), b = static_cast<A>(at.b);
      parallel_for(out[0].numel(), kGrain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) y[i] = rounded<T>(a * static_cast<A>(x[i]) + b);
      });
    });
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& at, Stream& stream) {
    dispatch_float_cuda(in[0].dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      launch_early(name, affine_kernel<T>, cover(out[0].numel()), stream, in[0].data<T>(), out[0].data<T>(), at.a, at.b,
                   out[0].numel());
    });
  }
#endif
  static Grads vjp(const Saved&, const Tensor& gy, const Attrs& at) { return {affine(gy, at.a)}; }
  static std::vector<Sample> samples() {
    return {{"2x-1", {{.shape = {5, 9}}}, Attrs{2, -1}},
            {"-x/3 transposed", {{.shape = {5, 3}, .transposed = true}}, Attrs{-1.0 / 3, 0}}};
  }
};
FLARE_REGISTER_OP(Affine);

using UnaryFunction = Tensor (*)(const Tensor&);
using BinaryFunction = Tensor (*)(const Tensor&, const Tensor&);
template <class... F> std::vector<UnaryFunction> unary_table(OpList<F...>) {
  return {[](const Tensor& x) { return apply<Unary<F>>({x}); }...};
}
template <class... F> std::vector<BinaryFunction> binary_table(OpList<F...>) {
  return {[](const Tensor& x, const Tensor& y) { return apply<Binary<F>>({x, y}); }...};
}
template <class... F> bool register_unary(OpList<F...>) { return (register_op(entry_of<Unary<F>>()) && ...); }
template <class... F> bool register_binary(OpList<F...>) { return (register_op(entry_of<Binary<F>>()) && ...); }
[[maybe_unused]] const bool unary_registered = register_unary(UnaryOps{});
[[maybe_unused]] const bool binary_registered = register_binary(BinaryOps{});

}  // namespace

Tensor apply_unary(int index, const Tensor& x) {
  static const std::vector<UnaryFunction> table = unary_table(UnaryOps{});
  return table[static_cast<size_t>(index)](x);
}
Tensor apply_binary(int index, const Tensor& x, const Tensor& y) {
  static const std::vector<BinaryFunction> table = binary_table(BinaryOps{});
  return table[static_cast<size_t>(index)](x, y);
}
Tensor affine(const Tensor& x, double a, double b) { return apply<Affine>({x}, {a, b}); }

}  // namespace flare
