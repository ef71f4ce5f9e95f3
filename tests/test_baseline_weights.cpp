/// What the baseline mixers consist of: names, counts, spreads, the Performer's random features, buffers in checkpoints, the
/// registry, and refusals. What they compute: test_baselines.cpp.
#include <algorithm>
#include <filesystem>
#include <numeric>

#include "nn/checkpoint.h"
#include "nn/models/pde_operator.h"
#include "nn/performer.h"
#include "tests/baseline_fixtures.h"
#include "tests/train_fixtures.h"

namespace {

std::vector<std::string> names_of(const std::vector<NamedTensor>& tensors) {
  std::vector<std::string> names;
  for (const NamedTensor& t : tensors) names.push_back(t.name);
  return names;
}

}  // namespace

TEST_CASE("baselines: names, shapes, counts and decay") {
  const std::vector<std::string> shared = {"qkv_proj.weight", "qkv_proj.bias", "out_proj.weight", "out_proj.bias"};
  const auto with = [&](std::vector<std::string> front) {
    front.insert(front.end(), shared.begin(), shared.end());
    return front;
  };
  for (const std::string& name : kBaselines) {
    CAPTURE(name);
    Rng rng(1);
    const std::unique_ptr<Mixer> mixer = make_mixer(narrow(name), rng, kLongest);
    const int64_t projections = 4 * 8 * 8 + 4 * 8;
    CHECK(mixer->parameter_count() == projections + (name == "linformer" ? 2 * 6 * kLongest : 0));
    const std::vector<std::string> own = name == "linformer"   ? std::vector<std::string>{"e_proj", "f_proj"}
                                         : name == "performer" ? std::vector<std::string>{"random_features"}
                                                               : std::vector<std::string>{};
    CHECK(names_of(mixer->state()) == with(own));
    for (const Parameter& p : mixer->parameters()) {
      CHECK(p.decay == !p.name.ends_with(".bias"));
      if (p.name == "e_proj") CHECK(p.value.shape() == Shape{6, kLongest});
    }
    CHECK(names_of(mixer->buffers()) ==
          (name == "performer" ? std::vector<std::string>{"random_features"} : std::vector<std::string>{}));
  }
  ModelConfig c = narrow("linear");
  c.qk_norm = true;
  c.qkv_bias = false;
  Rng rng(1);
  CHECK(names_of(make_mixer(c, rng, kLongest)->state()) == std::vector<std::string>{"q_norm.weight", "q_norm.bias", "k_norm.weight",
                                                                                    "k_norm.bias", "qkv_proj.weight",
                                                                                    "out_proj.weight", "out_proj.bias"});
}

TEST_CASE("linformer: its weights follow the spread stated, lengths beyond them are refused") {
  ModelConfig c = narrow("linformer");
  c.latents = 64;
  Rng rng(2);
  const std::unique_ptr<Mixer> mixer = make_mixer(c, rng, 400);
  const std::vector<double> e = mixer->parameters()[0].value.to_vector();
  CHECK(std::sqrt(std::inner_product(e.begin(), e.end(), e.begin(), 0.0) / static_cast<double>(e.size())) ==
        doctest::Approx(0.05).epsilon(0.02));
  CHECK(message_of<ShapeError>([&] {
          run(*mixer, Tensor::zeros({1, 401, 8}, DType::f32));
        }).find("401 tokens exceeds") != std::string::npos);
  // The class token is counted.
  c = small_config("linformer");
  c.pool = "cls";
  LraClassifier model(c, 11, 10, 3, false, 0);
  for (const Parameter& p : model.parameters())
    if (p.name == "blocks.0.att.e_proj") CHECK(p.value.shape() == Shape{8, 11});
  Context ctx;
  CHECK(model.forward(random_tokens(2, 10, 11, 1), {}, ctx).shape() == Shape{2, 3});
}

TEST_CASE("linformer on fields: samples of one size only") {
  const ModelConfig c = small_config("linformer");
  CHECK(message_of<ConfigError>([&] { PdeOperator(c, 2, 1, 0); }).find("samples differ in size") != std::string::npos);
  PdeOperator model(c, 2, 1, 0, 9);
  Context ctx;
  CHECK(model.forward(Tensor::zeros({2, 9, 2}, DType::f32), {}, ctx).shape() == Shape{2, 9, 1});
  for (const int64_t n : {8, 10}) CHECK_THROWS_AS(model.forward(Tensor::zeros({2, n, 2}, DType::f32), {}, ctx), ShapeError);
  PdeOperator any(small_config("performer"), 2, 1, 0, 9);
  CHECK(any.forward(Tensor::zeros({2, 10, 2}, DType::f32), {}, ctx).shape() == Shape{2, 10, 1});
}

