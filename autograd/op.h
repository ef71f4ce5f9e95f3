#pragma once
/// The contract every op fulfils, and `apply`, the one way an op runs. An op is a struct with
///   static constexpr const char* name;
///   struct Attrs {...};                                      plain data: axes, seeds, scales
///   static std::vector<Sample> samples();                    cases that the tests and the benchmark run
/// and one of three bodies:
///   kernel:     infer, forward_cpu, forward_cuda, and either vjp or `not_differentiable` (a reason)
///   view:       static Tensor view(const Tensor& x, const Attrs&), and vjp; moves no data
///   composite:  static Tensor compose(Inputs, const Attrs&); other ops, whose derivatives do the rest
/// A fused kernel op adds `static Tensor reference(Inputs, const Attrs&)`: the plain composition, its oracle. One whose
/// forward_cuda takes much memory for itself says so: `static int64_t workspace(Inputs, const Attrs&)`, in bytes, for memory plans.
/// Inputs reach kernels contiguous unless the op says `static constexpr bool takes_strided = true`. Optional inputs are
/// undefined tensors. Output 0 is the result; further outputs (statistics) carry no gradient. An op whose input 0 others often read
/// as well may say `static constexpr bool adds = true`: its vjp then returns the gradient of input 0 plus s.addend, where that is
/// defined, which saves a pass over memory.
#include <any>
#include <concepts>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "autograd/node.h"
#include "core/rehearsal.h"
#include "core/tensor.h"

