#include "ops/shaping.h"

#include "autograd/op.h"
#include "ops/reduce.h"

namespace flare {
namespace {

int axis_of(const Shape& s, int axis, const char* who) {
  const int i = axis < 0 ? axis + s.ndim() : axis;
  check(i >= 0 && i < s.ndim(), who, ": axis ", axis, " is outside x ", s);
  return i;
}
Tensor slice_view(const Tensor& x, int axis, int64_t start, int64_t length) {
  Shape shape = x.shape();
  shape[axis] = length;
  return x.view(shape, x.strides(), length == 0 ? 0 : start * x.strides()[axis]);
}

}  // namespace

struct Reshape {
  static constexpr const char* name = "reshape";
  struct Attrs {
    Shape shape;
  };
  static constexpr Keep keeps = Keep::nothing;
  static Tensor view(const Tensor& x, const Attrs& a) {
    Shape shape = a.shape;
    int open = -1;
    int64_t known = 1;
    for (int i = 0; i < shape.ndim(); ++i) {
      if (shape[i] == -1) {
        check(open < 0, name, ": more than one -1 in ", a.shape);
        open = i;
      } else {
        check(shape[i] >= 0, name, ": negative extent in ", a.shape);
        known *= shape[i];
      }
    }
    if (open >= 0) {
      check(known > 0 && x.numel() % known == 0, name, ": x ", x.shape(), " does not divide into ", a.shape);
      shape[open] = x.numel() / known;
    }
    check(shape.numel() == x.numel(), name, ": x ", x.shape(), " has ", x.numel(), " elements, ", a.shape, " has ", shape.numel());
    return contiguous(x).viewed_as(shape);
  }
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) { return {contiguous(gy).viewed_as(s.in_shape(0))}; }
  static std::vector<Sample> samples() {
    return {{"merge", {{.shape = {2, 3, 4}}}, Attrs{{6, 4}}},
            {"inferred extent", {{.shape = {2, 3, 4}}}, Attrs{{3, -1}}},
            {"strided", {{.shape = {3, 4}, .transposed = true}}, Attrs{{2, 6}}},
            {"one element", {{.shape = {1}}}, Attrs{{}}}};
  }
};
FLARE_REGISTER_OP(Reshape);

struct Transpose {
  static constexpr const char* name = "transpose";
  struct Attrs {
    int a = -2, b = -1;
  };
  static constexpr Keep keeps = Keep::nothing;
  static Tensor view(const Tensor& x, const Attrs& at) {
    const int a = axis_of(x.shape(), at.a, name), b = axis_of(x.shape(), at.b, name);
    Shape shape = x.shape(), strides = x.strides();
    std::swap(shape[a], shape[b]);
    std::swap(strides[a], strides[b]);
    return x.view(shape, strides);
  }
  static Grads vjp(const Saved&, const Tensor& gy, const Attrs& at) { return {view(gy, at)}; }
  static std::vector<Sample> samples() {
    return {{"last two", {{.shape = {2, 3, 5}}}, Attrs{-2, -1}},
            {"outer", {{.shape = {2, 3, 5}}}, Attrs{0, 2}},
            {"heads", {{.shape = {2, 7, 3, 4}}}, Attrs{1, 2}},
            {"same axis", {{.shape = {3, 2}}}, Attrs{1, -1}},
            {"strided", {{.shape = {4, 3}, .transposed = true}}, Attrs{0, 1}}};
  }
};
FLARE_REGISTER_OP(Transpose);

