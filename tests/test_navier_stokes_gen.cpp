/// navier-stokes-gen by mathematics: exact solutions, closed forms of the convection, conserved quantities, order of convergence,
/// the covariance of the initial field, and the folder it writes.
#include <complex>
#include <numbers>

#include "core/parallel.h"
#include "datasets/pde/navier_stokes_gen.h"
#include "datasets/pde/vorticity.h"
#include "datasets/registry.h"
#include "tests/dataset_fixtures.h"

namespace {

using std::numbers::pi;

template <class F> Tensor on_points(int64_t n, const F& value) {
  const Tensor t = Tensor::empty({n, n}, DType::f64);
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      t.data<double>()[i * n + j] =
          value(static_cast<double>(i) / static_cast<double>(n), static_cast<double>(j) / static_cast<double>(n));
  return t;
}

double largest_difference(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  double worst = 0;
  for (int64_t i = 0; i < a.numel(); ++i) worst = std::max(worst, std::abs(a.data<double>()[i] - b.data<double>()[i]));
  return worst;
}

double mean_of(const Tensor& t, int power = 1) {
  double sum = 0;
  for (int64_t i = 0; i < t.numel(); ++i) sum += std::pow(t.data<double>()[i], power);
  return sum / static_cast<double>(t.numel());
}

/// Vorticity at `time`, from a field in which all scales interact.
Tensor flow_after(int64_t n, double viscosity, double time, int64_t n_steps, bool is_forced = true) {
  VorticitySolver solver(n, viscosity, time / static_cast<double>(n_steps), is_forced);
  solver.set(on_points(n, [](double x, double y) {
    return 2 * std::cos(2 * pi * x) * std::sin(4 * pi * y) + std::sin(2 * pi * (x - y)) + 0.5 * std::cos(2 * pi * (3 * x + y) + 1);
  }));
  for (int64_t s = 0; s < n_steps; ++s) solver.step();
  return solver.vorticity();
}

NavierStokesOptions tiny() {
  NavierStokesOptions o;
  o.train = 3;
  o.val = 1;
  o.test = 2;
  o.resolution = 16;
  o.steps = 20;
  o.times = 4;
  o.reynolds = 1000;
  return o;
}

}  // namespace

TEST_CASE("vorticity: a Taylor-Green vortex decays as exp(-8π²νt), on the spot") {
  const int64_t n = 32, n_steps = 100;
  const double viscosity = 1e-2, time = 1;
  const auto vortex = [](double x, double y) { return std::cos(2 * pi * x) * std::cos(2 * pi * y); };
  VorticitySolver solver(n, viscosity, time / static_cast<double>(n_steps), false);
  solver.set(on_points(n, vortex));
  CHECK(mean_of(solver.convection(), 2) < 1e-28);
  for (int64_t s = 0; s < n_steps; ++s) solver.step();
  const double decay = std::exp(-8 * pi * pi * viscosity * time);
  // Crank-Nicolson's factor is exact to (8π²ν dt)³/12 a step.
  CHECK(largest_difference(solver.vorticity(), on_points(n, [&](double x, double y) { return decay * vortex(x, y); })) <
        1e-4 * decay * decay);
  const double rate = 4 * pi * pi * viscosity * time / static_cast<double>(n_steps),
               factor = std::pow((1 - rate) / (1 + rate), n_steps);
  CHECK(largest_difference(solver.vorticity(), on_points(n, [&](double x, double y) { return factor * vortex(x, y); })) < 1e-13);
}

TEST_CASE("vorticity: the force alone, and the state it leads to") {
  // f lies on one wave, so it drives no convection: ω = f (1 - exp(-8π²νt)) / (8π²ν).
  const int64_t n = 16, n_steps = 400;
  const double viscosity = 1e-2, time = 2, rate = 8 * pi * pi * viscosity;
  VorticitySolver solver(n, viscosity, time / static_cast<double>(n_steps));
  solver.set(Tensor::zeros({n, n}, DType::f64));
  for (int64_t s = 0; s < n_steps; ++s) solver.step();
  const Tensor expected = on_points(n, [&](double x, double y) {
    return 0.1 * (std::sin(2 * pi * (x + y)) + std::cos(2 * pi * (x + y))) * (1 - std::exp(-rate * time)) / rate;
  });
  CHECK(largest_difference(solver.vorticity(), expected) < 1e-6);
}

