/// Products against plain loops, bit-equality over thread counts, and closed forms of linear, the shaping ops and rope.
#include <doctest/doctest.h>

#include <cmath>
#include <limits>

#include "autograd/op.h"
#include "core/gemm.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "ops/linear.h"
#include "ops/matmul.h"
#include "ops/rope.h"
#include "ops/shaping.h"

using namespace flare;

namespace {

Tensor random(const Shape& shape, DType dtype, uint64_t seed) {
  Rng rng(seed);
  std::vector<double> values(static_cast<size_t>(shape.numel()));
  for (double& v : values) v = 2 * rng.uniform() - 1;
  return cast_to(Tensor::from(values, shape), dtype);
}

/// Restores the number of threads when it goes out of scope.
struct Threads {
  int before = thread_count();
  explicit Threads(int n) { set_thread_count(n); }
  ~Threads() { set_thread_count(before); }
};

double relative_tolerance(DType t) { return t == DType::f64 ? 1e-13 : t == DType::f32 ? 3e-6 : 5e-3; }

struct GemmCase {
  int64_t m, n, k, batch;
  bool transpose_a, transpose_b;
  double alpha, beta;
  bool shared_b;  // one B for the whole batch
  int64_t gap;    // elements between the end of a row and the next, and between batch entries
  DType dtype, out_dtype;
};

/// Runs gemm_cpu on fresh random operands. C starts as random numbers, or as NaN where beta is 0 and must not be read.
struct GemmRun {
  Tensor a, b, before, c;
  GemmArgs args;
  explicit GemmRun(const GemmCase& p) {
    const int64_t a_rows = p.transpose_a ? p.k : p.m, a_cols = p.transpose_a ? p.m : p.k;
    const int64_t b_rows = p.transpose_b ? p.n : p.k, b_cols = p.transpose_b ? p.k : p.n;
    args.transpose_a = p.transpose_a, args.transpose_b = p.transpose_b;
    args.m = p.m, args.n = p.n, args.k = p.k, args.batch = p.batch, args.alpha = p.alpha, args.beta = p.beta;
    args.lda = std::max<int64_t>(1, a_cols) + p.gap, args.ldb = std::max<int64_t>(1, b_cols) + p.gap, args.ldc = p.n + p.gap;
    args.stride_a = a_rows * args.lda + p.gap, args.stride_b = p.shared_b ? 0 : b_rows * args.ldb + p.gap;
    args.stride_c = p.m * args.ldc + p.gap;
    args.dtype = p.dtype, args.out_dtype = p.out_dtype;
    a = random({p.batch * args.stride_a + 1}, p.dtype, 1);
    b = random({(p.shared_b ? 1 : p.batch) * (b_rows * args.ldb + p.gap) + 1}, p.dtype, 2);
    before = p.beta == 0 ? Tensor::full({p.batch * args.stride_c}, std::numeric_limits<double>::quiet_NaN(), p.out_dtype)
                         : random({p.batch * args.stride_c}, p.out_dtype, 3);
    c = clone(before);
    args.a = a.raw(), args.b = b.raw(), args.c = c.raw();
    gemm_cpu(args);
  }
};

/// Largest error of a run relative to what rounding may do: sum |a b| + |beta c|. Infinity if an element outside C changed.
double gemm_error(const GemmCase& p) {
  const GemmRun run(p);
  const std::vector<double> a = run.a.to_vector(), b = run.b.to_vector(), before = run.before.to_vector(), c = run.c.to_vector();
  const GemmArgs& g = run.args;
  const auto at = [](const std::vector<double>& x, int64_t i) { return x[static_cast<size_t>(i)]; };
  std::vector<bool> is_result(c.size(), false);
  double worst = 0;
  for (int64_t i = 0; i < p.batch; ++i)
    for (int64_t r = 0; r < p.m; ++r)
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0, scale = 1e-30;
        for (int64_t l = 0; l < p.k; ++l) {
          const double x = at(a, i * g.stride_a + (p.transpose_a ? l * g.lda + r : r * g.lda + l));
          const double y = at(b, i * g.stride_b + (p.transpose_b ? j * g.ldb + l : l * g.ldb + j));
          sum += x * y;
          scale += std::abs(x * y);
        }
        const int64_t place = i * g.stride_c + r * g.ldc + j;
        const double old = p.beta == 0 ? 0 : p.beta * at(before, place);
        const double error = std::abs(at(c, place) - (p.alpha * sum + old)) / (std::abs(p.alpha) * scale + std::abs(old));
        if (!(error <= worst)) worst = error;  // a NaN counts as worst
        is_result[static_cast<size_t>(place)] = true;
      }
  for (size_t i = 0; i < c.size(); ++i) {
    const bool same = c[i] == before[i] || (std::isnan(c[i]) && std::isnan(before[i]));
    if (!is_result[i] && !same) return std::numeric_limits<double>::infinity();
  }
  return worst;
}

