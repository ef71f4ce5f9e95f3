/// Spectra of the mixers' operators, against eigenvalues of the explicit N x N product of the two softmax matrices.
#include <complex>

#include <Eigen/Dense>

#include "autograd/node.h"
#include "core/rng.h"
#include "nn/mixer.h"
#include "tests/dataset_fixtures.h"
#include "tests/field_fixtures.h"
#include "tests/train_fixtures.h"
#include "tools/analyze/spectrum.h"

namespace {

std::vector<double> numbers(int64_t n, uint64_t seed, double size) {
  Rng rng(seed);
  std::vector<double> out(static_cast<size_t>(n));
  for (double& v : out) v = size * (2 * rng.uniform() - 1);
  return out;
}

/// Eigenvalues of W_dec·W_enc [N,N], descending by real part: the softmaxes written out, the solver for general matrices.
std::vector<std::complex<double>> explicit_spectrum(const std::vector<double>& q, const std::vector<double>& k, int64_t m,
                                                    int64_t n, int64_t d, double scale) {
  Eigen::MatrixXd s(m, n);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      s(i, j) = 0;
      for (int64_t c = 0; c < d; ++c) s(i, j) += scale * q[static_cast<size_t>(i * d + c)] * k[static_cast<size_t>(j * d + c)];
    }
  const auto softmax_of_rows = [](const Eigen::MatrixXd& x) {
    Eigen::MatrixXd w = x;
    for (int64_t i = 0; i < x.rows(); ++i) {
      w.row(i) = (x.row(i).array() - x.row(i).maxCoeff()).exp().matrix();
      w.row(i) /= w.row(i).sum();
    }
    return w;
  };
  const Eigen::MatrixXd encode = softmax_of_rows(s), decode = softmax_of_rows(s.transpose());
  const Eigen::EigenSolver<Eigen::MatrixXd> solver(decode * encode, false);
  REQUIRE(solver.info() == Eigen::Success);
  std::vector<std::complex<double>> values(solver.eigenvalues().begin(), solver.eigenvalues().end());
  std::sort(values.begin(), values.end(), [](auto a, auto b) { return a.real() > b.real(); });
  return values;
}

void check_equal(const std::vector<double>& found, const std::vector<std::complex<double>>& expected) {
  for (size_t i = 0; i < std::max(found.size(), expected.size()); ++i) {
    const double ours = i < found.size() ? found[i] : 0;
    const std::complex<double> theirs = i < expected.size() ? expected[i] : 0;
    CHECK(std::abs(ours - theirs.real()) < 1e-10);
    CHECK(std::abs(theirs.imag()) < 1e-7);  // the general solver splits double eigenvalues
  }
}

/// The head's q and k of one sample, gathered without its padding.
struct Gathered {
  std::vector<double> q, k;
  int64_t tokens = 0;
};
Gathered gather(const Routing& r, int64_t b, int64_t h) {
  const int64_t heads = r.q.size(-3), m = r.q.size(-2), d = r.q.size(-1), n = r.k.size(1);
  Gathered g;
  const int64_t first = (r.q.ndim() == 4 ? b * heads + h : h) * m * d;
  for (int64_t i = 0; i < m * d; ++i) g.q.push_back(r.q.item(first + i));
  for (int64_t j = 0; j < n; ++j) {
    if (r.mask && r.mask.item(b * n + j) == 0) continue;
    ++g.tokens;
    for (int64_t c = 0; c < d; ++c) g.k.push_back(r.k.item((b * n + j) * heads * d + h * d + c));
  }
  return g;
}

}  // namespace

