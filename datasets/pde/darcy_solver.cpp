#include "datasets/pde/darcy_solver.h"

#include <Eigen/SparseCholesky>

#include <cmath>
#include <vector>

namespace flare {
namespace {

using Matrix = Eigen::SparseMatrix<double, Eigen::ColMajor, int>;

/// Nested dissection of the m x m inner nodes: a line of nodes splits the rectangle, the halves come first, the line last. Fill-in
/// is then O(m² log m), and at 421 nodes the factorisation is a quarter faster than with Eigen's minimum degree.
struct NestedDissection {
  using PermutationType = Eigen::PermutationMatrix<Eigen::Dynamic, Eigen::Dynamic, int>;
  template <class M> void operator()(const M& matrix, PermutationType& order) const {
    const int m = static_cast<int>(std::lround(std::sqrt(static_cast<double>(matrix.cols()))));
    std::vector<int> nodes;
    split(0, m, 0, m, m, nodes);
    order.resize(matrix.cols());
    for (size_t k = 0; k < nodes.size(); ++k) order.indices()(static_cast<Eigen::Index>(k)) = nodes[k];
  }

 private:
  static void split(int top, int bottom, int left, int right, int m, std::vector<int>& nodes) {
    const int height = bottom - top, width = right - left;
    if (height <= 0 || width <= 0) return;
    if (height * width <= 8) {
      for (int i = top; i < bottom; ++i)
        for (int j = left; j < right; ++j) nodes.push_back(i * m + j);
    } else if (height >= width) {
      const int middle = (top + bottom) / 2;
      split(top, middle, left, right, m, nodes);
      split(middle + 1, bottom, left, right, m, nodes);
      for (int j = left; j < right; ++j) nodes.push_back(middle * m + j);
    } else {
      const int middle = (left + right) / 2;
      split(top, bottom, left, middle, m, nodes);
      split(top, bottom, middle + 1, right, m, nodes);
      for (int i = top; i < bottom; ++i) nodes.push_back(i * m + middle);
    }
  }
};

void check_field(const char* name, const Tensor& field, int64_t n) {
  check(field.shape() == Shape{n, n} && field.dtype() == DType::f64 && field.is_contiguous(), "darcy: ", name, " must be f64 [", n,
        ",", n, "], got ", field.dtype(), " ", field.shape());
}

}  // namespace

struct DarcySolver::Impl {
  int64_t n;      // nodes a side
  int inner;      // n - 2
  Matrix matrix;  // lower triangle; columns are inner nodes, row by row
  Eigen::SimplicialLLT<Matrix, Eigen::Lower, NestedDissection> factor;

  explicit Impl(int64_t nodes) : n(nodes), inner(static_cast<int>(nodes - 2)), matrix(inner * inner, inner * inner) {
    // Column p of the lower triangle: itself, its right and its lower neighbour.
    matrix.reserve(Eigen::VectorXi::Constant(inner * inner, 3));
    for (int i = 0; i < inner; ++i)
      for (int j = 0; j < inner; ++j) {
        const int p = i * inner + j;
        matrix.insert(p, p) = 1;
        if (j + 1 < inner) matrix.insert(p + 1, p) = 0;
        if (i + 1 < inner) matrix.insert(p + inner, p) = 0;
      }
    matrix.makeCompressed();
    factor.analyzePattern(matrix);
  }

  void assemble(const double* a) {
    const double scale = 0.5 * static_cast<double>((n - 1) * (n - 1));  // ½/h²
    double* value = matrix.valuePtr();
    for (int i = 0; i < inner; ++i)
      for (int j = 0; j < inner; ++j) {
        const double* here = a + (i + 1) * n + j + 1;
        *value++ = scale * (4 * here[0] + here[-1] + here[1] + here[-n] + here[n]);
        if (j + 1 < inner) *value++ = -scale * (here[0] + here[1]);
        if (i + 1 < inner) *value++ = -scale * (here[0] + here[n]);
      }
  }
};

DarcySolver::DarcySolver(int64_t nodes) {
  check<ConfigError>(nodes >= 3 && nodes <= 4097, "darcy: needs 3 to 4097 nodes a side, got ", nodes);
  impl_ = std::make_unique<Impl>(nodes);
}
DarcySolver::~DarcySolver() = default;

Tensor DarcySolver::solve(const Tensor& a, const Tensor& f) {
  Impl& s = *impl_;
  check_field("a", a, s.n);
  if (f) check_field("f", f, s.n);
  s.assemble(a.data<double>());
  s.factor.factorize(s.matrix);
  check<NumericError>(s.factor.info() == Eigen::Success,
                      "darcy: the matrix is not positive definite; the coefficient must be positive");
  Eigen::VectorXd right = Eigen::VectorXd::Ones(s.inner * s.inner);
  if (f)
    for (int i = 0; i < s.inner; ++i)
      for (int j = 0; j < s.inner; ++j) right(i * s.inner + j) = f.data<double>()[(i + 1) * s.n + j + 1];
  const Eigen::VectorXd solution = s.factor.solve(right);
  const Tensor u = Tensor::zeros({s.n, s.n}, DType::f64);
  for (int i = 0; i < s.inner; ++i)
    for (int j = 0; j < s.inner; ++j) u.data<double>()[(i + 1) * s.n + j + 1] = solution(i * s.inner + j);
  return u;
}

double darcy_residual(const Tensor& a, const Tensor& u, const Tensor& f) {
  const int64_t n = a.size(0);
  check_field("a", a, n);
  check_field("u", u, n);
  if (f) check_field("f", f, n);
  const double scale = 0.5 * static_cast<double>((n - 1) * (n - 1));
  double error = 0, size = 0;
  for (int64_t i = 1; i < n - 1; ++i)
    for (int64_t j = 1; j < n - 1; ++j) {
      const int64_t p = i * n + j;
      const double right = f ? f.data<double>()[p] : 1;
      double left = 0;
      for (const int64_t q : {p - 1, p + 1, p - n, p + n})
        left += scale * (a.data<double>()[p] + a.data<double>()[q]) * (u.data<double>()[p] - u.data<double>()[q]);
      error += (right - left) * (right - left);
      size += right * right;
    }
  return std::sqrt(error / size);
}

}  // namespace flare