std::string bits(const Tensor& x) {
  const Tensor packed = contiguous(x);
  return {static_cast<const char*>(packed.raw()), static_cast<size_t>(packed.bytes())};
}

/// The sum of x*y over all elements.
double dot(const Tensor& x, const Tensor& y) {
  const std::vector<double> a = x.to_vector(), b = y.to_vector();
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}
double max_difference(const Tensor& x, const Tensor& y) {
  REQUIRE(x.shape() == y.shape());
  const std::vector<double> a = x.to_vector(), b = y.to_vector();
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i)
    if (!(std::abs(a[i] - b[i]) <= worst)) worst = std::abs(a[i] - b[i]);
  return worst;
}

}  // namespace

TEST_CASE("gemm_cpu equals the triple loop for every transpose, beta, stride, batch and dtype") {
  const std::pair<DType, DType> types[] = {
      {DType::f64, DType::f64}, {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}};
  const int64_t sizes[][3] = {{1, 1, 1}, {1, 5, 7}, {5, 1, 3}, {17, 9, 33}, {70, 66, 40}, {3, 4, 0}};
  for (const auto& [dtype, out_dtype] : types)
    for (const auto& [m, n, k] : sizes)
      for (int flags = 0; flags < 16; ++flags)
        for (const int64_t batch : {1, 3}) {
          GemmCase p{m,
                     n,
                     k,
                     batch,
                     (flags & 1) != 0,
                     (flags & 2) != 0,
                     (flags & 4) ? -0.5 : 1.0,
                     0,
                     (flags & 8) != 0,
                     (flags & 4) ? 3 : 0,
                     dtype,
                     out_dtype};
          for (const double beta : {0.0, 1.0, 0.25}) {
            p.beta = beta;
            INFO(dtype, " -> ", out_dtype, " m=", m, " n=", n, " k=", k, " batch=", batch, " flags=", flags, " beta=", beta);
            CHECK(gemm_error(p) <= relative_tolerance(out_dtype == DType::f32 && dtype == DType::bf16 ? DType::f32 : dtype));
          }
        }
}

TEST_CASE("gemm_cpu cut into row, column and k pieces equals the triple loop") {
  const int64_t sizes[][3] = {{2000, 33, 47}, {20, 2500, 31}, {300, 1100, 40}, {12, 10, 40000}, {33, 17, 5001}, {64, 48, 8192}};
  for (const auto& [m, n, k] : sizes)
    for (int flags = 0; flags < 4; ++flags)
      for (const double beta : {0.0, 0.5}) {
        INFO("m=", m, " n=", n, " k=", k, " flags=", flags, " beta=", beta);
        CHECK(gemm_error({m, n, k, 1, (flags & 1) != 0, (flags & 2) != 0, 1.5, beta, false, 2, DType::f32, DType::f32}) <=
              relative_tolerance(DType::f32));
      }
  CHECK(gemm_error({12, 10, 20000, 2, true, false, 1, 0, true, 0, DType::f64, DType::f64}) <= relative_tolerance(DType::f64));
  CHECK(gemm_error({12, 10, 20000, 1, true, false, 1, 0, false, 0, DType::bf16, DType::f32}) <= relative_tolerance(DType::f32));
}

TEST_CASE("gemm_cpu gives the same bits on one, two and five threads") {
  const int64_t sizes[][4] = {{3000, 64, 64, 1}, {64, 64, 30000, 1}, {40, 40, 40, 37}, {128, 2100, 64, 1}};
  for (const auto& [m, n, k, batch] : sizes)
    for (const DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      const GemmCase p{m, n, k, batch, true, false, 1, 0, false, 0, dtype, dtype};
      std::string one;
      {
        const Threads t(1);
        one = bits(GemmRun(p).c);
      }
      for (const int n_threads : {2, 5}) {
        const Threads t(n_threads);
        INFO(dtype, " m=", m, " n=", n, " k=", k, " batch=", batch, " threads=", n_threads);
        CHECK(bits(GemmRun(p).c) == one);
      }
    }
}