TEST_CASE("vorticity: u·∇ω in closed form, and its sign in a step") {
  // ω = a cos 2πx + b cos 4πy: ψ = a cos(2πx)/4π² + b cos(4πy)/16π², so u·∇ω = ab (1/2 - 2) sin 2πx sin 4πy.
  const int64_t n = 24;
  const double a = 1.25, b = -0.75, dt = 1e-5;
  const auto field = [&](double x, double y) { return a * std::cos(2 * pi * x) + b * std::cos(4 * pi * y); };
  const auto convected = [&](double x, double y) { return -1.5 * a * b * std::sin(2 * pi * x) * std::sin(4 * pi * y); };
  VorticitySolver solver(n, 0, dt, false);
  solver.set(on_points(n, field));
  CHECK(largest_difference(solver.convection(), on_points(n, convected)) < 1e-13);
  solver.step();
  const Tensor expected = on_points(n, [&](double x, double y) { return field(x, y) - dt * convected(x, y); });
  CHECK(largest_difference(solver.vorticity(), expected) < 1e-8);
}

TEST_CASE("vorticity: products are free of aliasing") {
  // The longest waves that 24 points keep have |k| = 7. Their products reach |k| = 14, which on 24 points looks like 10: more than
  // is kept. A grid of twice as many points has room for the products, and agrees on the waves that both keep.
  const auto field = [](double x, double y) {
    return std::cos(2 * pi * 7 * x) + std::sin(2 * pi * (7 * y - 6 * x)) + std::cos(2 * pi * (5 * x + 3 * y));
  };
  const int64_t most = 7;
  VorticitySolver coarse(24, 0, 1, false), fine(48, 0, 1, false);
  coarse.set(on_points(24, field));
  fine.set(on_points(48, field));
  const Tensor convections[2] = {coarse.convection(), fine.convection()};
  double worst = 0, square = 0;
  for (int64_t k1 = -most; k1 <= most; ++k1)
    for (int64_t k2 = -most; k2 <= most; ++k2) {
      std::complex<double> c[2];
      for (int g = 0; g < 2; ++g) {
        const int64_t n = convections[g].size(0);
        for (int64_t i = 0; i < n * n; ++i) {
          const double angle = -2 * pi * static_cast<double>((k1 * (i / n) + k2 * (i % n)) % n) / static_cast<double>(n);
          c[g] += convections[g].data<double>()[i] * std::polar(1.0, angle) / static_cast<double>(n * n);
        }
      }
      worst = std::max(worst, std::abs(c[0] - c[1]));
      square += std::norm(c[0]);
    }
  CHECK(square > 0.01);
  CHECK(worst < 1e-12);
  CHECK(mean_of(convections[0], 2) == doctest::Approx(square).epsilon(1e-12));  // nothing in shorter waves
  CHECK(mean_of(convections[1], 2) > 1.1 * square);
  coarse.set(on_points(24, [](double x, double y) { return std::cos(2 * pi * 8 * x) + std::sin(2 * pi * (x - 8 * y)); }));
  CHECK(mean_of(coarse.vorticity(), 2) < 1e-28);
}

TEST_CASE("vorticity: second order in time") {
  const int64_t n = 32;
  const Tensor exact = flow_after(n, 1e-3, 1, 3200);
  double last = 0;
  for (const int64_t n_steps : {50, 100, 200, 400}) {
    const double error = largest_difference(flow_after(n, 1e-3, 1, n_steps), exact);
    if (last > 0) CHECK(std::log2(last / error) == doctest::Approx(2).epsilon(0.05));
    last = error;
  }
  CHECK(last < 1e-4);
}

TEST_CASE("vorticity: mean, enstrophy and symmetry are kept") {
  CHECK(std::abs(mean_of(flow_after(32, 1e-4, 2, 400))) < 1e-14);
  // Without viscosity and force the mean of ω² stays; a step of half the length loses an eighth or less.
  const double before = mean_of(flow_after(32, 0, 1e-9, 1, false), 2);
  const double coarse = std::abs(mean_of(flow_after(32, 0, 1, 200, false), 2) - before);
  const double fine = std::abs(mean_of(flow_after(32, 0, 1, 400, false), 2) - before);
  CHECK(coarse < 1e-4 * before);
  CHECK(fine < coarse / 6);
  // Exchanging x and y turns ω into -ω of the exchanged flow.
  const int64_t n = 16;
  const auto field = [](double x, double y) { return std::cos(2 * pi * x) + 2 * std::sin(2 * pi * (x + 2 * y)); };
  VorticitySolver one(n, 1e-3, 0.01, false), other(n, 1e-3, 0.01, false);
  one.set(on_points(n, field));
  other.set(on_points(n, [&](double x, double y) { return -field(y, x); }));
  for (int s = 0; s < 50; ++s) one.step(), other.step();
  const Tensor a = one.vorticity(), b = other.vorticity();
  double worst = 0;
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j) worst = std::max(worst, std::abs(a.data<double>()[i * n + j] + b.data<double>()[j * n + i]));
  CHECK(worst < 1e-12);
}