TEST_CASE("spectrum: equals the eigenvalues of the explicit N x N operator, and lies in [0,1]") {
  for (const auto& [m, n, d, size] :
       {std::tuple<int64_t, int64_t, int64_t, double>{6, 20, 3, 1}, {8, 5, 4, 1.5}, {1, 7, 2, 1}, {5, 1, 2, 1}, {12, 40, 2, 3}}) {
    const std::vector<double> q = numbers(m * d, 1, size), k = numbers(n * d, 2, size);
    const std::vector<double> found = routing_spectrum(q.data(), k.data(), m, n, d, 0.7);
    REQUIRE(static_cast<int64_t>(found.size()) == m);
    check_equal(found, explicit_spectrum(q, k, m, n, d, 0.7));
    CHECK(found[0] == doctest::Approx(1).epsilon(1e-12));
    CHECK(std::is_sorted(found.rbegin(), found.rend()));
    CHECK(found.back() >= 0);
  }
  // More tokens than are taken at once: the same as when taken in any other order.
  const int64_t m = 4, n = 2500, d = 2;
  const std::vector<double> q = numbers(m * d, 3, 2), k = numbers(n * d, 4, 2);
  const std::vector<double> found = routing_spectrum(q.data(), k.data(), m, n, d, 1);
  std::vector<double> turned;
  for (int64_t j = n; j-- > 0;) turned.insert(turned.end(), k.begin() + j * d, k.begin() + (j + 1) * d);
  const std::vector<double> again = routing_spectrum(q.data(), turned.data(), m, n, d, 1);
  for (size_t i = 0; i < found.size(); ++i) CHECK(found[i] == doctest::Approx(again[i]).epsilon(1e-10));
  CHECK(found[0] == doctest::Approx(1).epsilon(1e-12));
}

TEST_CASE("spectrum: logits of hundreds stay finite, and are the permutation they describe") {
  // Each latent prefers one token and each token one latent, by e^80: the operator is the identity on M tokens.
  const int64_t m = 6, d = 6;
  std::vector<double> eye(static_cast<size_t>(m * d));
  for (int64_t i = 0; i < m; ++i) eye[static_cast<size_t>(i * d + i)] = 1;
  for (const double v : routing_spectrum(eye.data(), eye.data(), m, m, d, 80)) CHECK(v == doctest::Approx(1).epsilon(1e-12));
  for (const double scale : {80.0, 800.0}) {
    const std::vector<double> q = numbers(m * d, 5, 1), k = numbers(30 * d, 6, 1);
    const std::vector<double> values = routing_spectrum(q.data(), k.data(), m, 30, d, scale);
    CHECK(values[0] == doctest::Approx(1).epsilon(1e-12));
    for (const double v : values) CHECK((v >= 0 && v <= 1 + 1e-12));
    check_equal(values, explicit_spectrum(q, k, m, 30, d, scale));
  }
  const double bad = std::numeric_limits<double>::infinity();
  CHECK_SAYS(4, "not finite", routing_spectrum(&bad, &bad, 1, 1, 1, 1));
}

TEST_CASE("spectrum: effective rank and counts") {
  CHECK(effective_rank({1, 1, 1, 1}) == doctest::Approx(4));
  CHECK(effective_rank({1, 0, 0}) == doctest::Approx(1));
  CHECK(effective_rank({1, 0.5}) == doctest::Approx(std::exp(-(2. / 3 * std::log(2. / 3) + 1. / 3 * std::log(1. / 3)))));
  CHECK(above_one_percent({1, 0.5, 0.011, 0.009}) == 3);
  // Equal keys: every token mixes alike, rank 1.
  const std::vector<double> q = numbers(8, 7, 1), k(20, 0.3);
  CHECK(effective_rank(routing_spectrum(q.data(), k.data(), 4, 10, 2, 1)) == doctest::Approx(1).epsilon(1e-6));
}

