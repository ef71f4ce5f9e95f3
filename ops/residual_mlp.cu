#include "ops/residual_mlp.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "autograd/op.h"
#include "core/beside.h"
#include "core/parallel.h"
#include "ops/kernels/residual_mlp.h"
#include "ops/kernels/residual_mlp_cpu.h"
#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"

namespace flare {

bool has_residual_mlp(bool is_bf16, int64_t channels) { return channels == 64 || channels == 128 || (is_bf16 && channels == 256); }

namespace {

/// Inputs: x, weights…, biases…, mask (or undefined), residual (or undefined). The backward op has the cotangent of y for the last,
/// and after it what to add to the gradient of x (or undefined).
struct Layers {
  Inputs in;
  size_t n;
  const Tensor& x() const { return in[0]; }
  const Tensor& weight(size_t layer) const { return in[1 + layer]; }
  const Tensor& bias(size_t layer) const { return in[1 + n + layer]; }
  const Tensor& mask() const { return in[1 + 2 * n]; }
  const Tensor& residual() const { return in[2 + 2 * n]; }
  const Tensor& gy() const { return in[2 + 2 * n]; }
  const Tensor& addend() const { return in[3 + 2 * n]; }
  int64_t channels() const { return x().size(-1); }
  int64_t rows() const { return x().numel() / channels(); }
};
Layers layers_of(Inputs in) { return {in, (in.size() - 3) / 2}; }

void check_layers(const Layers& l, const ResidualMlpAttrs& a, const char* who) {
  const Tensor& x = l.x();
  check(x.ndim() >= 1 && is_float(x.dtype()), who, ": x must be floating with at least one axis, got ", x.dtype(), " ", x.shape());
  check(l.n >= 1 && l.n <= kMaxMlpLayers, who, ": takes 1 to ", kMaxMlpLayers, " layers, got ", l.n);
  check(l.n > 1 || a.input_residual == a.output_residual, who, ": the input of a single layer is its last one's too; ",
        "input_residual and output_residual must agree");
  const int64_t c = x.size(-1);
  for (size_t i = 0; i < l.n; ++i) {
    check(l.weight(i).shape() == Shape{c, c} && l.weight(i).dtype() == param_dtype(x.dtype()), who, ": weight ", i, " must be ",
          param_dtype(x.dtype()), " [", c, ",", c, "] beside x ", x.dtype(), " ", x.shape(), ", got ", l.weight(i).dtype(), " ",
          l.weight(i).shape());
    check(l.bias(i).shape() == Shape{c} && l.bias(i).dtype() == param_dtype(x.dtype()), who, ": bias ", i, " must be ",
          param_dtype(x.dtype()), " [", c, "], got ", l.bias(i).dtype(), " ", l.bias(i).shape());
  }
  if (l.mask())
    check(l.mask().dtype() == DType::u8 && l.mask().shape() == x.shape().without(-1), who, ": mask must be u8 ",
          x.shape().without(-1), ", got ", l.mask().dtype(), " ", l.mask().shape());
  if (x.device() == Device::cuda)
    check(has_residual_mlp(x.dtype() == DType::bf16, c) && x.dtype() != DType::f64, who, ": no kernel for ", x.dtype(),
          " of width ", c);
}
bool is_residual(size_t layer, size_t n, const ResidualMlpAttrs& a) {
  return layer == 0 ? a.input_residual : layer + 1 < n || a.output_residual;
}

bool is_active(size_t layer, size_t n, const ResidualMlpAttrs& a) { return layer + 1 < n || a.last_activation; }

Tensor plain_layer(const Tensor& h, const Tensor& weight, const Tensor& bias) {
  if (h.device() == Device::cpu) return linear(h, weight, bias);
  return matmul(h, cast_to(weight, h.dtype()), false, true) + cast_to(bias, h.dtype());  // there `linear` may be this op again
}
/// The layers one by one: what the op is compared with, and what the CPU runs where it has no kernel. `before`: takes a_l of each
/// layer with an activation.
template <class F> Tensor layer_by_layer(const Layers& l, const ResidualMlpAttrs& a, F&& before) {
  Tensor h = l.x();
  for (size_t i = 0; i < l.n; ++i) {
    Tensor y = plain_layer(h, l.weight(i), l.bias(i));
    before(h, y);
    if (is_active(i, l.n, a)) y = gelu(y);
    h = is_residual(i, l.n, a) ? h + y : y;
  }
  return h;
}

/// y with zeros in the rows that are not real, on the CPU.
Tensor masked_rows(const Tensor& y, const Tensor& mask) {
  if (!mask) return y;
  const Tensor out = clone(y);
  const int64_t bytes = y.size(-1) * size_of(y.dtype());
  for (int64_t r = 0; r < mask.numel(); ++r)
    if (!mask.data<uint8_t>()[r]) std::memset(static_cast<char*>(out.raw()) + r * bytes, 0, static_cast<size_t>(bytes));
  return out;
}

Tensor times_gelu_slope(const Tensor& g, const Tensor& a) {
  const Tensor out = Tensor::empty(a.shape(), a.dtype());
  dispatch_float(a.dtype(), "residual_mlp", [&](auto tag) {
    using T = typename decltype(tag)::type;
    using A = acc_t<T>;
    const T *pg = g.data<T>(), *pa = a.data<T>();
    T* y = out.data<T>();
    parallel_for(a.numel(), 1 << 13, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) y[i] = T(static_cast<A>(pg[i]) * Gelu::derivative(static_cast<A>(pa[i]), A(0)));
    });
  });
  return out;
}

