#include "ops/matmul.h"

#include <algorithm>
#include <optional>

#include "autograd/op.h"
#include "core/gemm.h"
#include "ops/reduce.h"

namespace flare {
namespace {

/// How BLAS reads the last two axes of a tensor: as they are or transposed, with rows `ld` elements apart.
struct MatrixLayout {
  bool transposed;
  int64_t ld;
};
std::optional<MatrixLayout> layout_of(const Tensor& x) {
  const int64_t rows = x.size(-2), cols = x.size(-1), row_step = x.strides()[-2], col_step = x.strides()[-1];
  if (x.numel() == 0) return MatrixLayout{false, std::max<int64_t>(1, cols)};  // strides of an empty tensor mean nothing
  if ((col_step == 1 || cols <= 1) && (rows <= 1 || row_step >= std::max<int64_t>(1, cols)))
    return MatrixLayout{false, rows <= 1 ? std::max<int64_t>(1, cols) : row_step};
  if ((row_step == 1 || rows <= 1) && (cols <= 1 || col_step >= std::max<int64_t>(1, rows)))
    return MatrixLayout{true, cols <= 1 ? std::max<int64_t>(1, rows) : col_step};
  return std::nullopt;  // both axes strided, or an expanded one
}

/// One axis over which products repeat, with the steps of the three tensors along it (0: broadcast).
struct BatchAxis {
  int64_t size, a, b, c;
};
/// The leading axes of the result, outermost first; neighbours merge where all three tensors step evenly across them.
std::vector<BatchAxis> batch_axes(const Tensor& a, const Tensor& b, const Tensor& c) {
  std::vector<BatchAxis> axes;
  const auto step = [&](const Tensor& x, int axis) {
    const int i = axis - (c.ndim() - x.ndim());
    return i < 0 || x.size(i) == 1 ? 0 : x.strides()[i];
  };
  for (int i = 0; i < c.ndim() - 2; ++i) {
    if (c.size(i) == 1) continue;
    const BatchAxis inner{c.size(i), step(a, i), step(b, i), c.strides()[i]};
    if (!axes.empty()) {
      BatchAxis& outer = axes.back();
      if (outer.a == inner.a * inner.size && outer.b == inner.b * inner.size && outer.c == inner.c * inner.size) {
        outer = {outer.size * inner.size, inner.a, inner.b, inner.c};
        continue;
      }
    }
    axes.push_back(inner);
  }
  return axes;
}

Shape leading(const Shape& s) { return Shape(std::span<const int64_t>(s.begin(), static_cast<size_t>(s.ndim() - 2))); }
bool is_single_matrix(const Shape& s) { return leading(s).numel() == 1; }
Tensor as_matrix(const Tensor& x) {
  const int64_t cols = x.size(-1);
  return contiguous(x).viewed_as({cols == 0 ? leading(x.shape()).numel() * x.size(-2) : x.numel() / cols, cols});
}

}  // namespace

struct Matmul {
  static constexpr const char* name = "matmul";
  struct Attrs {
    bool transpose_a = false, transpose_b = false, unrounded = false;
  };
  static constexpr Keep keeps = Keep::inputs;
  static constexpr bool takes_strided = true;

  static OutSpecs infer(Inputs in, const Attrs& at) {
    const Tensor &a = in[0], &b = in[1];
    check(a.ndim() >= 2 && b.ndim() >= 2, "matmul: a ", a.shape(), " and b ", b.shape(), " need at least two axes each");
    check(a.dtype() == b.dtype() && is_float(a.dtype()), "matmul: needs two tensors of one floating dtype, got ", a.dtype(),
          " and ", b.dtype());
    const int64_t m = a.size(at.transpose_a ? -1 : -2), k = a.size(at.transpose_a ? -2 : -1);
    const int64_t k_b = b.size(at.transpose_b ? -1 : -2), n = b.size(at.transpose_b ? -2 : -1);
    check(k == k_b, "matmul: a ", a.shape(), at.transpose_a ? " transposed" : "", " and b ", b.shape(),
          at.transpose_b ? " transposed" : "", " disagree on k (", k, " vs ", k_b, ")");
    Shape shape = broadcast_shape(leading(a.shape()), leading(b.shape()), "matmul");
    shape.push_back(m);
    shape.push_back(n);
    return {{shape, at.unrounded ? param_dtype(a.dtype()) : a.dtype()}};
  }