TEST_CASE("spectrum: of every layer and head of both mixers, with masks, averaged over samples") {
  for (const char* mixer : {"flare", "flare++"}) {
    TrainFixture f(std::string("spectrum_") + (mixer[5] ? "pp" : "plain"));
    f.recipe.model.mixer = mixer;
    f.recipe.model.blocks = 2;
    f.recipe.model.qk_norm = true;  // makes the logits large enough to matter
    f.recipe.model.scale = 2;
    const PreparedFolder folder = open_data(f.recipe);
    const std::unique_ptr<Task> task = make_task(f.recipe, folder);
    EvaluationOptions options;
    options.pad_to = 24;
    const std::vector<LayerSpectrum> layers = spectra_of(*task, folder, "test", 3, options);
    REQUIRE(layers.size() == 2);
    // The same from what the mixers report of the three samples in one batch, by the explicit operator.
    Loader loader(folder, "test", {.batch_size = 3, .shuffle = false, .drop_last = false, .pad_to = 24, .prefetch = false});
    const Batch batch = loader.next();
    REQUIRE(batch.mask);
    Context context;
    std::vector<Routing> seen;
    std::vector<std::string> scopes;
    context.on_routing = [&](const Routing& r) {
      seen.push_back(r);
      scopes.push_back(ScopeName::current());
    };
    const NoGrad no_grad;
    task->forward(batch, context);
    REQUIRE(seen.size() == 2);
    CHECK(scopes == std::vector<std::string>{"blocks.0.att", "blocks.1.att"});
    CHECK(seen[0].q.ndim() == (mixer[5] ? 4 : 3));
    for (size_t l = 0; l < 2; ++l) {
      CHECK(layers[l].block == static_cast<int64_t>(l));
      REQUIRE(layers[l].heads.size() == 2);
      for (int64_t h = 0; h < 2; ++h) {
        std::vector<double> mean(4);
        int64_t n_tokens = 0;
        for (int64_t b = 0; b < 3; ++b) {
          const Gathered g = gather(seen[l], b, h);
          n_tokens += g.tokens;
          const auto values = explicit_spectrum(g.q, g.k, 4, g.tokens, 8, seen[l].scale);
          for (size_t i = 0; i < 4 && i < values.size(); ++i) mean[i] += values[i].real() / 3;
        }
        for (size_t i = 0; i < 4; ++i)
          CHECK(layers[l].heads[static_cast<size_t>(h)].eigenvalues[i] == doctest::Approx(mean[i]).epsilon(1e-4));
        CHECK(n_tokens < 3 * 24);  // some was padding
        CHECK(mean[1] < 0.999);
      }
    }
    CHECK_SAYS(2, "--samples: 0", spectra_of(*task, folder, "test", 0, options));
    CHECK_SAYS(3, "there is no split", spectra_of(*task, folder, "dev", 1, options));
    CHECK(spectra_of(*task, folder, "test", 1000, options).size() == 2);
  }
}

TEST_CASE("spectrum: from the command line") {
  const Scratch scratch;
  make_field_run(scratch);
  const Outcome text = scratch.run({"analyze", "spectrum", "run", "--samples", "2", "--device", "cpu"});
  INFO(text.err);
  REQUIRE(text.code == 0);
  CHECK(contains(text.out, "effective rank of each head, of 8"));
  CHECK(contains(text.out, "2 samples of split test"));
  const Json file = Json::parse(read_file(scratch.file("run/spectrum.json")));
  CHECK(file["split"] == "test");
  CHECK(file["samples"] == 2);
  CHECK(contains(file["weights"].get<std::string>(), "checkpoints/"));
  REQUIRE(file["layers"].size() == 2);
  for (size_t l = 0; l < 2; ++l) {
    CHECK(file["layers"][l]["block"] == l);
    REQUIRE(file["layers"][l]["heads"].size() == 2);
    for (const Json& head : file["layers"][l]["heads"]) {
      const auto values = head["eigenvalues"].get<std::vector<double>>();
      REQUIRE(values.size() == 8);
      CHECK(values[0] == doctest::Approx(1));
      CHECK(head["effective_rank"].get<double>() == doctest::Approx(effective_rank(values)).epsilon(1e-6));
      CHECK(head["above_1_percent"] == above_one_percent(values));
    }
  }
  const std::string svg = read_file(scratch.file("run/spectrum.svg"));
  CHECK(svg.starts_with("<svg xmlns="));
  CHECK(contains(svg, "block 1"));
  const Outcome json =
      scratch.run({"analyze", "spectrum", "run", "--samples", "2", "--device", "cpu", "--json", "--out", "elsewhere"});
  REQUIRE(json.code == 0);
  CHECK(Json::parse(json.out) == file);
  CHECK(fs::exists(scratch.file("elsewhere/spectrum.svg")));

  check_failure(scratch.run({"analyze"}), 2, {"subcommand"});
  check_failure(scratch.run({"analyze", "spectra", "run"}), 2, {"did you mean spectrum?"});
  check_failure(scratch.run({"analyze", "spectrum", "nowhere"}), 2, {"nowhere", "--weights"});
  check_failure(scratch.run({"analyze", "spectrum", "tiny.json"}), 2, {"--weights"});
  check_failure(scratch.run({"analyze", "spectrum", "run", "--split", "dev"}), 3, {"dev"});
  check_failure(scratch.run({"analyze", "spectrum", "run", "--samples", "0"}), 2, {"--samples"});
  check_failure(scratch.run({"analyze", "spectrum", "run", "--out", "tiny.json"}), 3, {"tiny.json"});
  make_field_run(scratch, "soft", {"--set", "model.mixer=softmax"});
  check_failure(scratch.run({"analyze", "spectrum", "soft"}), 2, {"model.mixer: softmax", "no spectrum"});
  CHECK(!fs::exists(scratch.file("soft/spectrum.json")));
}
