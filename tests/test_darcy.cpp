/// darcy-gen by mathematics: the solver against exact solutions, symmetry and refinement, the random field against its
/// covariance and the published transform, the folder against the real small Darcy files where they are at hand.
#include <numbers>

#include "core/parallel.h"
#include "datasets/import/npz.h"
#include "datasets/pde/darcy.h"
#include "datasets/pde/darcy_solver.h"
#include "datasets/pde/random_field.h"
#include "tests/dataset_fixtures.h"
#include "tests/pde_fixtures.h"

namespace {

using std::numbers::pi;

template <class F> Tensor on_nodes(int64_t n, const F& value) {
  const Tensor t = Tensor::empty({n, n}, DType::f64);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      t.data<double>()[i * n + j] =
          value(static_cast<double>(i) / static_cast<double>(n - 1), static_cast<double>(j) / static_cast<double>(n - 1));
  return t;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  double worst = 0;
  for (int64_t i = 0; i < a.numel(); ++i) worst = std::max(worst, std::abs(a.data<double>()[i] - b.data<double>()[i]));
  return worst;
}

/// t[i,j] -> t[n-1-j,i]: a quarter turn.
Tensor turned(const Tensor& t) {
  const int64_t n = t.size(0);
  const Tensor out = Tensor::empty({n, n}, t.dtype());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) out.data<double>()[(n - 1 - j) * n + i] = t.data<double>()[i * n + j];
  return out;
}
Tensor mirrored(const Tensor& t) {
  const int64_t n = t.size(0);
  const Tensor out = Tensor::empty({n, n}, t.dtype());
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) out.data<double>()[i * n + n - 1 - j] = t.data<double>()[i * n + j];
  return out;
}

double l2_of_points(const Tensor& coarse, const Tensor& fine) {  // at the nodes both have, relative
  const int64_t n = coarse.size(0), step = (fine.size(0) - 1) / (n - 1);
  double error = 0, size = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const double c = coarse.data<double>()[i * n + j], f = fine.data<double>()[i * step * fine.size(0) + j * step];
      error += (c - f) * (c - f);
      size += f * f;
    }
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE("darcy solver: second order on a manufactured solution") {
  // u = sin(πx) sin(2πy), a = 1 + ½ sin(2πx) cos(πy), f = -∇a·∇u - a Δu.
  const auto u = [](double x, double y) { return std::sin(pi * x) * std::sin(2 * pi * y); };
  const auto a = [](double x, double y) { return 1 + 0.5 * std::sin(2 * pi * x) * std::cos(pi * y); };
  const auto f = [&](double x, double y) {
    const double ax = pi * std::cos(2 * pi * x) * std::cos(pi * y), ay = -0.5 * pi * std::sin(2 * pi * x) * std::sin(pi * y);
    const double ux = pi * std::cos(pi * x) * std::sin(2 * pi * y), uy = 2 * pi * std::sin(pi * x) * std::cos(2 * pi * y);
    return -ax * ux - ay * uy + a(x, y) * 5 * pi * pi * u(x, y);
  };
  std::vector<double> errors;
  for (const int64_t n : {17, 33, 65, 129})
    errors.push_back(largest_difference(DarcySolver(n).solve(on_nodes(n, a), on_nodes(n, f)), on_nodes(n, u)));
  for (size_t k = 1; k < errors.size(); ++k) {
    const double order = std::log2(errors[k - 1] / errors[k]);
    MESSAGE("error ", errors[k], ", order ", order);
    CHECK(order > 1.9);
    CHECK(order < 2.1);
  }
}

TEST_CASE("darcy solver: the known deflection of a square, and scaling by the coefficient") {
  // -Δu = 1 on the unit square: u(½,½) = 16/π⁴ Σ (-1)^((m+n)/2-1) / (m n (m² + n²)) over odd m, n.
  double exact = 0;
  for (int m = 1; m < 400; m += 2)
    for (int n = 1; n < 400; n += 2) exact += ((m + n) / 2 % 2 ? 1.0 : -1.0) / (static_cast<double>(m) * n * (m * m + n * n));
  exact *= 16 / (pi * pi * pi * pi);
  CHECK(exact == doctest::Approx(0.0736713).epsilon(1e-5));
  DarcySolver solver(129);
  const double unit = solver.solve(Tensor::full({129, 129}, 1, DType::f64)).item(64 * 129 + 64);
  CHECK(unit == doctest::Approx(exact).epsilon(1e-4));
  CHECK(solver.solve(Tensor::full({129, 129}, 4, DType::f64)).item(64 * 129 + 64) == doctest::Approx(unit / 4).epsilon(1e-12));
}