TEST_CASE("gemm refuses what BLAS would get wrong") {
  const GemmCase p{4, 4, 4, 2, false, false, 1, 0, false, 0, DType::f32, DType::f32};
  const GemmRun run(p);
  GemmArgs g = run.args;
  g.lda = 3;
  CHECK_THROWS_WITH_AS(gemm_cpu(g), "gemm: row stride 3 of A is below its row length", ShapeError);
  g = run.args, g.stride_c = 0;
  CHECK_THROWS_AS(gemm_cpu(g), ShapeError);
  g = run.args, g.out_dtype = DType::bf16;
  CHECK_THROWS_AS(gemm_cpu(g), ShapeError);
  g = run.args, g.m = int64_t{1} << 32;
  CHECK_THROWS_AS(gemm_cpu(g), ShapeError);
  g = run.args, g.dtype = g.out_dtype = DType::i64;
  CHECK_THROWS_AS(gemm_cpu(g), ShapeError);
  if (!cuda_built()) CHECK_THROWS_AS(gemm_cuda(run.args, compute_stream(Device::cpu)), DeviceError);
}

TEST_CASE("matmul reads views in place and broadcasts as NumPy does") {
  const Tensor a = random({2, 3, 4, 5}, DType::f64, 1), b = random({3, 5, 6}, DType::f64, 2);
  const Tensor y = matmul(a, b);
  CHECK(y.shape() == Shape{2, 3, 4, 6});
  for (int64_t i = 0; i < 2; ++i)
    for (int64_t h = 0; h < 3; ++h) {
      const Tensor expected = matmul(a.view({4, 5}, {5, 1}, (i * 3 + h) * 20), b.view({5, 6}, {6, 1}, h * 30));
      CHECK(max_difference(y.view({4, 6}, {6, 1}, (i * 3 + h) * 24), expected) < 1e-14);
    }
  // Heads split off the channels: [B,N,H,D] seen as [B,H,N,D], and an operand with a stretched row.
  const Tensor q = transpose(random({2, 7, 3, 4}, DType::f64, 3), 1, 2), k = transpose(random({2, 9, 3, 4}, DType::f64, 4), 1, 2);
  CHECK(max_difference(matmul(q, k, false, true), matmul(contiguous(q), contiguous(transpose(k, 2, 3)))) < 1e-14);
  const Tensor row = expand(random({1, 5}, DType::f64, 5), {4, 5});
  CHECK(max_difference(matmul(row, random({5, 3}, DType::f64, 6)), matmul(contiguous(row), random({5, 3}, DType::f64, 6))) < 1e-15);
  const Tensor every_second = random({6, 2, 5}, DType::f64, 7).view({6, 1, 5}, {10, 5, 1});
  CHECK(max_difference(matmul(every_second, random({5, 3}, DType::f64, 8)),
                       matmul(contiguous(every_second), random({5, 3}, DType::f64, 8))) < 1e-15);
  CHECK(matmul(random({2, 0}, DType::f32, 1), random({0, 3}, DType::f32, 1)).to_vector() == std::vector<double>(6, 0.0));

  const Tensor x = random({2, 3}, DType::f32, 1);
  CHECK_THROWS_WITH_AS(matmul(x, random({4, 5}, DType::f32, 1)), "matmul: a [2,3] and b [4,5] disagree on k (3 vs 4)", ShapeError);
  CHECK_THROWS_WITH_AS(matmul(random({2, 2, 3}, DType::f32, 1), random({3, 3, 4}, DType::f32, 1)),
                       "matmul: shapes [2] and [3] do not broadcast (axis 0: 2 against 3)", ShapeError);
  CHECK_THROWS_AS(matmul(x, random({3, 2}, DType::f64, 1)), ShapeError);
  CHECK_THROWS_AS(matmul(x, random({3}, DType::f32, 1)), ShapeError);
}

