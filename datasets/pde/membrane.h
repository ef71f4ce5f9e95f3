#pragma once
#include <array>
#include <cstdint>
#include <functional>
#include <vector>

namespace flare {

using Vec2 = std::array<double, 2>;
using Mat2 = std::array<double, 4>;  // row-major

/// Plane-stress incompressible Rivlin-Saunders (Mooney-Rivlin) membrane, W = c1 (I1 - 3) + c2 (I2 - 3) with the thickness stretch
/// 1/√det C:  I1 = tr C + 1/det C,  I2 = det C + tr C/det C, where C = FᵀF in the plane. Source: J. P. Pascon, Int. J. Advanced
/// Structural Engineering 11 (2019), whose material Geo-FNO's elasticity benchmark uses.
struct RivlinSaunders {
  double c1 = 1.863e5, c2 = 9.79e3;
  double energy(const Mat2& f) const;
  /// First Piola-Kirchhoff stress P = ∂W/∂F and its derivative ∂P_ij/∂F_kl at [2i+j][2k+l].
  void stress(const Mat2& f, Mat2& p, std::array<std::array<double, 4>, 4>& tangent) const;
  /// Mises stress of the Cauchy stress P Fᵀ (the thickness carries none, and volume does not change).
  double mises(const Mat2& f) const;
};

/// A mesh of nine-node quadrilaterals. Element nodes: the 3 x 3 local grid, row by row, first index along ξ.
struct QuadMesh {
  std::vector<Vec2> nodes;
  std::vector<std::array<int, 9>> elements;
};

/// Values and local derivatives of the nine shape functions at (ξ, η) in [-1,1]².
struct Shape9 {
  std::array<double, 9> value;
  std::array<Vec2, 9> slope;
};
Shape9 shape9(double xi, double eta);

/// Where a membrane is held and pulled: prescribed displacements by node and axis, and nodal forces.
struct MembraneLoad {
  std::vector<std::pair<int, double>> fixed;  // 2·node + axis -> displacement
  std::vector<double> force;                  // [2·nodes]
};

struct MembraneSolution {
  std::vector<double> displacement;  // [2·nodes]
  double energy = 0;                 // stored, per unit thickness
  double residual = 0;               // of the free nodes, relative to the forces at the fixed ones
  int iterations = 0;
};
/// Newton's method for the balance of internal and external forces (3 x 3 Gauss points an element; sparse LDLᵀ of Eigen).
/// NumericError when it does not converge in 20 iterations.
MembraneSolution solve_membrane(const QuadMesh& mesh, const RivlinSaunders& material, const MembraneLoad& load);
/// Deformation gradient, and position in the undeformed body, in an element at (ξ, η).
Mat2 deformation(const QuadMesh& mesh, const MembraneSolution& solution, int64_t element, double xi, double eta, Vec2& position);
/// The three Gauss points of [-1,1], and their weights.
inline constexpr std::array<double, 3> kGaussPoints = {-0.774596669241483377, 0, 0.774596669241483377};
inline constexpr std::array<double, 3> kGaussWeights = {5.0 / 9, 8.0 / 9, 5.0 / 9};

}  // namespace flare