TEST_CASE("darcy solver: residual, symmetry and bounds on a two-phase coefficient") {
  DarcyOptions o;
  o.resolution = 106;
  o.stride = 5;
  DarcySolver solver(o.resolution);
  for (int64_t i = 0; i < 3; ++i) {
    const DarcySample s = make_darcy_sample(o, 0, i);
    CHECK(darcy_residual(s.a, s.u) < 1e-11);
    double highest = 0, size = 0;
    for (int64_t k = 0; k < s.u.numel(); ++k) {
      const double a = s.a.item(k), u = s.u.item(k);
      CHECK_MESSAGE((a == 3 || a == 12), a);
      highest = std::max(highest, u);
      size = std::max(size, std::abs(u));
      REQUIRE(u >= 0);  // the matrix is an M-matrix
    }
    CHECK(highest < 0.0736714 / 3);  // and grows when a shrinks, so a = 3 bounds it from above, a = 12 from below
    CHECK(highest > 0.0736714 / 12);
    CHECK(largest_difference(solver.solve(mirrored(s.a)), mirrored(s.u)) < 1e-12 * size);
    CHECK(largest_difference(solver.solve(turned(s.a)), turned(s.u)) < 1e-12 * size);
    CHECK(largest_difference(solver.solve(turned(s.a)), s.u) > 1e-2 * size);  // the sample itself is not symmetric
  }
  CHECK_SAYS(4, "not positive definite", solver.solve(Tensor::full({106, 106}, -1, DType::f64)));
  CHECK_SAYS(2, "a must be f64 [106,106]", solver.solve(Tensor::full({105, 105}, 1, DType::f64)));
  CHECK_SAYS(2, "3 to 4097 nodes", DarcySolver(2));
}

TEST_CASE("darcy solver: refining the grid converges on a two-phase coefficient") {
  Rng rng(3);
  const int64_t modes = 12;
  const Tensor series = RandomField(modes, 3, 2).draw(rng);
  std::vector<Tensor> solutions;
  for (const int64_t n : {27, 53, 105, 209, 417}) {
    const Tensor a = CosineGrid(n, modes).evaluate(series);
    for (int64_t i = 0; i < a.numel(); ++i) a.data<double>()[i] = a.data<double>()[i] >= 0 ? 12 : 3;
    solutions.push_back(DarcySolver(n).solve(a));
  }
  std::vector<double> errors;
  for (size_t k = 0; k + 1 < solutions.size(); ++k) errors.push_back(l2_of_points(solutions[k], solutions.back()));
  MESSAGE("relative differences to 417 nodes: ", errors[0], " ", errors[1], " ", errors[2], " ", errors[3]);
  for (size_t k = 1; k < errors.size(); ++k) CHECK(errors[k] < errors[k - 1] / 1.4);
  CHECK(errors.back() < 0.005);
}

TEST_CASE("random field: the published transform, and its spectrum") {
  // MATLAB's idct2 (orthonormal) of K τ^(α-1) (π²|k|² + τ²)^(-α/2) ξ at the cell centres (i+½)/K, summed by definition. Those are
  // the odd nodes of a grid of 2K + 1.
  constexpr int64_t K = 8;
  const RandomField field(K, 3, 2);
  Rng rng(1), same(1);
  const Tensor values = CosineGrid(2 * K + 1, K).evaluate(field.draw(rng));
  double xi[K][K];
  for (auto& row : xi)
    for (double& value : row) value = same.normal();
  double worst = 0;
  for (int64_t i = 0; i < K; ++i)
    for (int64_t j = 0; j < K; ++j) {
      double sum = 0;
      for (int64_t p = 0; p < K; ++p)
        for (int64_t q = 0; q < K; ++q) {
          if (p == 0 && q == 0) continue;
          const double alpha_p = std::sqrt((p == 0 ? 1.0 : 2.0) / K), alpha_q = std::sqrt((q == 0 ? 1.0 : 2.0) / K);
          const double level = K * 3.0 * std::pow(pi * pi * static_cast<double>(p * p + q * q) + 9, -1.0) * xi[p][q];
          sum +=
              alpha_p * alpha_q * level * std::cos(pi * (2 * i + 1) * p / (2.0 * K)) * std::cos(pi * (2 * j + 1) * q / (2.0 * K));
        }
      worst = std::max(worst, std::abs(sum - values.item((2 * i + 1) * (2 * K + 1) + 2 * j + 1)));
    }
  CHECK(worst < 1e-13);

  // Projecting drawn fields on single cosines gives back the variances: the trapezoidal rule is exact for these products.
  constexpr int64_t n = 33, modes = 16, draws = 600;
  const RandomField wide(modes, 3, 2);
  const CosineGrid grid(n, modes);
  const int64_t ks[][2] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}, {2, 3}, {7, 4}, {15, 15}};
  double energy[7] = {}, product = 0;
  for (int64_t d = 0; d < draws; ++d) {
    Rng draw(2, static_cast<uint64_t>(d));
    const Tensor u = grid.evaluate(wide.draw(draw));
    double projected[7] = {};
    for (int64_t m = 0; m < 7; ++m) {
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < n; ++j) {
          const double weight = (i == 0 || i == n - 1 ? 0.5 : 1) * (j == 0 || j == n - 1 ? 0.5 : 1) / ((n - 1) * (n - 1));
          projected[m] += weight * u.data<double>()[i * n + j] * std::cos(pi * static_cast<double>(ks[m][0] * i) / (n - 1)) *
                          std::cos(pi * static_cast<double>(ks[m][1] * j) / (n - 1));
        }
      const double norm = (ks[m][0] ? 0.5 : 1) * (ks[m][1] ? 0.5 : 1);
      projected[m] /= norm;
      energy[m] += projected[m] * projected[m] / draws;
    }
    product += projected[1] * projected[2] / draws;
  }
  CHECK(energy[0] < 1e-25);  // no constant part
  const double spread = 5 * std::sqrt(2.0 / draws);
  for (int64_t m = 1; m < 7; ++m) {
    const double k2 = static_cast<double>(ks[m][0] * ks[m][0] + ks[m][1] * ks[m][1]);
    const double weight = (ks[m][0] ? 2 : 1) * (ks[m][1] ? 2 : 1);
    CHECK(energy[m] == doctest::Approx(weight * 9 / std::pow(pi * pi * k2 + 9, 2)).epsilon(spread));
  }
  CHECK(std::abs(product) < spread * energy[1]);  // different modes are independent
}