TEST_CASE("linear: values, parameter gradients in f32 beside bf16, messages") {
  const Tensor x = Tensor::from<double>({1, 2, 3, 4}, {2, 2}), w = Tensor::from<double>({1, 0, 0, 1, 2, -1}, {3, 2});
  CHECK(linear(x, w, Tensor::from<double>({10, 20, 30}, {3})).to_vector() == std::vector<double>{11, 22, 30, 13, 24, 32});
  CHECK(linear(x, w).to_vector() == std::vector<double>{1, 2, 0, 3, 4, 2});

  // 600 equal cotangents of 1: a bf16 running sum would stop at 256.
  const Tensor tokens = Tensor::full({2, 300, 2}, 0.5, DType::bf16), weight = Tensor::full({3, 2}, 0.25, DType::f32),
               bias = Tensor::zeros({3}, DType::f32);
  for (const Tensor& t : {tokens, weight, bias}) set_requires_grad(t);
  const Tensor y = linear(tokens, weight, bias);
  CHECK(y.dtype() == DType::bf16);
  backward(y, Tensor::full(y.shape(), 1, DType::bf16));
  CHECK(grad(weight).dtype() == DType::f32);
  CHECK(grad(weight).to_vector() == std::vector<double>(6, 300.0));
  CHECK(grad(bias).dtype() == DType::f32);
  CHECK(grad(bias).to_vector() == std::vector<double>(3, 600.0));
  CHECK(grad(tokens).to_vector() == std::vector<double>(1200, 0.75));

  CHECK_THROWS_WITH_AS(linear(random({8, 32}, DType::f32, 1), random({64, 16}, DType::f32, 1)),
                       "linear: x [8,32] and weight [64,16] disagree on C (32 vs 16)", ShapeError);
  CHECK_THROWS_AS(linear(random({8, 16}, DType::f32, 1), random({64, 16}, DType::f32, 1), random({16}, DType::f32, 1)), ShapeError);
  CHECK_THROWS_AS(linear(random({8, 16}, DType::bf16, 1), random({64, 16}, DType::bf16, 1)), ShapeError);
}

TEST_CASE("linear and its gradients have the same bits on any number of threads") {
  const auto run = [](int n_threads) {
    const Threads t(n_threads);
    const Tensor x = random({5000, 24}, DType::f32, 1), w = random({40, 24}, DType::f32, 2), b = random({40}, DType::f32, 3);
    for (const Tensor& p : {x, w, b}) set_requires_grad(p);
    const Tensor y = linear(x, w, b);
    backward(y, random(y.shape(), DType::f32, 4));
    return bits(y) + bits(grad(x)) + bits(grad(w)) + bits(grad(b));
  };
  const std::string one = run(1);
  CHECK(run(2) == one);
  CHECK(run(7) == one);
}

TEST_CASE("column_sum over many row blocks") {
  const Tensor x = Tensor::full({3, 5000, 3}, 1, DType::bf16);
  CHECK(column_sum(x).to_vector() == std::vector<double>(3, 15000.0));
  CHECK(column_sum(Tensor::zeros({0, 4}, DType::f32)).to_vector() == std::vector<double>(4, 0.0));
}