namespace flare {

using Inputs = std::span<const Tensor>;
using Outputs = std::span<Tensor>;
struct OutSpec {
  Shape shape;
  DType dtype;
};
using OutSpecs = std::vector<OutSpec>;

/// Why an op that is itself a backward pass states no derivative.
inline constexpr const char* kFirstOrderOnly = "a backward pass; the tape differentiates once";

/// What the tape must hold on to for the vjp. Shapes and dtypes are always kept.
enum class Keep { nothing, inputs, outputs, both, inputs_and_statistics };  // statistics: outputs but the first

/// What a vjp sees: the kept tensors (accessing one that was not kept throws), shapes, and which gradients are wanted.
class Saved {
 public:
  std::vector<Tensor> inputs, outputs;
  std::vector<Shape> in_shapes;  // empty Shape for an absent input
  std::vector<DType> in_dtypes;
  std::vector<bool> wanted;
  Tensor addend;  // what other ops gave for input 0 so far, for ops that add; they may write to it if nobody else holds it
  const Tensor& in(size_t i) const { return inputs.at(i); }
  const Tensor& out(size_t i = 0) const { return outputs.at(i); }
  const Shape& in_shape(size_t i) const { return in_shapes.at(i); }
  bool needs(size_t i) const { return wanted.at(i); }
};

/// One random input of a test case. `real`: floating, of the dtype under test; `param`: floating, of param_dtype(dtype under
/// test); `index`: i64 in [lo, hi); `mask`: u8, about 70 % ones, the first along the last axis always 1; `values`: exactly
/// these, cast to `fixed_dtype`; `absent`: undefined.
struct InputSpec {
  enum Kind { real, param, index, mask, values, absent } kind = real;
  Shape shape;
  double lo = -1, hi = 1;          // uniform range of real, param, index
  bool differentiable = true;      // real and param only: false leaves it out of the derivative check
  bool transposed = false;         // hand over a non-contiguous view (last two axes swapped in memory)
  std::vector<double> fixed = {};  // Kind::values
  DType fixed_dtype = DType::i64;
};

struct Sample {
  std::string label;
  std::vector<InputSpec> inputs;
  std::any attrs;
  double tolerance_f32 = 1e-5;   // CPU against CUDA and fused against plain: max |a-b| over max |b|
  double tolerance_bf16 = 2e-2;  // where looser than this, the reason stands beside the sample
  double tolerance_grad = 1e-6;  // derivative check in f64
};

template <class Op>
concept HasVjp = requires(const Saved& s, const Tensor& gy, const typename Op::Attrs& a) {
  { Op::vjp(s, gy, a) } -> std::convertible_to<Grads>;
};
template <class Op>
concept SaysWhyNot = requires {
  { Op::not_differentiable } -> std::convertible_to<const char*>;
};
template <class Op>
concept HasReference = requires(Inputs in, const typename Op::Attrs& a) {
  { Op::reference(in, a) } -> std::convertible_to<Tensor>;
};
template <class Op>
concept NamedOp = requires {
  { Op::name } -> std::convertible_to<const char*>;
  typename Op::Attrs;
  { Op::samples() } -> std::convertible_to<std::vector<Sample>>;
};
template <class Op>
concept KernelOp = NamedOp<Op> &&
    (HasVjp<Op> || SaysWhyNot<Op>)&&requires(Inputs in, Outputs out, const typename Op::Attrs& a, Stream& stream) {
  { Op::infer(in, a) } -> std::convertible_to<OutSpecs>;  // every argument check lives here
  Op::forward_cpu(in, out, a);
#if defined(FLARE_CUDA)
  Op::forward_cuda(in, out, a, stream);
#endif
};
template <class Op>
concept ViewOp = NamedOp<Op> && HasVjp<Op> && requires(const Tensor& x, const typename Op::Attrs& a) {
  { Op::view(x, a) } -> std::convertible_to<Tensor>;
};
template <class Op>
concept CompositeOp = NamedOp<Op> && requires(Inputs in, const typename Op::Attrs& a) {
  { Op::compose(in, a) } -> std::convertible_to<Tensor>;
};
template <class Op>
concept AnyOp = KernelOp<Op> || ViewOp<Op> || CompositeOp<Op>;

template <class Op> constexpr Keep keeps_of() {
  if constexpr (requires {
                  { Op::keeps } -> std::convertible_to<Keep>;
                })
    return Op::keeps;
  return Keep::both;
}
template <class Op> int64_t workspace_of(Inputs in, const typename Op::Attrs& attrs) {
  if constexpr (requires {
                  { Op::workspace(in, attrs) } -> std::convertible_to<int64_t>;
                })
    return Op::workspace(in, attrs);
  return 0;
}
template <class Op> constexpr bool takes_strided_of() {
  if constexpr (requires {
                  { Op::takes_strided } -> std::convertible_to<bool>;
                })
    return Op::takes_strided;
  return false;
}

template <class Op> constexpr bool adds_of() {
  if constexpr (requires {
                  { Op::adds } -> std::convertible_to<bool>;
                })
    return Op::adds;
  return false;
}

// Pieces of apply that do not depend on the op; in autograd/op.cpp.
Device common_device(const char* op, Inputs in);
void observe(const char* op, Outputs out);
void record(const char* op, Inputs in, Outputs out, Keep keep, bool adds, std::function<Grads(const Saved&, const Tensor&)> vjp);
[[noreturn]] void throw_no_cuda(const char* op);

/// Runs an op on the device of its inputs and records it when a gradient is wanted. Returns all outputs.
template <AnyOp Op> std::vector<Tensor> apply_all(std::vector<Tensor> in, const typename Op::Attrs& attrs = {}) {
  const Device device = common_device(Op::name, in);
  std::vector<Tensor> out;
  if constexpr (CompositeOp<Op>) {
    return {Op::compose(in, attrs)};
  } else {
    if constexpr (ViewOp<Op>) {
      out.push_back(Op::view(in[0], attrs));
    } else {
      std::vector<Tensor> packed = in;
      for (const OutSpec& spec : Op::infer(Inputs(in), attrs)) out.push_back(Tensor::empty(spec.shape, spec.dtype, device));
      if constexpr (!takes_strided_of<Op>())
        for (Tensor& x : packed)
          if (x) x = contiguous(x);
      if (device == Device::cpu) {
        Op::forward_cpu(Inputs(packed), Outputs(out), attrs);
      } else if (rehearsing()) {
        Tensor::empty(Shape{workspace_of<Op>(Inputs(packed), attrs)}, DType::u8, device);
      } else {
#if defined(FLARE_CUDA)
        Op::forward_cuda(Inputs(packed), Outputs(out), attrs, compute_stream(device));
#else
        throw_no_cuda(Op::name);
#endif
      }
    }
    observe(Op::name, Outputs(out));
    if constexpr (HasVjp<Op>) {
      record(Op::name, Inputs(in), Outputs(out), keeps_of<Op>(), adds_of<Op>(),
             [attrs](const Saved& saved, const Tensor& gy) { return Op::vjp(saved, gy, attrs); });
    } else {
      record(Op::name, Inputs(in), Outputs(out), Keep::nothing, false, [](const Saved&, const Tensor&) -> Grads {
        throw ShapeError(cat(Op::name, ": has no derivative: ", Op::not_differentiable));
      });
    }
    return out;
  }
}
/// Runs an op and returns its result.
template <AnyOp Op> Tensor apply(std::vector<Tensor> in, const typename Op::Attrs& attrs = {}) {
  return std::move(apply_all<Op>(std::move(in), attrs)[0]);
}

/// What the registry holds of an op: enough to run its samples without naming it.
struct OpEntry {
  std::string name;
  std::function<std::vector<Sample>()> samples;
  std::function<std::vector<Tensor>(const std::vector<Tensor>&, const std::any&)> run;
  std::function<Tensor(const std::vector<Tensor>&, const std::any&)> reference;  // empty unless fused
  std::string not_differentiable;                                                // empty when it has a derivative
};
/// All registered ops, sorted by name.
const std::vector<OpEntry>& registered_ops();
const OpEntry& find_op(const std::string& name);
bool register_op(OpEntry entry);

template <AnyOp Op> OpEntry entry_of() {
  OpEntry e;
  e.name = Op::name;
  e.samples = [] { return Op::samples(); };
  e.run = [](const std::vector<Tensor>& in, const std::any& a) {
    return apply_all<Op>(in, std::any_cast<const typename Op::Attrs&>(a));
  };
  if constexpr (HasReference<Op>)
    e.reference = [](const std::vector<Tensor>& in, const std::any& a) {
      return Op::reference(Inputs(in), std::any_cast<const typename Op::Attrs&>(a));
    };
  if constexpr (SaysWhyNot<Op>) e.not_differentiable = Op::not_differentiable;
  return e;
}
#define FLARE_JOIN_(a, b) a##b
#define FLARE_JOIN(a, b) FLARE_JOIN_(a, b)
/// Registers an op at program start; the file must be part of the OBJECT library flare_ops.
#define FLARE_REGISTER_OP(...)                                                 \
  [[maybe_unused]] static const bool FLARE_JOIN(flare_registered_, __LINE__) = \
      ::flare::register_op(::flare::entry_of<__VA_ARGS__>())

}  // namespace flare