TEST_CASE("darcy-gen: the folder, whatever the number of threads") {
  const TemporaryFolder tmp;
  DarcyOptions o;
  o.seed = 5;
  o.train = 23;
  o.val = 3;
  o.test = 4;
  o.resolution = 41;
  o.stride = 5;
  const int threads = thread_count();
  set_thread_count(1);
  generate_darcy(o, tmp / "one");
  set_thread_count(3);
  generate_darcy(o, tmp / "three");
  set_thread_count(threads);
  for (const char* file : {"train.x.npy", "train.y.npy", "val.x.npy", "val.y.npy", "test.x.npy", "test.y.npy", "dataset.json"})
    CHECK_MESSAGE(sha256_of_file(tmp / "one/" + file) == sha256_of_file(tmp / "three/" + file), file);

  const PreparedFolder folder(tmp / "one");
  CHECK(folder.info().name == "darcy-gen");
  CHECK(folder.info().kind == "field_regression");
  CHECK(folder.info().grid == std::vector<int64_t>{9, 9});
  CHECK(folder.info().splits == std::map<std::string, int64_t>{{"train", 23}, {"val", 3}, {"test", 4}});
  const Tensor x = read_npy(tmp / "one/train.x.npy"), y = read_npy(tmp / "one/train.y.npy");
  CHECK(x.shape() == Shape{23, 81, 3});
  CHECK(y.shape() == Shape{23, 81, 1});
  const DarcySample sample = make_darcy_sample(o, 0, 22);
  for (int64_t i = 0; i < 9; ++i)
    for (int64_t j = 0; j < 9; ++j) {
      const int64_t p = 22 * 81 + i * 9 + j;
      CHECK(x.item(3 * p) == static_cast<float>(static_cast<double>(i) / 8));
      CHECK(x.item(3 * p + 1) == static_cast<float>(static_cast<double>(j) / 8));
      CHECK(x.item(3 * p + 2) == sample.a.item(i * 5 * 41 + j * 5));
      CHECK(y.item(p) == static_cast<float>(sample.u.item(i * 5 * 41 + j * 5)));
      if (i == 0 || i == 8 || j == 0 || j == 8) CHECK(y.item(p) == 0);
    }
  // Normalisation: of a and u over train; coordinates are left alone.
  double mean = 0, square = 0;
  for (int64_t p = 0; p < y.numel(); ++p) mean += y.item(p) / static_cast<double>(y.numel());
  for (int64_t p = 0; p < y.numel(); ++p) square += (y.item(p) - mean) * (y.item(p) - mean);
  const auto& n = folder.info().normalisation;
  CHECK(n.at("y").mean[0] == doctest::Approx(mean));
  CHECK(n.at("y").std[0] == doctest::Approx(std::sqrt(square / static_cast<double>(y.numel() - 1))).epsilon(1e-5));
  CHECK(n.at("x").mean[0] == 0);
  CHECK(n.at("x").std[1] == 1);
  CHECK(n.at("x").mean[2] > 3);

  // A sample depends on seed, split and index alone; splits and seeds differ.
  o.train = 2;
  o.val = 0;
  generate_darcy(o, tmp / "few");
  const Tensor few = read_npy(tmp / "few/train.x.npy");
  for (int64_t i = 0; i < few.numel(); ++i) REQUIRE(few.item(i) == x.item(i));
  CHECK_FALSE(PreparedFolder(tmp / "few").has_split("val"));
  CHECK(sha256_of_file(tmp / "few/test.x.npy") == sha256_of_file(tmp / "one/test.x.npy"));
  CHECK(largest_difference(make_darcy_sample(o, 0, 0).u, make_darcy_sample(o, 2, 0).u) > 1e-4);
  o.seed = 6;
  CHECK(largest_difference(make_darcy_sample(o, 0, 22).u, sample.u) > 1e-4);

  o.stride = 7;
  CHECK_SAYS(2, "stride 7 does not lead from the first of 41 nodes to the last", generate_darcy(o, tmp / "bad"));
  CHECK_FALSE(fs::exists(tmp / "bad"));
}

