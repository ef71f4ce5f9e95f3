/// elasticity-gen by mathematics: the material against its energy and closed forms, the elements by patch test and convergence, the
/// cell by symmetry and the known stress at a small hole.
#include <numbers>

#include "core/parallel.h"
#include "datasets/pde/elasticity_gen.h"
#include "tests/dataset_fixtures.h"

namespace {

using std::numbers::pi;

double smooth_void(double angle) { return 0.29 + 0.05 * std::cos(3 * angle + 0.4) + 0.03 * std::sin(angle); }

double relative_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double error = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("membrane: stress and stiffness are the derivatives of the energy") {
  const RivlinSaunders material{1.5, 0.4};
  for (const Mat2 f : {Mat2{1, 0, 0, 1}, Mat2{1.3, 0.2, -0.1, 0.8}, Mat2{0.7, -0.4, 0.3, 1.6}}) {
    Mat2 p;
    std::array<std::array<double, 4>, 4> tangent, unused;
    material.stress(f, p, tangent);
    for (size_t m = 0; m < 4; ++m) {
      const double h = 1e-5;
      Mat2 up = f, down = f, p_up, p_down;
      up[m] += h;
      down[m] -= h;
      CHECK(p[m] == doctest::Approx((material.energy(up) - material.energy(down)) / (2 * h)).epsilon(1e-7));
      material.stress(up, p_up, unused);
      material.stress(down, p_down, unused);
      for (size_t k = 0; k < 4; ++k) {
        CHECK(std::abs(tangent[k][m] - (p_up[k] - p_down[k]) / (2 * h)) < 1e-7 * (1 + std::abs(tangent[k][m])));
        CHECK(std::abs(tangent[k][m] - tangent[m][k]) < 1e-12);
      }
    }
    const double c = std::cos(0.7), s = std::sin(0.7);  // turning the body as a whole changes nothing
    const Mat2 turned = {c * f[0] - s * f[2], c * f[1] - s * f[3], s * f[0] + c * f[2], s * f[1] + c * f[3]};
    CHECK(material.energy(turned) == doctest::Approx(material.energy(f)).epsilon(1e-12));
    CHECK(material.mises(turned) == doctest::Approx(material.mises(f)).epsilon(1e-10));
  }
  // Uniaxial tension: σ = 2 (λ² - 1/λ)(c1 + c2/λ), no stress across.
  for (const double stretch : {1.0005, 1.2, 0.8, 2.0}) {
    const double expected = 2 * (stretch * stretch - 1 / stretch) * (1.5 + 0.4 / stretch);
    CHECK(material.mises({stretch, 0, 0, 1 / std::sqrt(stretch)}) == doctest::Approx(std::abs(expected)).epsilon(1e-9));
  }
}

TEST_CASE("membrane: patch test on curved elements at a strain of one percent") {
  const int64_t around = 12, across = 2, spokes = 2 * around;
  const QuadMesh mesh = cell_mesh(smooth_void, around, across);
  const Mat2 f = {1.01, 0.005, -0.008, 0.992};  // Newton starts with all of it in the outermost elements
  MembraneLoad load;
  load.force.assign(2 * mesh.nodes.size(), 0);
  for (size_t node = 0; node < mesh.nodes.size(); ++node) {
    if (node >= static_cast<size_t>(spokes) && node < mesh.nodes.size() - static_cast<size_t>(spokes))
      continue;  // inner nodes are free
    const Vec2& x = mesh.nodes[node];
    for (size_t i = 0; i < 2; ++i)
      load.fixed.emplace_back(static_cast<int>(2 * node + i), f[2 * i] * (x[0] - 0.5) + f[2 * i + 1] * (x[1] - 0.5) - (x[i] - 0.5));
  }
  const RivlinSaunders material;
  const MembraneSolution s = solve_membrane(mesh, material, load);
  CHECK(s.iterations <= 6);
  double worst = 0;
  for (size_t node = 0; node < mesh.nodes.size(); ++node)
    for (size_t i = 0; i < 2; ++i) {
      const Vec2& x = mesh.nodes[node];
      worst = std::max(
          worst, std::abs(s.displacement[2 * node + i] - (f[2 * i] * (x[0] - 0.5) + f[2 * i + 1] * (x[1] - 0.5) - (x[i] - 0.5))));
    }
  CHECK(worst < 1e-9);
  Vec2 position;
  for (int64_t e = 0; e < around * across; ++e)
    CHECK(material.mises(deformation(mesh, s, e, 0.3, -0.8, position)) == doctest::Approx(material.mises(f)).epsilon(1e-8));
}

TEST_CASE("cell: the mesh covers the square without its void, and the load is the traction") {
  const int64_t around = 36, across = 3;
  const QuadMesh mesh = cell_mesh(smooth_void, around, across);
  double area = 0, expected = 1, pull = 0;
  for (int k = 0; k < 20000; ++k) {
    const double r = smooth_void(2 * pi * k / 20000);
    expected -= 0.5 * r * r * 2 * pi / 20000;
  }
  for (const auto& nodes : mesh.elements)
    for (size_t q = 0; q < 9; ++q) {
      const Shape9 s = shape9(kGaussPoints[q % 3], kGaussPoints[q / 3]);
      double j[4] = {};
      for (size_t a = 0; a < 9; ++a)
        for (size_t i = 0; i < 2; ++i)
          for (size_t d = 0; d < 2; ++d) j[2 * i + d] += mesh.nodes[static_cast<size_t>(nodes[a])][i] * s.slope[a][d];
      area += kGaussWeights[q % 3] * kGaussWeights[q / 3] * (j[0] * j[3] - j[1] * j[2]);
    }
  CHECK(area == doctest::Approx(expected).epsilon(1e-5));
  const MembraneLoad load = cell_load(mesh, around, across, 100);
  double moment = 0;
  for (size_t node = 0; node < mesh.nodes.size(); ++node) {
    CHECK(load.force[2 * node] == 0);
    if (load.force[2 * node + 1] != 0) CHECK(mesh.nodes[node][1] == doctest::Approx(1));
    pull += load.force[2 * node + 1];
    moment += load.force[2 * node + 1] * mesh.nodes[node][0];
  }
  CHECK(pull == doctest::Approx(100).epsilon(1e-12));
  CHECK(moment == doctest::Approx(50).epsilon(1e-12));
  for (const auto& [dof, value] : load.fixed) {
    CHECK(mesh.nodes[static_cast<size_t>(dof / 2)][1] == doctest::Approx(0).scale(1));
    CHECK(value == 0);
  }
  CHECK(load.fixed.size() == 2 * 19);
}

TEST_CASE("cell: refining the mesh converges") {
  std::vector<double> energies;
  std::vector<ElasticitySample> samples;
  for (const int64_t refine : {1, 2, 4, 8}) {
    const int64_t around = kElasticityAround * refine, across = kElasticityAcross * refine;
    const QuadMesh mesh = cell_mesh(smooth_void, around, across);
    const MembraneSolution s = solve_membrane(mesh, {}, cell_load(mesh, around, across, 100));
    CHECK(s.residual < 1e-10);
    CHECK(s.iterations <= 4);
    energies.push_back(s.energy);
    samples.push_back(solve_cell(smooth_void, refine));
  }
  CHECK(samples[0].points.size() == 972);
  std::vector<double> errors;
  for (size_t k = 0; k < 3; ++k) errors.push_back(relative_difference(samples[k].stress, samples[3].stress));
  MESSAGE("stored energies ", energies[0], " ", energies[1], " ", energies[2], " ", energies[3],
          "; stress differs from the finest by ", errors[0], " ", errors[1], " ", errors[2]);
  // A pulled cell stores more the finer the mesh: it becomes softer.
  CHECK(energies[0] < energies[1]);
  CHECK(energies[1] < energies[2]);
  CHECK(energies[2] < energies[3]);
  CHECK(errors[1] < errors[0] / 2);
  CHECK(errors[2] < errors[1] / 2);
  CHECK(errors[1] < 0.01);
}

TEST_CASE("cell: a mirrored void has the mirrored stress; a small hole triples it") {
  const ElasticitySample sample = solve_cell(smooth_void, 1),
                         mirror = solve_cell([](double angle) { return smooth_void(pi - angle); }, 1);
  double worst = 0;
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t k = 0; k < 36; ++k)
      for (int64_t q = 0; q < 9; ++q) {
        const size_t here = static_cast<size_t>((r * 36 + k) * 9 + q),
                     there = static_cast<size_t>((r * 36 + (8 - k + 36) % 36) * 9 + (2 - q / 3) * 3 + q % 3);
        CHECK(std::abs(sample.points[here][0] + mirror.points[there][0] - 1) < 1e-12);
        CHECK(std::abs(sample.points[here][1] - mirror.points[there][1]) < 1e-12);
        worst = std::max(worst, std::abs(sample.stress[here] - mirror.stress[there]));
      }
  CHECK(worst < 1e-5);
  CHECK(worst < 1e-7 * *std::max_element(sample.stress.begin(), sample.stress.end()));

