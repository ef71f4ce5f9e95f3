#include "datasets/pde/membrane.h"

#include <Eigen/SparseCholesky>

#include <cmath>

#include "core/check.h"

namespace flare {
namespace {

Mat2 product(const Mat2& a, const Mat2& b) {
  return {a[0] * b[0] + a[1] * b[2], a[0] * b[1] + a[1] * b[3], a[2] * b[0] + a[3] * b[2], a[2] * b[1] + a[3] * b[3]};
}
Mat2 transposed(const Mat2& a) { return {a[0], a[2], a[1], a[3]}; }
double det(const Mat2& a) { return a[0] * a[3] - a[1] * a[2]; }

/// Shape functions at a point of an element: derivatives with respect to undeformed coordinates, and the area element.
struct Mapped {
  Shape9 shape;
  std::array<Vec2, 9> gradient;
  double area;
  Vec2 position;
};
Mapped map_point(const QuadMesh& mesh, const std::array<int, 9>& nodes, double xi, double eta) {
  Mapped m;
  m.shape = shape9(xi, eta);
  m.position = {0, 0};
  Mat2 jacobian = {0, 0, 0, 0};  // ∂x_i/∂ξ_j
  for (size_t a = 0; a < 9; ++a) {
    const Vec2& x = mesh.nodes[static_cast<size_t>(nodes[a])];
    for (size_t i = 0; i < 2; ++i) {
      m.position[i] += m.shape.value[a] * x[i];
      for (size_t j = 0; j < 2; ++j) jacobian[2 * i + j] += x[i] * m.shape.slope[a][j];
    }
  }
  m.area = det(jacobian);
  check<NumericError>(m.area > 0, "membrane: an element is turned inside out near (", m.position[0], ", ", m.position[1], ")");
  for (size_t a = 0; a < 9; ++a) {
    const Vec2& s = m.shape.slope[a];
    m.gradient[a] = {(s[0] * jacobian[3] - s[1] * jacobian[2]) / m.area, (s[1] * jacobian[0] - s[0] * jacobian[1]) / m.area};
  }
  return m;
}

Mat2 gradient_of(const Mapped& m, const std::array<int, 9>& nodes, const std::vector<double>& u) {
  Mat2 f = {1, 0, 0, 1};
  for (size_t a = 0; a < 9; ++a)
    for (size_t i = 0; i < 2; ++i)
      for (size_t j = 0; j < 2; ++j) f[2 * i + j] += u[2 * static_cast<size_t>(nodes[a]) + i] * m.gradient[a][j];
  return f;
}

}  // namespace

double RivlinSaunders::energy(const Mat2& f) const {
  const Mat2 c = product(transposed(f), f);
  const double t = c[0] + c[3], d = det(c);
  return c1 * (t + 1 / d - 3) + c2 * (d + t / d - 3);
}

void RivlinSaunders::stress(const Mat2& f, Mat2& p, std::array<std::array<double, 4>, 4>& tangent) const {
  // ∂W/∂C = A·1 + B·C⁻¹ with A = c1 + c2/d, B = c2 d - (c1 + c2 t)/d, so P = 2F ∂W/∂C = 2A F + 2B F⁻ᵀ.
  const Mat2 c = product(transposed(f), f);
  const double t = c[0] + c[3], d = det(c), j = det(f);
  const double a = c1 + c2 / d, b = c2 * d - (c1 + c2 * t) / d;
  const Mat2 g = {f[3] / j, -f[2] / j, -f[1] / j, f[0] / j};  // F⁻ᵀ
  for (size_t k = 0; k < 4; ++k) p[k] = 2 * a * f[k] + 2 * b * g[k];
  // dt = 2 F:dF, dd = 2d F⁻ᵀ:dF, dF⁻ᵀ_ij = -F⁻ᵀ_il F⁻ᵀ_kj dF_kl.
  for (size_t m = 0; m < 4; ++m) {
    const double dt = 2 * f[m], dd = 2 * d * g[m];
    const double da = -c2 / (d * d) * dd, db = c2 * dd - c2 * dt / d + (c1 + c2 * t) / (d * d) * dd;
    for (size_t k = 0; k < 4; ++k) {
      const double dg = -g[2 * (k / 2) + m % 2] * g[2 * (m / 2) + k % 2];
      tangent[k][m] = 2 * (da * f[k] + a * (k == m ? 1 : 0) + db * g[k] + b * dg);
    }
  }
}

double RivlinSaunders::mises(const Mat2& f) const {
  Mat2 p;
  std::array<std::array<double, 4>, 4> ignored;
  stress(f, p, ignored);
  const Mat2 s = product(p, transposed(f));
  return std::sqrt(std::max(0.0, s[0] * s[0] - s[0] * s[3] + s[3] * s[3] + 3 * s[1] * s[2]));
}

Shape9 shape9(double xi, double eta) {
  const auto lagrange = [](double x) { return std::array<double, 3>{x * (x - 1) / 2, 1 - x * x, x * (x + 1) / 2}; };
  const auto slopes = [](double x) { return std::array<double, 3>{x - 0.5, -2 * x, x + 0.5}; };
  const std::array<double, 3> x = lagrange(xi), y = lagrange(eta), dx = slopes(xi), dy = slopes(eta);
  Shape9 s;
  for (size_t a = 0; a < 9; ++a) {
    s.value[a] = x[a % 3] * y[a / 3];
    s.slope[a] = {dx[a % 3] * y[a / 3], x[a % 3] * dy[a / 3]};
  }
  return s;
}

Mat2 deformation(const QuadMesh& mesh, const MembraneSolution& solution, int64_t element, double xi, double eta, Vec2& position) {
  const std::array<int, 9>& nodes = mesh.elements[static_cast<size_t>(element)];
  const Mapped m = map_point(mesh, nodes, xi, eta);
  position = m.position;
  return gradient_of(m, nodes, solution.displacement);
}

MembraneSolution solve_membrane(const QuadMesh& mesh, const RivlinSaunders& material, const MembraneLoad& load) {
  using Matrix = Eigen::SparseMatrix<double, Eigen::ColMajor, int>;
  constexpr int kMostIterations = 20;
  constexpr double kTolerance = 1e-10;
  const size_t n = 2 * mesh.nodes.size();
  MembraneSolution s;
  s.displacement.assign(n, 0);
  std::vector<int> unknown(n, 0);  // index among the free displacements, -1 where prescribed
  for (const auto& [dof, value] : load.fixed) {
    unknown[static_cast<size_t>(dof)] = -1;
    s.displacement[static_cast<size_t>(dof)] = value;
  }
  int n_free = 0;
  for (int& u : unknown)
    if (u == 0) u = n_free++;
  std::vector<Mapped> points;  // geometry does not change
  for (const auto& nodes : mesh.elements)
    for (size_t q = 0; q < 9; ++q) points.push_back(map_point(mesh, nodes, kGaussPoints[q % 3], kGaussPoints[q / 3]));

  Eigen::SimplicialLDLT<Matrix> factor;
  for (;; ++s.iterations) {
    std::vector<double> force(n, 0);
    std::vector<Eigen::Triplet<double>> entries;
    s.energy = 0;
    for (size_t e = 0; e < mesh.elements.size(); ++e) {
      const std::array<int, 9>& nodes = mesh.elements[e];
      double stiffness[18][18] = {};
      for (size_t q = 0; q < 9; ++q) {
        const Mapped& m = points[9 * e + q];
        const double weight = kGaussWeights[q % 3] * kGaussWeights[q / 3] * m.area;
        const Mat2 f = gradient_of(m, nodes, s.displacement);
        Mat2 p;
        std::array<std::array<double, 4>, 4> tangent;
        material.stress(f, p, tangent);
        s.energy += weight * material.energy(f);
        for (size_t a = 0; a < 9; ++a)
          for (size_t i = 0; i < 2; ++i) {
            double row[4] = {};  // Σ_j ∂N_a/∂x_j ∂P_ij/∂F
            for (size_t j = 0; j < 2; ++j) {
              force[2 * static_cast<size_t>(nodes[a]) + i] += weight * p[2 * i + j] * m.gradient[a][j];
              for (size_t k = 0; k < 4; ++k) row[k] += weight * m.gradient[a][j] * tangent[2 * i + j][k];
            }
            for (size_t b = 0; b < 9; ++b)
              for (size_t k = 0; k < 2; ++k)
                stiffness[2 * a + i][2 * b + k] += row[2 * k] * m.gradient[b][0] + row[2 * k + 1] * m.gradient[b][1];
          }
      }
      for (size_t r = 0; r < 18; ++r)
        for (size_t c = 0; c < 18; ++c) {
          const int i = unknown[2 * static_cast<size_t>(nodes[r / 2]) + r % 2],
                    j = unknown[2 * static_cast<size_t>(nodes[c / 2]) + c % 2];
          if (i >= 0 && j >= 0 && i >= j) entries.emplace_back(i, j, stiffness[r][c]);
        }
    }
    Eigen::VectorXd right(n_free);
    double unbalanced = 0, held = 0;
    for (size_t d = 0; d < n; ++d) {
      const double out_of_balance = load.force[d] - force[d];
      if (unknown[d] < 0) {
        held += out_of_balance * out_of_balance;
        continue;
      }
      right(unknown[d]) = out_of_balance;
      unbalanced += out_of_balance * out_of_balance;
      held += load.force[d] * load.force[d];
    }
    s.residual = held > 0 ? std::sqrt(unbalanced / held) : std::sqrt(unbalanced);
    if (s.residual < kTolerance) return s;
    check<NumericError>(s.iterations < kMostIterations && std::isfinite(s.residual),
                        "membrane: Newton's method does not converge (residual ", s.residual, " after ", s.iterations,
                        " iterations)");
    Matrix matrix(n_free, n_free);
    matrix.setFromTriplets(entries.begin(), entries.end());
    if (s.iterations == 0) factor.analyzePattern(matrix);
    factor.factorize(matrix);
    check<NumericError>(factor.info() == Eigen::Success, "membrane: the stiffness matrix cannot be factorised");
    const Eigen::VectorXd step = factor.solve(right);
    for (size_t d = 0; d < n; ++d)
      if (unknown[d] >= 0) s.displacement[d] += step(unknown[d]);
  }
}

}  // namespace flare