template <class T> void set_shape(ResidualMlpArgs<T>& args, const Layers& l, const ResidualMlpAttrs& a) {
  args.rows = l.rows();
  args.n_layers = static_cast<int>(l.n), args.channels = static_cast<int>(l.channels());
  args.input_residual = a.input_residual, args.output_residual = a.output_residual, args.last_activation = a.last_activation;
}
bool is_fused_on_cpu(const Layers& l) { return l.n > 1 && l.x().dtype() == DType::f32 && has_residual_mlp_cpu(l.channels()); }
ResidualMlpArgs<float> cpu_args_of(const Layers& l, const ResidualMlpAttrs& a, const Tensor& y, const Tensor& added) {
  ResidualMlpArgs<float> args;
  args.x = l.x().data<float>(), args.y = y.data<float>();
  for (size_t i = 0; i < l.n; ++i) args.w[i] = l.weight(i).data<float>(), args.bias[i] = l.bias(i).data<float>();
  if (l.mask()) args.mask = l.mask().data<uint8_t>();
  if (added) args.residual = added.data<float>();
  set_shape(args, l, a);
  return args;
}

#if defined(FLARE_CUDA)
constexpr int64_t kMostBytesBeside = 32 << 20;  // of the layers' inputs: more of them fill the GPU by themselves

/// A tensor at an address that 16-byte copies can read.
Tensor aligned(const Tensor& x) { return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0 ? x : clone(x); }

/// The arguments both passes share; `held` keeps rounded weights and copies alive until the launch.
template <class T> ResidualMlpArgs<T> args_of(const Layers& l, const ResidualMlpAttrs& a, std::vector<Tensor>& held) {
  ResidualMlpArgs<T> args;
  held.push_back(aligned(l.x()));
  args.x = held.back().data<T>();
  for (size_t i = 0; i < l.n; ++i) {
    held.push_back(aligned(cast_to(l.weight(i), dtype_of<T>)));
    args.w[i] = held.back().data<T>();
    held.push_back(aligned(l.bias(i)));
    args.bias[i] = held.back().data<float>();
  }
  if (l.mask()) args.mask = l.mask().data<uint8_t>();
  set_shape(args, l, a);
  return args;
}
#endif

