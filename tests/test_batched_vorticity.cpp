/// navier-stokes-gen on a GPU. What its kernels compute between the transforms is taken on the host first, with Eigen's transforms
/// in the place of cuFFT's, against VorticitySolver; on a GPU the whole against the same. Then who may ask for a GPU, and how.
#include <algorithm>
#include <complex>
#include <numbers>

#include <fmt/format.h>
#include <unsupported/Eigen/FFT>

#include "datasets/pde/batched_vorticity.h"
#include "datasets/pde/navier_stokes_gen.h"
#include "datasets/pde/vorticity.h"
#include "datasets/pde/vorticity_waves.h"
#include "datasets/registry.h"
#include "tests/cli_fixtures.h"
#include "tests/dataset_fixtures.h"

namespace {

using Complex = std::complex<double>;

/// ‖a - b‖ / ‖b‖.
double relative(const double* a, const double* b, int64_t n) {
  double difference = 0, size = 0;
  for (int64_t i = 0; i < n; ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(difference / size);
}
double relative(const Tensor& a, const Tensor& b) {
  REQUIRE(a.shape() == b.shape());
  return relative(a.data<double>(), b.data<double>(), a.numel());
}

/// Σ values exp(sign 2πi (k1 i + k2 j)/n) of [n,n], not scaled.
std::vector<Complex> transform(int64_t n, std::vector<Complex> values, int sign) {
  Eigen::FFT<double> fft;
  fft.SetFlag(Eigen::FFT<double>::Unscaled);
  std::vector<Complex> line(static_cast<size_t>(n)), out(line.size());
  for (const int64_t stride : {int64_t{1}, n})
    for (int64_t l = 0; l < n; ++l) {
      Complex* const at = values.data() + l * (stride == 1 ? n : 1);
      for (int64_t i = 0; i < n; ++i) line[static_cast<size_t>(i)] = at[i * stride];
      sign < 0 ? fft.fwd(out.data(), line.data(), n) : fft.inv(out.data(), line.data(), n);
      for (int64_t i = 0; i < n; ++i) at[i * stride] = out[static_cast<size_t>(i)];
    }
  return values;
}

/// One flow with the arithmetic and the arrays of BatchedVorticity.
struct HostFlow {
  VorticityWaves waves;
  std::vector<ComplexValue> omega, slope, spectra, fields, coefficients;

  HostFlow(int64_t n, double viscosity, double dt)
      : waves{static_cast<int>(n), static_cast<int>(vorticity_cut(n)),
              0.5 * dt * viscosity * 4 * std::numbers::pi * std::numbers::pi, dt},
        omega(static_cast<size_t>(waves.count())),
        slope(omega.size()),
        spectra(static_cast<size_t>(2 * n * n)),
        fields(spectra.size()),
        coefficients(static_cast<size_t>(n * (n / 2 + 1))) {}

  void invert(int64_t which) {
    const int64_t n = waves.n;
    std::vector<Complex> values;
    for (int64_t i = 0; i < n * n; ++i) {
      const ComplexValue& c = spectra[static_cast<size_t>(which * n * n + i)];
      values.emplace_back(c.re, c.im);
    }
    values = transform(n, values, 1);
    for (int64_t i = 0; i < n * n; ++i)
      fields[static_cast<size_t>(which * n * n + i)] = {values[static_cast<size_t>(i)].real(),
                                                        values[static_cast<size_t>(i)].imag()};
  }
  template <bool is_corrector> void half_step() {
    const int64_t n = waves.n;
    invert(0);
    invert(1);
    std::vector<Complex> products;
    for (int64_t i = 0; i < n * n; ++i)
      products.emplace_back(VorticityWaves::convected(fields[static_cast<size_t>(i)], fields[static_cast<size_t>(n * n + i)]));
    products = transform(n, products, -1);
    for (int64_t k1 = 0; k1 < n; ++k1)
      for (int64_t k2 = 0; k2 <= n / 2; ++k2) {
        const Complex& c = products[static_cast<size_t>(k1 * n + k2)];
        coefficients[static_cast<size_t>(k1 * (n / 2 + 1) + k2)] = {c.real(), c.imag()};
      }
    for (int p = 0; p < waves.count(); ++p)
      waves.advance<is_corrector>(p, coefficients.data(), omega.data(), slope.data(), spectra.data());
  }
  void draw(Rng rng) {
    draw_vorticity(rng, waves.cut, [&](int64_t k1, int64_t k2, double re, double im) {
      waves.set(static_cast<int>(k1), static_cast<int>(k2), {re, im}, omega.data());
    });
  }
  void step(int64_t n_steps) {
    for (int p = 0; p < waves.count(); ++p) waves.write_spectra(p, omega[static_cast<size_t>(p)], spectra.data());
    for (int64_t s = 0; s < n_steps; ++s) {
      half_step<false>();
      half_step<true>();
    }
  }
  Tensor vorticity() {
    for (int p = 0; p < waves.count(); ++p) waves.write_vorticity(p, omega[static_cast<size_t>(p)], spectra.data());
    invert(0);
    const Tensor out = Tensor::empty({waves.n, waves.n}, DType::f64);
    double imaginary = 0;
    for (int64_t i = 0; i < out.numel(); ++i) {
      out.data<double>()[i] = fields[static_cast<size_t>(i)].re;
      imaginary = std::max(imaginary, std::abs(fields[static_cast<size_t>(i)].im));
    }
    CHECK(imaginary < 1e-14);
    return out;
  }
};

Tensor cpu_flow(int64_t n, double viscosity, double dt, int64_t n_steps, Rng rng) {
  VorticitySolver solver(n, viscosity, dt);
  solver.draw(rng);
  for (int64_t s = 0; s < n_steps; ++s) solver.step();
  return solver.vorticity();
}

Tensor flow(const Tensor& batch, int64_t b) {
  const int64_t side = batch.size(1);
  return batch.view({side, side}, {side, 1}, b * side * side);
}

NavierStokesOptions small() {
  NavierStokesOptions o;
  o.train = 5;
  o.val = 1;
  o.test = 2;
  o.resolution = 32;
  o.steps = 130;  // more than one piece of them
  o.times = 4;
  o.reynolds = 1000;
  return o;
}

void skip(const char* what, int n) { fmt::print("{}: 0 cases ran, {} skipped\n    no GPU on this machine\n", what, n); }

}  // namespace

TEST_CASE("vorticity waves: every pair k, -k once, and where it lies") {
  for (const int n : {8, 10, 24}) {
    const VorticityWaves waves{n, static_cast<int>(vorticity_cut(n)), 0, 1};
    std::vector<ComplexValue> omega(static_cast<size_t>(waves.count()));
    for (int p = 0; p < waves.count(); ++p) {
      const auto [k1, k2] = waves.wave(p);
      CHECK((k1 > 0 || (k1 == 0 && k2 > 0)));
      CHECK(std::max(std::abs(k1), std::abs(k2)) < waves.cut);
      waves.set(k1, k2, {1, 2.0 + p}, omega.data());
      CHECK(omega[static_cast<size_t>(p)].im == 2.0 + p);
      waves.set(-k1, -k2, {3, 4.0 + p}, omega.data());
      CHECK(omega[static_cast<size_t>(p)].re == 3);
      CHECK(omega[static_cast<size_t>(p)].im == -4.0 - p);
    }
    CHECK(2 * waves.count() + 1 == waves.width() * waves.width());
  }
}

TEST_CASE("vorticity waves: the GPU's steps, taken on the host, are VorticitySolver's") {
  for (const int64_t n : {8, 10, 18, 32}) {
    CAPTURE(n);
    const double viscosity = 1e-3, dt = 0.01;
    HostFlow host(n, viscosity, dt);
    host.draw(Rng(3, 4));
    CHECK(relative(host.vorticity(), cpu_flow(n, viscosity, dt, 0, Rng(3, 4))) < 1e-14);
    host.step(1);
    CHECK(relative(host.vorticity(), cpu_flow(n, viscosity, dt, 1, Rng(3, 4))) < 1e-14);
    host.step(29);
    CHECK(relative(host.vorticity(), cpu_flow(n, viscosity, dt, 30, Rng(3, 4))) < 1e-13);
  }
}

TEST_CASE("batched vorticity: a batch on the GPU against flows on the CPU") {
  const int64_t sizes[] = {8, 18, 64};
  if (!cuda_available()) {
    CHECK_THROWS_AS(BatchedVorticity(8, 1, 1e-3, 0.01), DeviceError);
    return skip("batched vorticity", static_cast<int>(std::size(sizes)));
  }
  for (const int64_t n : sizes) {
    CAPTURE(n);
    const double viscosity = 1e-3, dt = 0.01;
    BatchedVorticity flows(n, 3, viscosity, dt), others(n, 3, viscosity, dt);
    flows.draw({Rng(1, 1), Rng(1, 2)});
    Tensor w = flows.vorticity();
    for (uint64_t b = 0; b < 2; ++b)
      CHECK(relative(flow(w, static_cast<int64_t>(b)), cpu_flow(n, viscosity, dt, 0, Rng(1, b + 1))) < 1e-14);
    CHECK(w.item(2 * n * n + 1) == 0);
    for (const int64_t n_steps : {1, 2, 17}) flows.step(n_steps);  // looked at in between or not
    w = flows.vorticity();
    for (uint64_t b = 0; b < 2; ++b)
      CHECK(relative(flow(w, static_cast<int64_t>(b)), cpu_flow(n, viscosity, dt, 20, Rng(1, b + 1))) < 1e-13);
    const Tensor coarse = flows.vorticity(2);
    for (int64_t b = 0; b < 3; ++b)
      for (int64_t i = 0; i < n / 2; ++i)
        for (int64_t j = 0; j < n / 2; ++j) CHECK(coarse.item((b * n / 2 + i) * n / 2 + j) == w.item((b * n + 2 * i) * n + 2 * j));

    // Other neighbours, another place, other pauses: the same bits. So does what the same memory held before.
    others.draw({Rng(9, 1), Rng(9, 2), Rng(9, 3)});
    others.step(5);
    others.draw({Rng(9, 4), Rng(1, 1)});
    others.step(20);
    const Tensor moved = others.vorticity();
    CHECK(std::equal(w.data<double>(), w.data<double>() + n * n, moved.data<double>() + n * n));
    CHECK(std::equal(w.data<double>() + 2 * n * n, w.data<double>() + 3 * n * n, moved.data<double>() + 2 * n * n));
  }
  CHECK_SAYS(2, "a grid of 9 points", BatchedVorticity(9, 1, 1e-3, 0.01));
  CHECK_SAYS(2, "a batch of 0 flows", BatchedVorticity(8, 0, 1e-3, 0.01));
  fmt::print("batched vorticity: {} cases ran, 0 skipped\n", std::size(sizes));
}

TEST_CASE("navier-stokes-gen: samples of the GPU are those of the CPU, and repeat bit for bit") {
  if (!cuda_available()) {
    NavierStokesOptions o = small();
    o.device = Device::cuda;
    CHECK_THROWS_AS(make_navier_stokes_sample(o, 0, 0), DeviceError);
    return skip("navier-stokes-gen on a GPU", 2);
  }
  NavierStokesOptions fine;  // at the published viscosity, where differences grow
  fine.resolution = 64;
  fine.stride = 1;
  fine.steps = 200;
  fine.times = 2;
  const Tensor cpu = make_navier_stokes_sample(fine, 1, 7);
  fine.device = Device::cuda;
  const Tensor gpu = make_navier_stokes_sample(fine, 1, 7);
  CHECK(relative(gpu.data<double>(), cpu.data<double>(), 64 * 64) < 1e-10);
  CHECK(relative(gpu, cpu) < 1e-8);

  const TemporaryFolder tmp;
  NavierStokesOptions o = small();
  generate_navier_stokes(o, tmp / "cpu");
  o.device = Device::cuda;
  o.batch = 3;  // the last of three batches is not full
  generate_navier_stokes(o, tmp / "one");
  generate_navier_stokes(o, tmp / "two");
  for (const char* file : {"train.x.npy", "train.y.npy", "val.x.npy", "val.y.npy", "test.x.npy", "test.y.npy"}) {
    CHECK_MESSAGE(read_file(tmp / "one/" + file) == read_file(tmp / "two/" + file), file);
    const Tensor a = read_npy(tmp / "one/" + file), b = read_npy(tmp / "cpu/" + file);
    double worst = 0;
    for (int64_t i = 0; i < a.numel(); ++i) worst = std::max(worst, std::abs(a.item(i) - b.item(i)));
    CHECK_MESSAGE(worst < 1e-6, file, " ", worst);  // f32: the last bit of values around 1
  }
  CHECK(read_file(tmp / "one/dataset.json") == read_file(tmp / "two/dataset.json"));
  CHECK(PreparedFolder(tmp / "one").info().source.find("on " + current_gpu() + ", 3 samples at once") != std::string::npos);
  CHECK(PreparedFolder(tmp / "cpu").info().source.find("on the CPU") != std::string::npos);

  o.resolution = 32;
  o.steps = 1;
  o.times = 40;
  o.reynolds = 1'000'000;
  CHECK_SAYS(4, "has grown without bound at t = ", make_navier_stokes_sample(o, 0, 0));
  fmt::print("navier-stokes-gen on a GPU: 2 cases ran, 0 skipped\n");
}

TEST_CASE("data generate: --device") {
  const Scratch scratch;
  const auto generate = [&](const std::string& name, const std::string& device) {
    return scratch.run({"data", "generate", name, "--out", "data", "--train", "1", "--val", "0", "--test", "0", "--device", device,
                        "--set", name == "listops" ? "max_depth=3" : "times=2"});
  };
  for (const char* device : {"cuda", "cuda:0"}) {
    const Outcome refused = generate("listops", device);
    CHECK(refused.code == 2);
    CHECK(refused.err == std::string("flare: listops: --device ") + device +
                             ": there is no version for GPUs (only of: navier-stokes-gen); use --device cpu or auto\n");
  }
  for (const char* name : {"listops", "navier-stokes-gen"}) {
    const Outcome unknown = generate(name, "tpu");
    CHECK(unknown.code == 2);
    CHECK(unknown.err.find("'tpu' is not auto, cpu, cuda or cuda:<index>") != std::string::npos);
  }
  if (!cuda_available()) {
    const Outcome missing = generate("navier-stokes-gen", "cuda");
    CHECK(missing.code == 4);
    CHECK(std::count(missing.err.begin(), missing.err.end(), '\n') == 1);
  }
  CHECK(!fs::exists(scratch.file("data")));
  CHECK_SAYS(2, "batch -1 is not 0 to 65535",
             generate_dataset("navier-stokes-gen", {.extra = {{"batch", "-1"}}, .device = "cpu"}, scratch.file("data")));
  CHECK(scratch
            .run({"data", "generate", "navier-stokes-gen", "--device", "cpu", "--out", "data", "--train", "1", "--val", "0",
                  "--test", "0", "--set", "resolution=16", "--set", "steps=10", "--set", "times=2"})
            .code == 0);
  CHECK(PreparedFolder(scratch.file("data")).info().source.find("on the CPU") != std::string::npos);
}