TEST_CASE("performer: features are orthogonal in blocks, standard normal one by one, and a function of the seed") {
  const int64_t m = 4096, d = 8;
  Rng rng(11), again(11), other(12);
  const Tensor omega = orthogonal_features(m, d, rng);
  CHECK(omega.to_vector() == orthogonal_features(m, d, again).to_vector());
  CHECK(omega.to_vector() != orthogonal_features(m, d, other).to_vector());
  const float* w = omega.data<float>();
  const auto product = [&](int64_t i, int64_t j) {
    double total = 0;
    for (int64_t e = 0; e < d; ++e) total += static_cast<double>(w[i * d + e]) * static_cast<double>(w[j * d + e]);
    return total;
  };
  double worst = 0, across = 0, squares = 0, fourth = 0;
  for (int64_t i = 0; i < m; ++i) {
    squares += product(i, i);
    fourth += product(i, i) * product(i, i);
    for (int64_t j = i / d * d; j < i; ++j)
      worst = std::max(worst, std::abs(product(i, j)) / std::sqrt(product(i, i) * product(j, j)));
    if (i >= d) across = std::max(across, std::abs(product(i, i - d)));
  }
  CHECK(worst < 1e-6);
  CHECK(across > 1);  // rows of two blocks are independent, not orthogonal
  // |ω|² is chi-squared with D degrees of freedom: mean D, second moment D(D+2).
  const auto count = static_cast<double>(m), width = static_cast<double>(d);
  CHECK(std::abs(squares / count - width) < 5 * std::sqrt(2 * width / count));
  CHECK(fourth / count == doctest::Approx(width * (width + 2)).epsilon(0.1));
  double sum = 0;
  for (const double v : omega.to_vector()) sum += v;
  CHECK(std::abs(sum) < 5 * std::sqrt(count * width));
  CHECK(orthogonal_features(3, d, rng).shape() == Shape{3, d});  // fewer than a block
}

TEST_CASE("performer: the error against softmax attention falls like one over the root of the number of features") {
  ModelConfig c = narrow("softmax");
  Rng rng(1);
  const std::unique_ptr<Mixer> exact = make_mixer(c, rng, 0);
  exact->to(DType::f64);
  for (const Parameter& p : exact->parameters()) copy(uniform(p.value.shape(), DType::f64, 21, 0.4), p.value.detach());
  const Tensor x = uniform({2, 12, 8}, DType::f64, 22), y = run(*exact, x);
  c.mixer = "performer";
  const std::vector<int64_t> counts = {16, 64, 256, 1024};
  std::vector<double> errors;
  for (const int64_t m : counts) {
    double square = 0;
    constexpr int kDraws = 24;
    for (uint64_t draw = 0; draw < kDraws; ++draw) {
      c.latents = m;
      Rng features(1000 + draw);
      const std::unique_ptr<Mixer> mixer = make_mixer(c, features, 0);
      mixer->to(DType::f64);
      std::vector<NamedTensor> weights = exact->state();
      weights.push_back(mixer->buffers()[0]);
      load_parameters(weights, "softmax", *mixer);
      for (const double e : (run(*mixer, x) - y).to_vector()) square += e * e;
    }
    errors.push_back(std::sqrt(square / kDraws / static_cast<double>(y.numel())));
  }
  double size = 0;
  for (const double v : y.to_vector()) size += v * v;
  size = std::sqrt(size / static_cast<double>(y.numel()));
  CHECK(errors.back() < 0.03 * size);
  for (size_t i = 1; i < errors.size(); ++i) {
    CAPTURE(counts[i]);
    CHECK(errors[i] < 0.65 * errors[i - 1]);  // four times the features: half the error
    CHECK(errors[i] > 0.35 * errors[i - 1]);
  }
}