/// What the backward pass needs for itself. Rows go to the weight gradients in chunks, so that all layers' chunks together are two
/// blocks for each multiprocessor of an H100 (one for a single layer, whose sums would be most of the traffic); every tile of the
/// kernels divides 128 rows.
struct Workspace {
  int64_t chunk_rows, n_chunks, slot_rows;
  explicit Workspace(const Layers& l) {
    const int64_t rows = l.rows(), side = std::max<int64_t>(1, l.channels() / 128);
    const int64_t most = l.n == 1 ? 132 : std::max<int64_t>(1, 264 / (static_cast<int64_t>(l.n) * side * side));
    int64_t wanted = std::clamp<int64_t>(rows / 64, 1, most);
    // Matrix units truncate when they add: in f32 a sum over more rows would lose what the split operands keep.
    if (l.x().dtype() != DType::bf16) wanted = std::max(wanted, (rows + 1023) / 1024);
    chunk_rows = (rows + wanted * 64 - 1) / (wanted * 64) * 64;
    n_chunks = (rows + chunk_rows - 1) / chunk_rows;
    slot_rows = (rows + 127) / 128 * 128;
  }
};

}  // namespace

/// Outputs: the gradient of x plus the addend, of the weights [n,C,C] and of the biases [n,C].
struct ResidualMlpBackward {
  static constexpr const char* name = "residual_mlp_backward";
  static constexpr const char* not_differentiable = kFirstOrderOnly;
  using Attrs = ResidualMlpAttrs;

  static OutSpecs infer(Inputs in, const Attrs& a) {
    const Layers l = layers_of(in);
    check_layers(l, a, name);
    const auto check_like_x = [&](const Tensor& t, const char* what) {
      check(t.shape() == l.x().shape() && t.dtype() == l.x().dtype(), name, ": ", what, " must be like x, ", l.x().dtype(), " ",
            l.x().shape(), ", got ", t.dtype(), " ", t.shape());
    };
    check_like_x(l.gy(), "gy");
    if (l.addend()) check_like_x(l.addend(), "the addend");
    const auto n = static_cast<int64_t>(l.n), c = l.channels();
    const DType param = param_dtype(l.x().dtype());
    return {{l.x().shape(), l.x().dtype()}, {{n, c, c}, param}, {{n, c}, param}};
  }
  static int64_t workspace(Inputs in, const Attrs& a) {
    const Layers l = layers_of(in);
    if (l.rows() == 0) return 0;
    const Workspace space(l);
    const auto n = static_cast<int64_t>(l.n), c = l.channels();
    const int64_t n_slots = 2 * (n - 1) + a.last_activation;
    return c * (n_slots * space.slot_rows * size_of(l.x().dtype()) + n * space.n_chunks * c * 4);
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const Layers l = layers_of(in);
    if (is_fused_on_cpu(l)) {
      ResidualMlpArgs<float> args = cpu_args_of(l, a, out[0], l.addend());
      args.gy = l.gy().data<float>();
      return residual_mlp_backward_cpu(args, out[1].data<float>(), out[2].data<float>());
    }
    const int64_t c = l.channels();
    const Shape flat{l.rows(), c};
    std::vector<Tensor> reads, sums;  // of each layer: its input, and what comes before its activation
    layer_by_layer(l, a, [&](const Tensor& h, const Tensor& sum) {
      reads.push_back(h.viewed_as(flat));
      sums.push_back(sum.viewed_as(flat));
    });
    Tensor g = masked_rows(l.gy(), l.mask()).viewed_as(flat);  // the cotangent of a layer's output
    for (size_t i = l.n; i-- > 0;) {
      const Tensor da = is_active(i, l.n, a) ? times_gelu_slope(g, sums[i]) : g;
      const auto at = static_cast<int64_t>(i);
      copy(matmul_unrounded(da, reads[i], true, false), out[1].view({c, c}, {c, 1}, at * c * c));
      copy(column_sum(da), out[2].view({c}, {1}, at * c));
      const Tensor through = matmul(da, cast_to(l.weight(i), da.dtype()));
      g = is_residual(i, l.n, a) ? g + through : through;
    }
    g = g.viewed_as(out[0].shape());
    copy(l.addend() ? g + l.addend() : g, out[0]);
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const Layers l = layers_of(in);
    if (l.rows() == 0) {
      for (Tensor& o : out) fill(o, 0);
      return;
    }
    dispatch_float_cuda(l.x().dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      const Workspace space(l);
      const auto n = static_cast<int64_t>(l.n), c = l.channels();
      std::vector<Tensor> held;
      ResidualMlpArgs<T> args = args_of<T>(l, a, held);
      if (l.addend()) {
        held.push_back(aligned(l.addend()));
        args.residual = held.back().data<T>();
      }
      held.push_back(aligned(l.gy()));
      args.gy = held.back().data<T>();
      args.y = out[0].data<T>();
      args.slot_rows = space.slot_rows, args.chunk_rows = space.chunk_rows;
      const Tensor kept = Tensor::empty(Shape{n - 1, space.slot_rows, c}, dtype_of<T>, Device::cuda);
      const Tensor cotangents = Tensor::empty(Shape{args.n_active(), space.slot_rows, c}, dtype_of<T>, Device::cuda);
      const Tensor bias_parts = Tensor::empty(Shape{space.n_chunks, n, c}, DType::f32, Device::cuda);
      const Tensor dw_parts = Tensor::empty(Shape{n, space.n_chunks, c, c}, DType::f32, Device::cuda);
      args.kept = kept.data<T>(), args.cotangents = cotangents.data<T>();
      args.bias_parts = bias_parts.data<float>(), args.dw_parts = dw_parts.data<float>();
      residual_mlp_backward_cuda<T>(args, stream);
      const Beside beside({kept, cotangents, bias_parts, dw_parts, held.front(), held.back(), l.mask(), out[1], out[2]},
                          kept.bytes() <= kMostBytesBeside);
      beside.made(out[1]);
      beside.made(out[2]);
      const Stream& other = compute_stream(Device::cuda);
      residual_mlp_weights_cuda<T>(args, other);
      residual_mlp_reduce_cuda(dw_parts.data<float>(), bias_parts.data<float>(), out[1].data<float>(), out[2].data<float>(),
                               static_cast<int>(n), c, space.n_chunks, other);
    });
  }
