/// ellipsoid-gen by mathematics: closed forms for spheres and spheroids, no force on the body, points uniform by area.
#include <cmath>
#include <numbers>

#include "core/npy.h"
#include "core/rng.h"
#include "datasets/pde/ellipsoid_gen.h"
#include "tests/dataset_fixtures.h"

namespace {
EllipsoidOptions with(uint64_t seed, int64_t points) {
  EllipsoidOptions o;
  o.seed = seed, o.points = points;
  return o;
}
}  // namespace

TEST_CASE("ellipsoid: depolarisation of a sphere, of spheroids, and its sum") {
  for (const double a : depolarisation({0.7, 0.7, 0.7})) CHECK(a == doctest::Approx(2.0 / 3).epsilon(1e-12));
  // Prolate, eccentricity e: α along the long axis = 2 (1-e²)/e³ (artanh e - e). Oblate: 2 (1 - √(1-e²)/e asin e)/e².
  const double e = std::sqrt(1 - 0.25 * 0.25);
  CHECK(depolarisation({1, 0.25, 0.25})[0] == doctest::Approx(2 * (1 - e * e) / (e * e * e) * (std::atanh(e) - e)).epsilon(1e-12));
  CHECK(depolarisation({1, 0.25, 1})[1] ==
        doctest::Approx(2 / (e * e) * (1 - std::sqrt(1 - e * e) / e * std::asin(e))).epsilon(1e-12));
  Rng rng(1);
  for (int i = 0; i < 50; ++i) {
    const Vec3 axes{0.05 + rng.uniform(), 0.05 + rng.uniform(), 0.05 + 3 * rng.uniform()}, alpha = depolarisation(axes);
    CHECK(alpha[0] + alpha[1] + alpha[2] == doctest::Approx(2).epsilon(1e-12));
  }
}

TEST_CASE("ellipsoid: Cp of a sphere is 1 - 9/4 sin²") {
  const Vec3 alpha = depolarisation({0.5, 0.5, 0.5});
  for (const double angle : {0.0, 0.3, 1.2, 2.0}) {
    const double s = std::sin(angle);
    CHECK(ellipsoid_pressure(alpha, {1, 0, 0}, {std::cos(angle), 0.6 * s, 0.8 * s}) == doctest::Approx(1 - 2.25 * s * s));
  }
}

// With φ = u·x + Σ u_i α_i(λ)/(2 - α_i) x_i outside, where α_i(λ) integrates from λ on, the velocity on the surface is φ's
// gradient. Its tangential part follows from φ on the surface alone: φ = Σ 2 u_i/(2 - α_i) x_i there.
TEST_CASE("ellipsoid: the speed is the slope of the potential along the surface") {
  const EllipsoidSample s = make_ellipsoid_sample(with(3, 1), 0, 7);
  const Vec3 alpha = depolarisation(s.axes);
  const auto at = [&](double u, double v) {
    return Vec3{s.axes[0] * std::cos(u) * std::cos(v), s.axes[1] * std::sin(u) * std::cos(v), s.axes[2] * std::sin(v)};
  };
  const auto potential = [&](const Vec3& x) {
    double sum = 0;
    for (size_t i = 0; i < 3; ++i) sum += 2 * s.stream[i] / (2 - alpha[i]) * x[i];
    return sum;
  };
  const auto minus = [](const Vec3& a, const Vec3& b) { return Vec3{a[0] - b[0], a[1] - b[1], a[2] - b[2]}; };
  const auto dot = [](const Vec3& a, const Vec3& b) { return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]; };
  const double u = 0.8, v = -0.5, h = 1e-5;
  const Vec3 tu = minus(at(u + h, v), at(u - h, v)), tv = minus(at(u, v + h), at(u, v - h));
  const double pu = potential(at(u + h, v)) - potential(at(u - h, v)), pv = potential(at(u, v + h)) - potential(at(u, v - h));
  // |grad|² = pᵀ G⁻¹ p with the metric G of the two tangents.
  const double e = dot(tu, tu), f = dot(tu, tv), g = dot(tv, tv),
               speed2 = (g * pu * pu - 2 * f * pu * pv + e * pv * pv) / (e * g - f * f);
  const Vec3 x = at(u, v);
  Vec3 n{x[0] / (s.axes[0] * s.axes[0]), x[1] / (s.axes[1] * s.axes[1]), x[2] / (s.axes[2] * s.axes[2])};
  const double length = std::sqrt(dot(n, n));
  for (double& c : n) c /= length;
  CHECK(ellipsoid_pressure(alpha, s.stream, n) == doctest::Approx(1 - speed2).epsilon(1e-7));
}

TEST_CASE("ellipsoid: samples lie on it, uniformly by area, and feel no force") {
  const EllipsoidSample s = make_ellipsoid_sample(with(5, 200000), 1, 2);
  Vec3 force{}, area{};
  double first = 0;
  for (size_t p = 0; p < s.points.size(); ++p)
    for (size_t c = 0; c < 3; ++c) {
      force[c] += s.pressure[p] * s.normals[p][c] / 200000;
      area[c] += s.normals[p][c] / 200000;
      first += s.points[p][c] * s.normals[p][c] / 200000;
    }
  // Means over points are integrals over the area: of a closed surface's normal and (d'Alembert) of the pressure, zero; of x·n,
  // three times the volume over the area, which Thomsen's formula gives to 1.1 %.
  for (size_t c = 0; c < 3; ++c) {
    CHECK(std::abs(area[c]) < 0.01);
    CHECK(std::abs(force[c]) < 0.01);
  }
  const double p = 1.6075, ab = std::pow(s.axes[0] * s.axes[1], p), ac = std::pow(s.axes[0] * s.axes[2], p),
               bc = std::pow(s.axes[1] * s.axes[2], p);
  const double surface = 4 * std::numbers::pi * std::pow((ab + ac + bc) / 3, 1 / p);
  CHECK(first == doctest::Approx(4 * std::numbers::pi * s.axes[0] * s.axes[1] * s.axes[2] / surface).epsilon(0.02));

  const EllipsoidSample again = make_ellipsoid_sample(with(5, 10), 1, 2), other = make_ellipsoid_sample(with(5, 10), 1, 3);
  CHECK(again.points[9] == s.points[9]);
  CHECK(again.pressure[9] == s.pressure[9]);
  CHECK(again.axes != other.axes);
}

TEST_CASE("ellipsoid-gen: the folder, and options that make no sense") {
  const TemporaryFolder tmp;
  EllipsoidOptions o;
  o.seed = 1, o.train = 3, o.val = 1, o.test = 2, o.points = 50;
  generate_ellipsoid(o, tmp / "set");
  const PreparedFolder folder(tmp / "set");
  CHECK(folder.info().name == "ellipsoid-gen");
  CHECK(folder.count("train") == 3);
  CHECK(folder.count("test") == 2);
  const Tensor x = read_npy(tmp / "set/val.x.npy"), y = read_npy(tmp / "set/val.y.npy");
  const EllipsoidSample sample = make_ellipsoid_sample(o, 1, 0);
  CHECK(x.shape() == Shape{1, 50, 3});
  CHECK(x.item(3 * 7 + 2) == static_cast<float>(sample.points[7][2]));
  CHECK(y.item(7) == static_cast<float>(sample.pressure[7]));
  o.points = 0;
  CHECK_SAYS(2, "ellipsoid-gen: points 0 is not from 1 to 100000000", generate_ellipsoid(o, tmp / "none"));
  o.points = 50, o.train = o.val = o.test = 0;
  CHECK_SAYS(2, "nor all zero", generate_ellipsoid(o, tmp / "none"));
}