TEST_CASE("buffers: in checkpoints, moved and converted with the model, not trained") {
  const std::string path = (std::filesystem::temp_directory_path() / "flare_test_baselines.safetensors").string();
  LraClassifier a(small_config("performer"), 11, 12, 4, false, 3), b(small_config("performer"), 11, 12, 4, false, 4);
  const Tensor tokens = random_tokens(2, 12, 11, 1);
  Context ctx;
  const std::string key = "blocks.1.att.random_features";
  const auto features = [&](const Module& m) {
    for (const NamedTensor& t : m.buffers())
      if (t.name == key) return t.value;
    return Tensor{};
  };
  REQUIRE(features(a));
  CHECK(features(a).to_vector() != features(b).to_vector());
  CHECK(features(a).to_vector() != a.buffers()[0].value.to_vector());  // each block its own draw
  CHECK_FALSE(requires_grad(features(a)));
  for (const Parameter& p : a.parameters()) CHECK(p.name.find("random_features") == std::string::npos);

  save_parameters(path, a);
  REQUIRE(read_safetensors(path).find(key));
  load_parameters(path, b);
  CHECK(features(b).to_vector() == features(a).to_vector());
  CHECK(b.forward(tokens, {}, ctx).to_vector() == a.forward(tokens, {}, ctx).to_vector());
  std::vector<NamedTensor> tensors = read_safetensors(path).tensors;
  std::filesystem::remove(path);
  std::erase_if(tensors, [&](const NamedTensor& t) { return t.name == key; });
  CHECK(message_of<DataError>([&] { load_parameters(tensors, "w", b); }).find("missing: " + key) != std::string::npos);

  b.to(DType::f64);
  CHECK(features(b).dtype() == DType::f64);
  CHECK_FALSE(requires_grad(features(b)));
  CHECK(features(b).to_vector() == features(a).to_vector());
  if (cuda_available()) {
    a.to(Device::cuda);
    CHECK(features(a).device() == Device::cuda);
  }
}

TEST_CASE("buffers: a run with averages is restored with them") {
  const TrainFixture f("buffers");
  Recipe recipe = f.recipe;
  recipe.model.mixer = "performer";
  recipe.train.ema_decay = 0.9;
  trained_weights(f, recipe, "run");
  const SafeTensors averages = read_safetensors(f.path + "/run/checkpoints/last/ema.safetensors");
  CHECK(averages.find("blocks.0.att.random_features"));
  const RunFolder run = RunFolder::resume(f.path + "/run", recipe);
  Trainer again(recipe, open_data(recipe), Device::cpu, true);
  again.attach(run);
  CHECK(again.restore());
  CHECK(again.step() == recipe.train.steps);
  const std::unique_ptr<Task> task = make_task(recipe, open_data(recipe));
  load_parameters(weights_of_run(f.path + "/run"), task->model());
  for (const NamedTensor& t : task->model().state()) CHECK(t.value.to_vector() == averages.find(t.name)->to_vector());
}

TEST_CASE("mixers: one registry, whose names the errors and the help give") {
  const std::string names = "flare, flare++, softmax, linear, linformer, performer";
  CHECK(mixer_names() == names);
  CHECK(config_help().find(names) != std::string::npos);
  Rng rng(1);
  CHECK(message_of<ConfigError>([&] { make_mixer(narrow("flair"), rng, 4); }) == "model.mixer: \"flair\" is not one of " + names);

  struct Echo : Mixer {
    Tensor forward(const Tensor& x, const Tensor&, const Tensor&, Context&) override { return x; }
  };
  const auto echo = [](const ModelConfig&, Rng&, int64_t) -> std::unique_ptr<Mixer> { return std::make_unique<Echo>(); };
  static const bool added = register_mixer({"test_echo", echo});
  CHECK(added);
  CHECK_FALSE(register_mixer({"test_echo", echo}));
  CHECK_FALSE(register_mixer({"flare", echo}));
  const Tensor x = uniform({1, 3, 8}, DType::f32, 1);
  CHECK(run(*make_mixer(narrow("test_echo"), rng, 0), x).to_vector() == x.to_vector());
}

TEST_CASE("baselines: what makes no sense is refused with the reason") {
  const auto build = [](const std::string& mixer, auto change) {
    return message_of<ConfigError>([&] {
      ModelConfig c = narrow(mixer);
      change(c);
      Rng rng(1);
      make_mixer(c, rng, kLongest);
    });
  };
  for (const char* mixer : {"linear", "performer"})
    CHECK(build(mixer, [](ModelConfig& c) { c.attention_dropout = 0.1; }).find("forms no attention weights") != std::string::npos);
  CHECK(build("linformer", [](ModelConfig& c) { c.attention_dropout = 0.1; }).empty());
  for (const char* mixer : {"linformer", "performer"})
    CHECK(build(mixer, [](ModelConfig& c) { c.latents = 0; }).find("model.latents: 0") != std::string::npos);
  for (const std::string& mixer : kBaselines)
    CHECK(build(mixer, [](ModelConfig& c) {
            c.position = "rope";
            c.heads = 8;
          }).find("even head width") != std::string::npos);
}
