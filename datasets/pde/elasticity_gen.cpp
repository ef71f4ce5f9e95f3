#include "datasets/pde/elasticity_gen.h"

#include <cmath>
#include <numbers>

#include "core/rng.h"
#include "datasets/pde/field_set.h"
#include "datasets/registry.h"

namespace flare {
namespace {

using std::numbers::pi;

constexpr uint64_t kStream = uint64_t{0x454c} << 48;  // keeps these random numbers apart from other generators'
constexpr double kPull = 100;

/// Distance from the centre of the unit square to its edge.
double edge_distance(double angle) { return 0.5 / std::max(std::abs(std::cos(angle)), std::abs(std::sin(angle))); }

/// Node k of 2·around along θ; the first lies towards the corner (1, 1).
double node_angle(int64_t k, int64_t around) { return pi / 4 + pi * static_cast<double>(k) / static_cast<double>(around); }

/// ρ(θ) = Σ_k 4 (k² + 9)^-½ (ξ cos kθ + η sin kθ)/√π, the constant with 1/√2π: Karhunen-Loève on the circle.
std::function<double(double)> draw_radius(int64_t modes, Rng& rng) {
  std::vector<double> cosines, sines;
  for (int64_t k = 0; k <= modes; ++k) {
    const double deviation = 4 / std::sqrt(static_cast<double>(k * k) + 9) / std::sqrt(k == 0 ? 2 * pi : pi);
    cosines.push_back(deviation * rng.normal());
    sines.push_back(k == 0 ? 0 : deviation * rng.normal());
  }
  return [=](double angle) {
    double rho = 0;
    for (size_t k = 0; k < cosines.size(); ++k)
      rho += cosines[k] * std::cos(static_cast<double>(k) * angle) + sines[k] * std::sin(static_cast<double>(k) * angle);
    return 0.2 + 0.2 / (1 + std::exp(rho));
  };
}

void check_options(const ElasticityOptions& o) {
  check_counts("elasticity-gen", o);
  check<ConfigError>(o.modes >= 0 && o.modes <= 20, "elasticity-gen: modes ", o.modes, " is outside 0 to 20");
  check<ConfigError>(o.refine >= 1 && o.refine <= 8, "elasticity-gen: refine ", o.refine, " is outside 1 to 8");
}

}  // namespace

QuadMesh cell_mesh(const std::function<double(double)>& radius, int64_t around, int64_t across) {
  check<ConfigError>(around >= 4 && around % 4 == 0 && across >= 1, "cell mesh: ", around, " x ", across, " elements");
  QuadMesh mesh;
  const int64_t rings = 2 * across + 1, spokes = 2 * around;
  for (int64_t ring = 0; ring < rings; ++ring)
    for (int64_t k = 0; k < spokes; ++k) {
      const double angle = node_angle(k, around), share = static_cast<double>(ring) / static_cast<double>(2 * across);
      const double distance = (1 - share) * radius(angle) + share * edge_distance(angle);
      mesh.nodes.push_back({0.5 + distance * std::cos(angle), 0.5 + distance * std::sin(angle)});
    }
  for (int64_t r = 0; r < across; ++r)
    for (int64_t k = 0; k < around; ++k) {
      std::array<int, 9> nodes;
      // ξ outward and η along θ make a right-handed pair.
      for (int64_t a = 0; a < 9; ++a)
        nodes[static_cast<size_t>(a)] = static_cast<int>((2 * r + a % 3) * spokes + (2 * k + a / 3) % spokes);
      mesh.elements.push_back(nodes);
    }
  return mesh;
}

MembraneLoad cell_load(const QuadMesh& mesh, int64_t around, int64_t across, double pull) {
  MembraneLoad load;
  load.force.assign(2 * mesh.nodes.size(), 0);
  const int64_t spokes = 2 * around, first = 2 * across * spokes;  // the outermost ring
  const auto node = [&](int64_t k) { return static_cast<int>(first + k % spokes); };
  // From the corner (1,1) at k = 0 the top edge is the first quarter, the bottom edge the third.
  for (int64_t k = spokes / 2; k <= 3 * spokes / 4; ++k)
    for (int axis = 0; axis < 2; ++axis) load.fixed.emplace_back(2 * node(k) + axis, 0.0);
  for (int64_t e = 0; e < around / 4; ++e)
    for (size_t q = 0; q < 3; ++q) {
      const Shape9 s = shape9(1, kGaussPoints[q]);
      double speed = 0;  // |dx/dη| along the edge
      for (int64_t m = 0; m < 3; ++m)
        speed += mesh.nodes[static_cast<size_t>(node(2 * e + m))][0] * s.slope[static_cast<size_t>(3 * m + 2)][1];
      for (int64_t m = 0; m < 3; ++m)
        load.force[static_cast<size_t>(2 * node(2 * e + m) + 1)] +=
            pull * kGaussWeights[q] * std::abs(speed) * s.value[static_cast<size_t>(3 * m + 2)];
    }
  return load;
}

ElasticitySample solve_cell(const std::function<double(double)>& radius, int64_t refine) {
  const int64_t around = kElasticityAround * refine, across = kElasticityAcross * refine;
  const QuadMesh mesh = cell_mesh(radius, around, across);
  const RivlinSaunders material;
  const MembraneSolution solution = solve_membrane(mesh, material, cell_load(mesh, around, across, kPull));
  ElasticitySample sample;
  for (int64_t r = 0; r < kElasticityAcross; ++r)
    for (int64_t k = 0; k < kElasticityAround; ++k)
      for (size_t q = 0; q < 9; ++q) {
        // The Gauss point of the coarse element, in the fine element that holds it.
        const auto locate = [&](int64_t coarse, double local, int64_t& fine) {
          const double at = (static_cast<double>(coarse) + (local + 1) / 2) * static_cast<double>(refine);
          fine = static_cast<int64_t>(at);
          return 2 * (at - static_cast<double>(fine)) - 1;
        };
        int64_t ring = 0, spoke = 0;
        const double xi = locate(r, kGaussPoints[q % 3], ring), eta = locate(k, kGaussPoints[q / 3], spoke);
        Vec2 position;
        const Mat2 f = deformation(mesh, solution, ring * around + spoke, xi, eta, position);
        sample.points.push_back(position);
        sample.stress.push_back(material.mises(f));
      }
  return sample;
}

ElasticitySample make_elasticity_sample(const ElasticityOptions& options, int64_t split, int64_t index) {
  check_options(options);
  Rng rng(options.seed, kStream + (static_cast<uint64_t>(split) << 40) + static_cast<uint64_t>(index));
  return solve_cell(draw_radius(options.modes, rng), options.refine);
}

void generate_elasticity(const ElasticityOptions& options, const std::string& out_dir) {
  check_options(options);
  DatasetInfo info;
  info.name = "elasticity-gen";
  info.coordinates = 2;
  info.source = cat("generated by flare, seed ", options.seed, ": ", options.modes, " modes, ", kElasticityAround * options.refine,
                    " x ", kElasticityAcross * options.refine, " elements; not the published Elasticity files");
  info.licence = "generated; no licence applies";
  info.citation = "the problem: Z. Li et al., Fourier Neural Operator with Learned Deformations, arXiv 2207.05209";
  { const PreparedWriter early(out_dir, info); }  // so that a wrong folder shows before the work is done
  constexpr int64_t n = kElasticityAround * kElasticityAcross * 9;
  const std::vector<FieldSplit> splits = make_field_splits(
      info.name, {options.train, options.val, options.test}, n, 2, 1, [&](int64_t split, int64_t i, float* x, float* y) {
        const ElasticitySample sample = make_elasticity_sample(options, split, i);
        for (size_t p = 0; p < static_cast<size_t>(n); ++p) {
          for (size_t c = 0; c < 2; ++c) x[2 * p + c] = static_cast<float>(sample.points[p][c]);
          y[p] = static_cast<float>(sample.stress[p]);
        }
      });
  info.normalisation["y"] = channel_normalisation(splits.front().y);
  write_field_set(out_dir, info, splits);
}

static DatasetEntry elasticity_gen_entry() {
  DatasetEntry e;
  e.name = "elasticity-gen";
  e.kind = "field_regression";
  e.description = "Stress in a stretched unit cell with a random star-shaped void, 972 points";
  e.licence = "generated data: none";
  e.citation = "Z. Li et al., arXiv 2207.05209";
  const ElasticityOptions d;
  e.options = {{"modes", std::to_string(d.modes), "waves of the void's outline"},
               {"refine", std::to_string(d.refine), "solve on a mesh this many times finer than the points"}};
  e.generate = [](const GenerateOptions& g, const std::string& out_dir) {
    ElasticityOptions o;
    take_counts(g, o);
    o.modes = extra_int(g, "modes", o.modes);
    o.refine = extra_int(g, "refine", o.refine);
    generate_elasticity(o, out_dir);
  };
  return e;
}
FLARE_REGISTER_DATASET(elasticity_gen_entry());

}  // namespace flare