  // Kirsch: at the sides of a small hole the stress is three times the pull, above and below it equals the pull (compression). The
  // strip is ten holes wide, for which handbooks (Howland) give 3.03.
  const int64_t around = 36, across = 40;
  const QuadMesh mesh = cell_mesh([](double) { return 0.05; }, around, across);
  const RivlinSaunders material;
  const MembraneSolution s = solve_membrane(mesh, material, cell_load(mesh, around, across, 100));
  Vec2 position;
  // θ = π lies in the middle of an element's side or at a node: 3π/4 past the corner is 13.5 of 36 elements.
  const double side = material.mises(deformation(mesh, s, 13, -1, 0, position));
  CHECK(position[0] == doctest::Approx(0.45));
  CHECK(position[1] == doctest::Approx(0.5));
  MESSAGE("stress at the side of a small hole: ", side / 100, " times the pull");
  CHECK(side / 100 > 2.9);
  CHECK(side / 100 < 3.3);
}

TEST_CASE("elasticity-gen: the folder, whatever the number of threads") {
  const TemporaryFolder tmp;
  ElasticityOptions o;
  o.seed = 4;
  o.train = 7;
  o.val = 2;
  o.test = 2;
  o.refine = 1;
  const int threads = thread_count();
  set_thread_count(1);
  generate_elasticity(o, tmp / "one");
  set_thread_count(3);
  generate_elasticity(o, tmp / "three");
  set_thread_count(threads);
  for (const char* file : {"train.x.npy", "train.y.npy", "val.y.npy", "test.x.npy", "dataset.json"})
    CHECK_MESSAGE(sha256_of_file(tmp / "one/" + file) == sha256_of_file(tmp / "three/" + file), file);
  const PreparedFolder folder(tmp / "one");
  CHECK(folder.info().name == "elasticity-gen");
  const Tensor x = read_npy(tmp / "one/train.x.npy"), y = read_npy(tmp / "one/train.y.npy");
  CHECK(x.shape() == Shape{7, 972, 2});
  double lowest = 1, mean = 0;
  for (int64_t p = 0; p < y.numel(); ++p) {
    const double dx = x.item(2 * p) - 0.5, dy = x.item(2 * p + 1) - 0.5;
    REQUIRE(std::max(std::abs(dx), std::abs(dy)) < 0.5);
    lowest = std::min(lowest, std::hypot(dx, dy));
    mean += y.item(p) / static_cast<double>(y.numel());
  }
  CHECK(lowest > 0.2);
  CHECK(mean > 50);
  CHECK(mean < 300);
  CHECK(make_elasticity_sample(o, 0, 0).stress != make_elasticity_sample(o, 2, 0).stress);
  o.modes = 99;
  CHECK_SAYS(2, "modes 99 is outside 0 to 20", generate_elasticity(o, tmp / "bad"));
}