TEST_CASE("darcy: the real small files") {
  const std::string source = data_folder("darcy");
  if (source.empty()) return;
  const NpzFile archive(source + "/darcy_16_32.npz");
  const Tensor phase = cast_to(archive.read("test32_x"), DType::f64), solution = cast_to(archive.read("test32_y"), DType::f64);

  // Our solver on the real coefficients reproduces the real solutions. The files state neither the coefficient's two values nor the
  // unit of u: a contrast of 20 for all samples and a factor for each are fitted. They are strided from a finer grid whose last row
  // is missing, so the comparison is rough.
  const int64_t n = 33;
  DarcySolver solver(n);
  double error = 0, lowest = 1e30, highest = 0;
  const int64_t count = phase.size(0);
  for (int64_t s = 0; s < count; ++s) {
    const Tensor a = Tensor::empty({n, n}, DType::f64);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j)
        a.data<double>()[i * n + j] =
            phase.item((s * 32 + std::min<int64_t>(i, 31)) * 32 + std::min<int64_t>(j, 31)) > 0.5 ? 1 : 0.05;
    const Tensor u = solver.solve(a);
    double uy = 0, uu = 0, yy = 0;
    for (int64_t i = 0; i < 32; ++i)
      for (int64_t j = 0; j < 32; ++j) {
        const double ours = u.item(i * n + j), real = solution.item((s * 32 + i) * 32 + j);
        uy += ours * real, uu += ours * ours, yy += real * real;
      }
    error += std::sqrt(std::max(0.0, 1 - uy * uy / (uu * yy))) / static_cast<double>(count);
    lowest = std::min(lowest, uy / uu), highest = std::max(highest, uy / uu);
  }
  MESSAGE("relative L2 to the real solutions ", error, ", factors ", lowest, " to ", highest);
  CHECK(error < 0.08);
  CHECK(highest / lowest < 1.3);

  // The coefficient's statistics: as many points in each phase, and neighbours that agree as often, as in generated fields.
  const auto agreement = [](const Tensor& p, int64_t side, int64_t channels, int64_t channel) {
    double share = 0, equal = 0, pairs = 0;
    const int64_t samples = p.numel() / (side * side * channels);
    const auto high = [&](int64_t s, int64_t i, int64_t j) {
      return p.item(((s * side + i) * side + j) * channels + channel) > (channels == 1 ? 0.5 : 7.5);
    };
    for (int64_t s = 0; s < samples; ++s)
      for (int64_t i = 0; i < side; ++i)
        for (int64_t j = 0; j < side; ++j) {
          share += high(s, i, j);
          if (j + 1 < side) equal += high(s, i, j) == high(s, i, j + 1), ++pairs;
          if (i + 1 < side) equal += high(s, i, j) == high(s, i + 1, j), ++pairs;
        }
    return std::pair(share / static_cast<double>(samples * side * side), equal / pairs);
  };
  const Tensor train = archive.read("train16_x");
  const auto [real_share, real_equal] = agreement(train, 16, 1, 0);
  const TemporaryFolder tmp;
  DarcyOptions o;
  o.train = 400;
  o.val = o.test = 0;
  o.resolution = 97;  // 17 nodes are kept
  o.stride = 6;
  generate_darcy(o, tmp / "gen");
  const auto [our_share, our_equal] = agreement(read_npy(tmp / "gen/train.x.npy"), 17, 3, 2);
  MESSAGE("share of the high phase ", real_share, " real, ", our_share, " ours; equal neighbours ", real_equal, " real, ",
          our_equal, " ours");
  CHECK(real_share == doctest::Approx(0.5).epsilon(0.03));
  CHECK(our_share == doctest::Approx(0.5).epsilon(0.06));
  CHECK(our_equal == doctest::Approx(real_equal).epsilon(0.05));
}