struct Slice {
  static constexpr const char* name = "slice";
  struct Attrs {
    int axis = 0;
    int64_t start = 0, length = 0;
  };
  static constexpr Keep keeps = Keep::nothing;
  static Tensor view(const Tensor& x, const Attrs& a) {
    const int axis = axis_of(x.shape(), a.axis, name);
    // Compared without adding, so that huge values cannot overflow.
    check(a.start >= 0 && a.length >= 0 && a.start <= x.size(axis) && a.length <= x.size(axis) - a.start, name, ": start ", a.start,
          " length ", a.length, " leaves axis ", a.axis, " of x ", x.shape());
    return slice_view(x, axis, a.start, a.length);
  }
  static constexpr bool adds = true;  // several slices of one tensor: the first makes its gradient, the others add to their part
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    if (s.addend && s.addend.is_sole_owner() && s.addend.is_contiguous()) {
      accumulate(gy, slice_view(s.addend, axis_of(s.in_shape(0), a.axis, name), a.start, a.length));
      return {s.addend};
    }
    const Tensor padded = pad_zero(gy, a.axis, a.start, s.in_shape(0)[a.axis] - a.start - a.length);
    return {s.addend ? sum_of(s.addend, padded) : padded};
  }
  static std::vector<Sample> samples() {
    return {{"first axis", {{.shape = {5, 3}}}, Attrs{0, 1, 3}},
            {"middle axis", {{.shape = {2, 7, 3}}}, Attrs{1, 4, 3}},
            {"last axis", {{.shape = {3, 5}}}, Attrs{-1, 0, 2}},
            {"whole axis", {{.shape = {3, 5}}}, Attrs{1, 0, 5}},
            {"strided", {{.shape = {4, 6}, .transposed = true}}, Attrs{1, 2, 1}}};
  }
};
FLARE_REGISTER_OP(Slice);

struct PadZero {
  static constexpr const char* name = "pad_zero";
  struct Attrs {
    int axis = 0;
    int64_t before = 0, after = 0;
  };
  static constexpr Keep keeps = Keep::nothing;
  static constexpr bool takes_strided = true;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    Shape shape = in[0].shape();
    const int axis = axis_of(shape, a.axis, name);
    check(a.before >= 0 && a.after >= 0, name, ": negative padding ", a.before, ", ", a.after);
    shape[axis] += a.before + a.after;
    return {{shape, in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int axis = axis_of(in[0].shape(), a.axis, name);
    if (a.before) fill(slice_view(out[0], axis, 0, a.before), 0);
    if (a.after) fill(slice_view(out[0], axis, a.before + in[0].size(axis), a.after), 0);
    copy(in[0], slice_view(out[0], axis, a.before, in[0].size(axis)));
  }
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream&) { forward_cpu(in, out, a); }
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    return {slice(gy, a.axis, a.before, s.in_shape(0)[a.axis])};
  }
  static std::vector<Sample> samples() {
    return {{"both sides", {{.shape = {2, 3, 4}}}, Attrs{1, 2, 1}},
            {"last axis", {{.shape = {3, 5}}}, Attrs{-1, 0, 3}},
            {"nothing added", {{.shape = {3, 2}}}, Attrs{0, 0, 0}},
            {"strided", {{.shape = {4, 3}, .transposed = true}}, Attrs{0, 1, 2}}};
  }
};
FLARE_REGISTER_OP(PadZero);

struct Expand {
  static constexpr const char* name = "expand";
  struct Attrs {
    Shape shape;
  };
  static constexpr Keep keeps = Keep::nothing;
  static Tensor view(const Tensor& x, const Attrs& a) {
    const int extra = a.shape.ndim() - x.ndim();
    check(extra >= 0, name, ": x ", x.shape(), " has more axes than ", a.shape);
    Shape strides;
    for (int i = 0; i < a.shape.ndim(); ++i) {
      const int64_t d = i < extra ? 1 : x.size(i - extra);
      check(a.shape[i] >= 0 && (d == a.shape[i] || d == 1), name, ": x ", x.shape(), " does not stretch to ", a.shape, " (axis ", i,
            ": ", d, " against ", a.shape[i], ")");
      strides.push_back(d == a.shape[i] && i >= extra ? x.strides()[i - extra] : 0);
    }
    return x.view(a.shape, strides);
  }
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs&) { return {sum_to(gy, s.in_shape(0))}; }
  static std::vector<Sample> samples() {
    return {{"leading axes", {{.shape = {3, 4}}}, Attrs{{2, 5, 3, 4}}},
            {"inner axis", {{.shape = {2, 1, 4}}}, Attrs{{2, 3, 4}}},
            {"both", {{.shape = {1, 5}}}, Attrs{{2, 3, 5}}},
            {"nothing", {{.shape = {2, 3}}}, Attrs{{2, 3}}},
            {"scalar", {{.shape = {}}}, Attrs{{3, 2}}}};
  }
};
FLARE_REGISTER_OP(Expand);