#endif
  static std::vector<Sample> samples() {
    Sample s{"two layers", {{.shape = {5, 64}}}, Attrs{}};
    for (int i = 0; i < 2; ++i) s.inputs.push_back({.kind = InputSpec::param, .shape = {64, 64}, .lo = -0.2, .hi = 0.2});
    for (int i = 0; i < 2; ++i) s.inputs.push_back({.kind = InputSpec::param, .shape = {64}});
    s.inputs.push_back({.kind = InputSpec::mask, .shape = {5}});
    s.inputs.push_back({.shape = {5, 64}});
    s.inputs.push_back({.kind = InputSpec::absent, .shape = {}});
    Sample added = s;
    added.label = "two layers, added";
    added.inputs.back() = {.shape = {5, 64}};
    Sample many{"three layers, many rows, masked, added", {{.shape = {3, 6000, 128}}}, Attrs{}};
    for (int i = 0; i < 3; ++i) many.inputs.push_back({.kind = InputSpec::param, .shape = {128, 128}, .lo = -0.13, .hi = 0.13});
    for (int i = 0; i < 3; ++i) many.inputs.push_back({.kind = InputSpec::param, .shape = {128}});
    many.inputs.push_back({.kind = InputSpec::mask, .shape = {3, 6000}});
    for (int i = 0; i < 2; ++i) many.inputs.push_back({.shape = {3, 6000, 128}});
    const auto one = [](const std::string& label, const Shape& x) {  // what `linear` makes of a square weight
      const int64_t c = x[-1];
      Sample sample{label, {{.shape = x}}, Attrs{false, false, false}};
      sample.inputs.push_back({.kind = InputSpec::param, .shape = {c, c}, .lo = -0.2, .hi = 0.2});
      sample.inputs.push_back({.kind = InputSpec::param, .shape = {c}});
      sample.inputs.push_back({.kind = InputSpec::absent, .shape = {}});
      for (int i = 0; i < 2; ++i) sample.inputs.push_back({.shape = x});
      return sample;
    };
    return {s, added, many, one("one layer, added", {37, 64}), one("one layer, many rows, added", {17003, 128})};
  }
};
FLARE_REGISTER_OP(ResidualMlpBackward);