TEST_CASE("vorticity: the initial field has the stated covariance, on every grid") {
  const int64_t n = 16, n_fields = 400;
  double expected = 0, sum = 0;
  for (int64_t k1 = -5; k1 <= 5; ++k1)
    for (int64_t k2 = -5; k2 <= 5; ++k2)
      if (k1 != 0 || k2 != 0) expected += 343 * std::pow(4 * pi * pi * static_cast<double>(k1 * k1 + k2 * k2) + 49, -2.5);
  VorticitySolver solver(n, 1e-3, 0.01), wide(2 * n, 1e-3, 0.01);
  for (int64_t i = 0; i < n_fields; ++i) {
    Rng rng(7, static_cast<uint64_t>(i));
    solver.draw(rng);
    const Tensor w = solver.vorticity();
    CHECK(std::abs(mean_of(w)) < 1e-15);
    sum += mean_of(w, 2) / static_cast<double>(n_fields);
  }
  CHECK(sum == doctest::Approx(expected).epsilon(0.05));  // some ten waves carry it: a relative deviation of about 0.6/√400
  Rng first(7, 1), second(7, 1);
  solver.draw(first);
  wide.draw(second);
  const Tensor coarse = solver.vorticity(), fine = wide.vorticity();
  double difference = 0;  // what the coarse grid has not: waves from 6 on
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      difference = std::max(difference, std::abs(coarse.data<double>()[i * n + j] - fine.data<double>()[4 * i * n + 2 * j]));
  CHECK(difference < 0.25 * std::sqrt(expected));
  CHECK(vorticity_deviation(1, 0) == doctest::Approx(std::sqrt(343 * std::pow(4 * pi * pi + 49, -2.5) / 2)));
}

TEST_CASE("navier-stokes-gen: a folder that depends on the seed alone") {
  const TemporaryFolder tmp;
  const int threads = thread_count();
  set_thread_count(1);
  generate_navier_stokes(tiny(), tmp / "one");
  set_thread_count(3);
  generate_navier_stokes(tiny(), tmp / "three");
  NavierStokesOptions other = tiny();
  other.seed = 1;
  generate_navier_stokes(other, tmp / "seed");
  set_thread_count(threads);
  for (const char* file : {"train.x.npy", "train.y.npy", "val.x.npy", "test.y.npy", "dataset.json"})
    CHECK_MESSAGE(read_file(tmp / "one/" + file) == read_file(tmp / "three/" + file), file);
  CHECK(read_file(tmp / "one/train.y.npy") != read_file(tmp / "seed/train.y.npy"));

  const PreparedFolder folder(tmp / "one");
  CHECK(folder.info().splits == std::map<std::string, int64_t>{{"train", 3}, {"val", 1}, {"test", 2}});
  CHECK(folder.info().grid == std::vector<int64_t>{8, 8});
  CHECK(folder.info().times == 2);
  const Tensor x = read_npy(tmp / "one/test.x.npy"), y = read_npy(tmp / "one/test.y.npy");
  CHECK(x.shape() == Shape{2, 64, 4});
  CHECK(y.shape() == Shape{2, 64, 2});
  const Tensor sample = make_navier_stokes_sample(tiny(), 2, 1);
  for (int64_t p = 0; p < 64; ++p) {
    CHECK(x.item((64 + p) * 4) == static_cast<double>(p / 8) / 8);
    CHECK(x.item((64 + p) * 4 + 1) == static_cast<double>(p % 8) / 8);
    for (int64_t t = 0; t < 2; ++t) {
      CHECK(x.item((64 + p) * 4 + 2 + t) == static_cast<double>(static_cast<float>(sample.item(t * 64 + p))));
      CHECK(y.item((64 + p) * 2 + t) == static_cast<double>(static_cast<float>(sample.item((2 + t) * 64 + p))));
    }
  }
}

TEST_CASE("navier-stokes-gen: options that cannot be, and steps that are too long") {
  const TemporaryFolder tmp;
  const auto generate = [&](const std::string& key, const std::string& value) {
    generate_dataset("navier-stokes-gen", {.train = 1, .val = 0, .test = 0, .extra = {{key, value}}}, tmp / "bad");
  };
  CHECK_SAYS(2, "resolution 15 is not an even number", generate("resolution", "15"));
  CHECK_SAYS(2, "stride 3 does not divide", generate("stride", "3"));
  CHECK_SAYS(2, "times 5 must be even", generate("times", "5"));
  CHECK_SAYS(2, "steps 0 must be at least 1", generate("steps", "0"));
  CHECK_SAYS(2, "reynolds 0", generate("reynolds", "0"));
  CHECK_SAYS(2, "did you mean steps?", generate("step", "10"));
  NavierStokesOptions o = tiny();
  o.resolution = 32;
  o.steps = 1;
  o.times = 40;
  o.reynolds = 1'000'000;
  CHECK_SAYS(4, "has grown without bound at t = ", make_navier_stokes_sample(o, 0, 0));
  CHECK(tmp.entries() == 0);
}