  static void run(Inputs in, Outputs out, const Attrs& at, Stream& stream) {
    Tensor a = layout_of(in[0]) ? in[0] : contiguous(in[0]), b = layout_of(in[1]) ? in[1] : contiguous(in[1]);
    const Tensor& c = out[0];
    if (c.numel() == 0) return;
    std::vector<BatchAxis> axes = batch_axes(a, b, c);
    if (axes.size() > 1) {  // packed operands merge more axes, and one batched call is worth a copy
      a = contiguous(a);
      b = contiguous(b);
      axes = batch_axes(a, b, c);
    }
    const MatrixLayout la = *layout_of(a), lb = *layout_of(b);
    GemmArgs g;
    g.transpose_a = at.transpose_a != la.transposed;
    g.transpose_b = at.transpose_b != lb.transposed;
    g.m = c.size(-2), g.n = c.size(-1), g.k = a.size(at.transpose_a ? -2 : -1);
    g.lda = la.ld, g.ldb = lb.ld, g.ldc = g.n;
    g.dtype = a.dtype(), g.out_dtype = c.dtype();
    // One b for every batch entry and evenly spaced rows of a: all entries are one tall product.
    if (!axes.empty() && !g.transpose_a && axes.back().b == 0) {
      const BatchAxis axis = axes.back();
      if (g.m == 1 && axis.a >= g.k) g.lda = std::max<int64_t>(1, axis.a);
      if (axis.a == g.m * g.lda && axis.c == g.m * g.n) {
        g.m *= axis.size;
        axes.pop_back();
      } else {
        g.lda = la.ld;
      }
    }
    if (!axes.empty()) {
      g.batch = axes.back().size;
      g.stride_a = axes.back().a, g.stride_b = axes.back().b, g.stride_c = axes.back().c;
      axes.pop_back();
    }
    int64_t n_calls = 1;
    for (const BatchAxis& axis : axes) n_calls *= axis.size;
    for (int64_t call = 0; call < n_calls; ++call) {
      int64_t oa = 0, ob = 0, oc = 0, rest = call;
      for (auto axis = axes.rbegin(); axis != axes.rend(); ++axis) {
        const int64_t i = rest % axis->size;
        rest /= axis->size;
        oa += i * axis->a, ob += i * axis->b, oc += i * axis->c;
      }
      g.a = static_cast<const char*>(a.raw()) + oa * size_of(a.dtype());
      g.b = static_cast<const char*>(b.raw()) + ob * size_of(b.dtype());
      g.c = static_cast<char*>(c.raw()) + oc * size_of(c.dtype());
      gemm(g, stream);
    }
  }
  static void forward_cpu(Inputs in, Outputs out, const Attrs& at) { run(in, out, at, compute_stream(Device::cpu)); }
  static void forward_cuda(Inputs in, Outputs out, const Attrs& at, Stream& stream) { run(in, out, at, stream); }

  static Grads vjp(const Saved& s, const Tensor& cotangent, const Attrs& at) {
    const Tensor &a = s.in(0), &b = s.in(1);
    const Tensor gy = cast_to(cotangent, a.dtype());
    const bool ta = at.transpose_a, tb = at.transpose_b;
    Grads g(2);
    if (s.needs(0)) g[0] = sum_to(ta ? matmul(b, gy, tb, true) : matmul(gy, b, false, !tb), a.shape());
    if (s.needs(1)) {
      if (!ta && is_single_matrix(b.shape()) && !is_single_matrix(gy.shape())) {
        // The sum over the leading axes joins the sum over m: one long product, no intermediate per batch entry.
        const Tensor rows = as_matrix(a), grad_rows = as_matrix(gy);
        if (rows.size(0) == grad_rows.size(0))
          g[1] = (tb ? matmul(grad_rows, rows, true, false) : matmul(rows, grad_rows, true, false)).viewed_as(b.shape());
      }
      if (!g[1]) g[1] = sum_to(tb ? matmul(gy, a, true, ta) : matmul(a, gy, !ta, false), b.shape());
    }
    return g;
  }

  static std::vector<Sample> samples() {
    const auto pair = [](const std::string& label, const Shape& a, const Shape& b, Attrs at = {}, bool strided_a = false,
                         bool strided_b = false) {
      return Sample{label, {{.shape = a, .transposed = strided_a}, {.shape = b, .transposed = strided_b}}, at};
    };
    return {pair("one element", {1, 1}, {1, 1}),
            pair("odd sizes", {5, 7}, {7, 3}),
            pair("row times matrix", {1, 9}, {9, 11}),
            pair("outer product", {6, 1}, {1, 5}),
            pair("a transposed", {7, 5}, {7, 3}, {true, false}),
            pair("b transposed", {5, 7}, {3, 7}, {false, true}),
            pair("both transposed", {7, 5}, {3, 7}, {true, true}),
            pair("batch", {2, 3, 4, 5}, {2, 3, 5, 2}),
            pair("batch, both transposed", {3, 5, 4}, {3, 2, 5}, {true, true}),
            pair("shared matrix", {2, 3, 4}, {4, 5}),
            pair("shared matrix, transposed", {2, 3, 4}, {5, 4}, {false, true}),
            pair("shared left matrix", {3, 4}, {2, 4, 5}),
            pair("rows of a batch", {3, 1, 4}, {4, 5}),
            pair("batch broadcast", {2, 1, 3, 4}, {3, 4, 5}),
            pair("strided operands", {2, 4, 5}, {2, 5, 3}, {}, true, true),
            pair("strided, both transposed", {5, 4}, {3, 5}, {true, true}, true, true),
            pair("strided batch against one matrix", {2, 3, 4}, {4, 5}, {}, true, false),
            pair("unrounded", {13, 4}, {13, 6}, {true, false, true})};
  }
};
FLARE_REGISTER_OP(Matmul);

Tensor matmul(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  return apply<Matmul>({a, b}, {transpose_a, transpose_b, false});
}
Tensor matmul_unrounded(const Tensor& a, const Tensor& b, bool transpose_a, bool transpose_b) {
  return apply<Matmul>({a, b}, {transpose_a, transpose_b, true});
}

}  // namespace flare