struct ResidualMlp {
  static constexpr const char* name = "residual_mlp";
  using Attrs = ResidualMlpAttrs;
  static constexpr Keep keeps = Keep::inputs;
  static constexpr bool adds = true;  // a mixer's keys and values read the same tensor

  static OutSpecs infer(Inputs in, const Attrs& a) {
    check(in.size() % 2 == 1, name, ": needs as many biases as weights, got ", in.size() - 3, " of both");
    const Layers l = layers_of(in);
    check_layers(l, a, name);
    const Tensor& r = l.residual();
    check(!r || (r.shape() == l.x().shape() && r.dtype() == l.x().dtype()), name, ": residual must be like x, ", l.x().dtype(), " ",
          l.x().shape(), ", got ", r ? r.dtype() : DType::f32, " ", r ? r.shape() : Shape{});
    return {{l.x().shape(), l.x().dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const NoGrad no_grad;
    const Layers l = layers_of(in);
    if (is_fused_on_cpu(l)) return residual_mlp_forward_cpu(cpu_args_of(l, a, out[0], l.residual()));
    const Tensor y = masked_rows(layer_by_layer(l, a, [](const Tensor&, const Tensor&) {}), l.mask());
    copy(l.residual() ? l.residual() + y : y, out[0]);
  }
#if defined(FLARE_CUDA)
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream& stream) {
    const Layers l = layers_of(in);
    if (l.rows() == 0) return;
    dispatch_float_cuda(l.x().dtype(), name, [&](auto tag) {
      using T = typename decltype(tag)::type;
      std::vector<Tensor> held;
      ResidualMlpArgs<T> args = args_of<T>(l, a, held);
      if (l.residual()) {
        held.push_back(aligned(l.residual()));
        args.residual = held.back().data<T>();
      }
      args.y = out[0].data<T>();
      residual_mlp_forward_cuda<T>(args, stream);
    });
  }
#endif
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    std::vector<Tensor> in = s.inputs;
    in.back() = gy;
    in.push_back(s.addend);
    const std::vector<Tensor> out = apply_all<ResidualMlpBackward>(std::move(in), a);
    const auto n = static_cast<int64_t>((s.in_shapes.size() - 3) / 2), c = gy.size(-1);
    Grads g{out[0]};
    for (int64_t i = 0; i < n; ++i) g.push_back(out[1].view({c, c}, {c, 1}, i * c * c));
    for (int64_t i = 0; i < n; ++i) g.push_back(out[2].view({c}, {1}, i * c));
    g.emplace_back();  // the mask
    g.push_back(gy);
    return g;
  }
  static Tensor reference(Inputs in, const Attrs& a) {
    const Layers l = layers_of(in);
    Tensor y = layer_by_layer(l, a, [](const Tensor&, const Tensor&) {});
    if (l.mask()) {
      Shape column = y.shape();
      column[-1] = 1;
      const Tensor real = Tensor::empty(l.mask().shape(), y.dtype(), y.device());
      copy(l.mask(), real);
      y = y * real.viewed_as(column);
    }
    return l.residual() ? l.residual() + y : y;
  }
  static std::vector<Sample> samples() {
    const auto mlp = [](const std::string& label, const Shape& x, int n, const Attrs& a, bool differentiable, bool masked = false,
                        bool residual = false) {
      const int64_t c = x[-1];
      const double spread = 1.5 / std::sqrt(static_cast<double>(c));
      Sample s{label, {{.shape = x, .differentiable = differentiable}}, a};
      for (int i = 0; i < n; ++i)
        s.inputs.push_back(
            {.kind = InputSpec::param, .shape = {c, c}, .lo = -spread, .hi = spread, .differentiable = differentiable});
      for (int i = 0; i < n; ++i) s.inputs.push_back({.kind = InputSpec::param, .shape = {c}, .differentiable = differentiable});
      if (masked)
        s.inputs.push_back({.kind = InputSpec::mask, .shape = x.without(-1)});
      else
        s.inputs.push_back({.kind = InputSpec::absent, .shape = {}});
      if (residual)
        s.inputs.push_back({.shape = x, .differentiable = differentiable});
      else
        s.inputs.push_back({.kind = InputSpec::absent, .shape = {}});
      return s;
    };
    return {mlp("one layer", {3, 64}, 1, {false, false}, true),
            mlp("one layer, masked, beside a residual", {1, 5, 64}, 1, {true, true}, true, true, true),
            mlp("one layer, activated", {3, 64}, 1, {true, true, true}, true),
            mlp("one layer, many rows, beside a residual", {17003, 128}, 1, {false, false}, false, false, true),
            mlp("one layer, many rows, width 64", {9000, 64}, 1, {false, false}, false),
            mlp("two layers", {3, 64}, 2, {}, true),
            mlp("no residuals", {2, 64}, 3, {false, false}, true),
            mlp("masked", {1, 5, 64}, 2, {}, true, true),
            mlp("masked, beside a residual", {1, 5, 64}, 2, {}, true, true, true),
            mlp("many rows, masked", {3, 6000, 64}, 3, {}, false, true),
            mlp("many rows, masked, beside a residual", {3, 6000, 128}, 3, {}, false, true, true),
            mlp("five layers, width 128", {2, 33, 128}, 5, {}, false),
            mlp("many rows, width 64", {3, 5000, 64}, 3, {}, false),
            mlp("many rows, width 128", {20001, 128}, 3, {true, false}, false),
            mlp("five layers, many rows, width 128, masked", {3, 5700, 128}, 5, {}, false, true),
            mlp("six layers, many rows, width 128, no residuals", {17001, 128}, 6, {false, false}, false),
            mlp("last layer activated", {3, 64}, 2, {true, true, true}, true),
            mlp("last layer activated, no residual there", {2, 64}, 3, {true, false, true}, true),
            mlp("last layer activated, many rows, masked", {3, 6000, 128}, 3, {true, true, true}, false, true),
            mlp("last layer activated, many rows, width 64", {9000, 64}, 4, {false, true, true}, false),
            mlp("eight layers", {130, 64}, 8, {false, true}, false)};
  }
};
FLARE_REGISTER_OP(ResidualMlp);

Tensor residual_mlp(const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const Tensor& mask,
                    const ResidualMlpAttrs& attrs, const Tensor& residual) {
  check(weights.size() == biases.size(), "residual_mlp: ", weights.size(), " weights and ", biases.size(), " biases");
  std::vector<Tensor> in{x};
  in.insert(in.end(), weights.begin(), weights.end());
  in.insert(in.end(), biases.begin(), biases.end());
  in.push_back(mask);
  in.push_back(residual);
  return apply<ResidualMlp>(std::move(in), attrs);
}

bool residual_mlp_fusable(const Tensor& x, int64_t n_layers) {
  if (n_layers < 2 || n_layers > kMaxMlpLayers) return false;
  if (x.device() == Device::cpu) return x.dtype() == DType::f32 && has_residual_mlp_cpu(x.size(-1));
  return x.dtype() != DType::f64 && has_residual_mlp(x.dtype() == DType::bf16, x.size(-1));
}

}  // namespace flare
