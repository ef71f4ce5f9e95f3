#pragma once
#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace flare {

using Vec3 = std::array<double, 3>;

/// ellipsoid-gen: pressure on a body in a stream, for point clouds of any size: the closed form of potential flow past an
/// ellipsoid. An ellipsoid of random half axes and attitude lies in a stream of speed 1 along x; the input is points on its
/// surface, drawn uniformly by area, the answer the pressure coefficient Cp = 1 - |v|² there. It has no boundary layer and no wake,
/// so it is no stand-in for a car: it is for trying sizes, and for checking a model against mathematics.
struct EllipsoidOptions {
  uint64_t seed = 0;
  int64_t train = 200, val = 20, test = 50;
  int64_t points = 40'000;  // of each sample
};

/// α_i = abc ∫₀^∞ dλ / ((a_i² + λ) √((a²+λ)(b²+λ)(c²+λ))) = ⅔ abc R_D(the other two squares, a_i²). They add up to 2. Source: H.
/// Lamb, Hydrodynamics, §114; R_D by duplication: B. C. Carlson, Numerical Algorithms 10 (1995).
Vec3 depolarisation(const Vec3& axes);

/// Cp at a point whose unit normal is `normal`, in the ellipsoid's own axes: v = w - (w·n)n, w_i = 2 u_i/(2 - α_i), |u| = 1.
double ellipsoid_pressure(const Vec3& alpha, const Vec3& stream, const Vec3& normal);

struct EllipsoidSample {
  Vec3 axes, stream;  // stream: its direction in the ellipsoid's axes
  std::vector<Vec3> points, normals;
  std::vector<double> pressure;
};
/// Depends on the seed, the split and the sample's index in it alone. Half axes from 0.25 to 1.
EllipsoidSample make_ellipsoid_sample(const EllipsoidOptions& options, int64_t split, int64_t index);

/// Writes a prepared folder: x = (x, y, z), y = Cp.
void generate_ellipsoid(const EllipsoidOptions& options, const std::string& out_dir);

}  // namespace flare
