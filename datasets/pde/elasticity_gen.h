#pragma once
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "datasets/pde/membrane.h"

namespace flare {

/// elasticity-gen: the problem of Geo-FNO's Elasticity benchmark (arXiv 2207.05209), made from scratch. A unit cell with a void
/// r(θ) = 0.2 + 0.2/(1 + exp ρ(θ)) around its centre, ρ ~ N(0, 4²(-Δ + 3²)^-1) on the circle; its bottom edge is clamped, its top
/// edge pulled by the traction (0, 100); the plane-stress incompressible material RivlinSaunders. The answer is the Mises stress
/// at 972 points: the Gauss points of 36 x 3 elements around the void. The published generator is not public: its void is drawn by
/// other means and its points lie elsewhere, so errors on one set say nothing about the other.
struct ElasticityOptions {
  uint64_t seed = 0;
  int64_t train = 1000, val = 100, test = 200;
  int64_t modes = 12;  // cosines and sines of ρ; shorter waves are left out, for the mesh to resolve what there is
  int64_t refine = 4;  // each of the 36 x 3 elements is solved for as refine x refine
};

constexpr int64_t kElasticityAround = 36, kElasticityAcross = 3;

/// The unit cell between the void of radius r(θ) and the square: `around` x `across` elements along θ and outward. `around` is a
/// multiple of 4, so that the corners are nodes.
QuadMesh cell_mesh(const std::function<double(double)>& radius, int64_t around, int64_t across);
/// Bottom edge clamped, traction (0, pull) on the top edge.
MembraneLoad cell_load(const QuadMesh& mesh, int64_t around, int64_t across, double pull);

/// Points f64 [972,2] and stress [972] of the cell with this void.
struct ElasticitySample {
  std::vector<Vec2> points;
  std::vector<double> stress;
};
ElasticitySample solve_cell(const std::function<double(double)>& radius, int64_t refine);
ElasticitySample make_elasticity_sample(const ElasticityOptions& options, int64_t split, int64_t index);

/// Writes a prepared folder: x = (x, y), y = Mises stress.
void generate_elasticity(const ElasticityOptions& options, const std::string& out_dir);

}  // namespace flare