TEST_CASE("views share storage and say so by their values") {
  const Tensor x = Tensor::from<float>({0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, {3, 4});
  const Tensor r = reshape(x, {2, -1}), t = transpose(x, 0, 1), s = slice(x, 1, 1, 2), e = expand(slice(x, 0, 0, 1), {2, 3, 4});
  for (const Tensor& v : {r, t, s, e}) CHECK(v.same_storage(x));
  CHECK(r.shape() == Shape{2, 6});
  CHECK(t.to_vector() == std::vector<double>{0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11});
  CHECK(s.to_vector() == std::vector<double>{1, 2, 5, 6, 9, 10});
  CHECK(e.strides()[0] == 0);
  CHECK(e.item(17) == 1);
  const Tensor packed = reshape(t, {12});
  CHECK_FALSE(packed.same_storage(x));
  CHECK(packed.to_vector() == t.to_vector());

  CHECK_THROWS_WITH_AS(transpose(x, 0, 3), "transpose: axis 3 is outside x [3,4]", ShapeError);
  CHECK_THROWS_WITH_AS(slice(x, 1, 3, 2), "slice: start 3 length 2 leaves axis 1 of x [3,4]", ShapeError);
  CHECK_THROWS_AS(slice(x, 0, -1, 1), ShapeError);
  CHECK_THROWS_AS(slice(x, 0, 1, std::numeric_limits<int64_t>::max()), ShapeError);
  CHECK_THROWS_AS(reshape(x, {5, -1}), ShapeError);
  CHECK_THROWS_AS(reshape(x, {-1, -1}), ShapeError);
  CHECK_THROWS_AS(reshape(x, {3, 5}), ShapeError);
  CHECK_THROWS_AS(expand(x, {3, 5}), ShapeError);
  CHECK_THROWS_AS(expand(x, {4}), ShapeError);
}

TEST_CASE("gradients of views land in the right places") {
  const Tensor x = random({3, 4}, DType::f64, 1);
  set_requires_grad(x);
  backward(slice(x, 1, 1, 2), Tensor::from<double>({1, 2, 3, 4, 5, 6}, {3, 2}));
  CHECK(grad(x).to_vector() == std::vector<double>{0, 1, 2, 0, 0, 3, 4, 0, 0, 5, 6, 0});
  clear_grad(x);
  backward(expand(x, {5, 3, 4}), Tensor::full({5, 3, 4}, 2, DType::f64));
  CHECK(grad(x).to_vector() == std::vector<double>(12, 10.0));
}

TEST_CASE("concat and gather: values, integers, repeated rows, messages") {
  const Tensor a = Tensor::from<int64_t>({1, 2, 3, 4}, {2, 2}), b = Tensor::from<int64_t>({5, 6}, {2, 1});
  CHECK(concat({a, b}, 1).to_vector() == std::vector<double>{1, 2, 5, 3, 4, 6});
  CHECK(concat({transpose(a, 0, 1), a}, 0).to_vector() == std::vector<double>{1, 3, 2, 4, 1, 2, 3, 4});
  CHECK_THROWS_WITH_AS(concat({a, b}, 0), "concat: inputs 0 [2,2] and 1 [2,1] differ outside axis 0", ShapeError);
  CHECK_THROWS_AS(concat({}, 0), ShapeError);

  CHECK(gather(a, Tensor::from<int64_t>({1, 1, 0}, {3}), 0).to_vector() == std::vector<double>{3, 4, 3, 4, 1, 2});
  CHECK(gather(a, Tensor::from<int64_t>({1}, {1}), -1).to_vector() == std::vector<double>{2, 4});
  CHECK_THROWS_WITH_AS(gather(a, Tensor::from<int64_t>({0, 2}, {2}), 0), "gather: index 2 at position 1 is outside an axis of 2",
                       ShapeError);
  CHECK_THROWS_AS(gather(a, Tensor::from<int64_t>({-1}, {1}), 0), ShapeError);
  CHECK_THROWS_AS(gather(a, Tensor::from<int32_t>({0}, {1}), 0), ShapeError);

  const Tensor x = random({3, 2}, DType::f64, 1);
  set_requires_grad(x);
  backward(gather(x, Tensor::from<int64_t>({2, 0, 2}, {3}), 0), Tensor::from<double>({1, 2, 3, 4, 5, 6}, {3, 2}));
  CHECK(grad(x).to_vector() == std::vector<double>{3, 4, 0, 0, 6, 8});
}

TEST_CASE("rope keeps norms, and products depend on distances only") {
  const int64_t n = 40, heads = 2, width = 6, channels = heads * width;
  const Tensor q0 = random({1, 1, channels}, DType::f64, 1), k0 = random({1, 1, channels}, DType::f64, 2);
  const Tensor q = rope(contiguous(expand(q0, {1, n, channels})), heads), k = rope(expand(k0, {1, n, channels}), heads);
  CHECK(max_difference(slice(q, 1, 0, 1), q0) == 0);  // token 0 does not turn
  for (int64_t h = 0; h < heads; ++h) {
    const auto head = [&](const Tensor& x, int64_t token) { return slice(slice(x, 1, token, 1), 2, h * width, width); };
    const double norm = dot(head(q, 0), head(q, 0));
    for (int64_t i = 0; i < n; ++i) CHECK(dot(head(q, i), head(q, i)) == doctest::Approx(norm).epsilon(1e-13));
    for (const int64_t distance : {1, 5, 17}) {
      const double product = dot(head(q, distance), head(k, 0));
      for (int64_t i = 1; i + distance < n; ++i)
        CHECK(dot(head(q, i + distance), head(k, i)) == doctest::Approx(product).epsilon(1e-12));
    }
    CHECK(std::abs(dot(head(q, 1), head(k, 0)) - dot(head(q, 5), head(k, 0))) > 1e-3);  // and it does depend on them
  }
  // Closed form of one pair: unit vector along the first axis at token 3, second pair of a head of width 4.
  std::vector<double> values(16, 0.0);
  values[3 * 4 + 2] = 1;
  const std::vector<double> y = rope(Tensor::from(values, {1, 4, 4}), 1, 100.0).to_vector();
  CHECK(y[14] == doctest::Approx(std::cos(0.3)).epsilon(1e-14));
  CHECK(y[15] == doctest::Approx(std::sin(0.3)).epsilon(1e-14));

  CHECK_THROWS_WITH_AS(rope(random({1, 2, 6}, DType::f32, 1), 4), "rope: 4 heads do not divide the 6 channels of x [1,2,6]",
                       ShapeError);
  CHECK_THROWS_WITH_AS(rope(random({1, 2, 6}, DType::f32, 1), 2), "rope: the head width 3 is odd; pairs are rotated", ShapeError);
}