struct Concat {
  static constexpr const char* name = "concat";
  struct Attrs {
    int axis = 0;
  };
  static constexpr Keep keeps = Keep::nothing;
  static constexpr bool takes_strided = true;
  static OutSpecs infer(Inputs in, const Attrs& a) {
    for (const Tensor& x : in) check(x.defined(), name, ": an input is undefined");
    Shape shape = in[0].shape();
    const int axis = axis_of(shape, a.axis, name);
    for (size_t i = 1; i < in.size(); ++i) {
      check(in[i].ndim() == shape.ndim() && in[i].shape().without(axis) == shape.without(axis), name, ": inputs 0 ", in[0].shape(),
            " and ", i, " ", in[i].shape(), " differ outside axis ", a.axis);
      check(in[i].dtype() == in[0].dtype(), name, ": inputs 0 and ", i, " are ", in[0].dtype(), " and ", in[i].dtype());
      shape[axis] += in[i].size(axis);
    }
    return {{shape, in[0].dtype()}};
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& a) {
    const int axis = axis_of(in[0].shape(), a.axis, name);
    int64_t start = 0;
    for (const Tensor& x : in) {
      copy(x, slice_view(out[0], axis, start, x.size(axis)));
      start += x.size(axis);
    }
  }
  static void forward_cuda(Inputs in, Outputs out, const Attrs& a, Stream&) { forward_cpu(in, out, a); }
  static Grads vjp(const Saved& s, const Tensor& gy, const Attrs& a) {
    Grads g(s.in_shapes.size());
    int64_t start = 0;
    for (size_t i = 0; i < g.size(); ++i) {
      const int64_t length = s.in_shape(i)[a.axis];
      if (s.needs(i)) g[i] = slice(gy, a.axis, start, length);
      start += length;
    }
    return g;
  }
  static std::vector<Sample> samples() {
    return {{"first axis", {{.shape = {2, 3}}, {.shape = {4, 3}}}, Attrs{0}},
            {"last axis, three inputs", {{.shape = {2, 3}}, {.shape = {2, 1}}, {.shape = {2, 4}}}, Attrs{-1}},
            {"middle axis", {{.shape = {2, 1, 3}}, {.shape = {2, 5, 3}}}, Attrs{1}},
            {"one input", {{.shape = {3, 2}}}, Attrs{0}},
            {"strided", {{.shape = {4, 3}, .transposed = true}, {.shape = {4, 2}, .transposed = true}}, Attrs{1}}};
  }
};
FLARE_REGISTER_OP(Concat);

Tensor reshape(const Tensor& x, const Shape& shape) { return apply<Reshape>({x}, {shape}); }
Tensor transpose(const Tensor& x, int a, int b) { return apply<Transpose>({x}, {a, b}); }
Tensor slice(const Tensor& x, int axis, int64_t start, int64_t length) { return apply<Slice>({x}, {axis, start, length}); }
Tensor pad_zero(const Tensor& x, int axis, int64_t before, int64_t after) { return apply<PadZero>({x}, {axis, before, after}); }
Tensor expand(const Tensor& x, const Shape& shape) { return apply<Expand>({x}, {shape}); }
Tensor concat(const std::vector<Tensor>& xs, int axis) {
  check(!xs.empty(), "concat: no tensors given");
  return apply<Concat>(xs, {axis});
}

}  // namespace flare
