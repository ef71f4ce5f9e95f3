/// Models: names, counts, initial weights, masks, dropout, refusals, checkpoints. Parity with PyTorch: test_golden.cpp.
#include <cmath>
#include <filesystem>
#include <map>
#include <set>

#include "autograd/node.h"
#include "nn/checkpoint.h"
#include "nn/models/lra_classifier.h"
#include "nn/models/pde_operator.h"
#include "tests/nn_fixtures.h"

namespace {

ModelConfig pde_config(int64_t latents) {
  ModelConfig c;
  c.blocks = 8;
  c.channels = 64;
  c.heads = 8;
  c.latents = latents;
  return c;
}

std::vector<std::string> names_of(const Module& model) {
  std::vector<std::string> names;
  for (const Parameter& p : model.parameters()) names.push_back(p.name);
  return names;
}

}  // namespace

TEST_CASE("parameter counts of the published models") {
  CHECK(PdeOperator(pde_config(64), 2, 1, 0).parameter_count() == 592641);   // elasticity
  CHECK(PdeOperator(pde_config(256), 3, 1, 0).parameter_count() == 691009);  // darcy, drivaerml
  CHECK(PdeOperator(pde_config(256), 2, 1, 0).parameter_count() == 690945);  // airfoil
  CHECK(PdeOperator(pde_config(128), 2, 1, 0).parameter_count() == 625409);  // pipe
  CHECK(PdeOperator(pde_config(128), 3, 1, 0).parameter_count() == 625473);  // lpbf
  ModelConfig image;
  image.blocks = 3;
  image.channels = 64;
  image.latents = 256;
  image.kv_layers = 2;
  image.ffn_layers = 1;
  image.head = "mlp";
  CHECK(LraClassifier(image, 256, 1024, 10, false, 0).parameter_count() == 286666);
  CHECK(LraClassifier(ModelConfig{}, 16, 2048, 10, false, 0).parameter_count() == 1390346);  // listops
}

TEST_CASE("parameter names, layouts and decay follow FLARE.py") {
  ModelConfig c = small_config();
  c.blocks = 1;
  c.pool = "cls";
  c.head = "mlp";
  const LraClassifier model(c, 11, 26, 10, false, 0);
  CHECK(names_of(model) == std::vector<std::string>{"cls_token",
                                                    "token_emb.token_embed.weight",
                                                    "pos_emb.pe.weight",
                                                    "blocks.0.norm1.weight",
                                                    "blocks.0.norm1.bias",
                                                    "blocks.0.norm2.weight",
                                                    "blocks.0.norm2.bias",
                                                    "blocks.0.att.latent_q",
                                                    "blocks.0.att.k_proj.fc1.weight",
                                                    "blocks.0.att.k_proj.fc1.bias",
                                                    "blocks.0.att.k_proj.fcs.0.weight",
                                                    "blocks.0.att.k_proj.fcs.0.bias",
                                                    "blocks.0.att.k_proj.fc2.weight",
                                                    "blocks.0.att.k_proj.fc2.bias",
                                                    "blocks.0.att.v_proj.fc1.weight",
                                                    "blocks.0.att.v_proj.fc1.bias",
                                                    "blocks.0.att.v_proj.fcs.0.weight",
                                                    "blocks.0.att.v_proj.fcs.0.bias",
                                                    "blocks.0.att.v_proj.fc2.weight",
                                                    "blocks.0.att.v_proj.fc2.bias",
                                                    "blocks.0.att.out_proj.weight",
                                                    "blocks.0.att.out_proj.bias",
                                                    "blocks.0.mlp.fc1.weight",
                                                    "blocks.0.mlp.fc1.bias",
                                                    "blocks.0.mlp.fcs.0.weight",
                                                    "blocks.0.mlp.fcs.0.bias",
                                                    "blocks.0.mlp.fc2.weight",
                                                    "blocks.0.mlp.fc2.bias",
                                                    "cls_proj.2.0.weight",
                                                    "cls_proj.2.0.bias",
                                                    "cls_proj.2.2.weight",
                                                    "cls_proj.2.2.bias"});
  for (const Parameter& p : model.parameters()) {
    CAPTURE(p.name);
    const bool matrix =
        p.name.ends_with(".weight") && p.name.find("norm") == std::string::npos && p.name.find("emb") == std::string::npos;
    CHECK(p.decay == matrix);
    if (p.name == "blocks.0.att.latent_q") CHECK(p.value.shape() == Shape{16, 8});
    if (p.name == "pos_emb.pe.weight") CHECK(p.value.shape() == Shape{27, 16});
  }
  c.compat.decay_latents = true;
  for (const Parameter& p : LraClassifier(c, 11, 26, 10, false, 0).parameters())
    if (p.name == "blocks.0.att.latent_q") CHECK(p.decay);
  const PdeOperator pde(small_config(), 2, 1, 0);
  CHECK(names_of(pde)[0] == "in_proj.fc1.weight");
  const std::vector<std::string> names = names_of(pde);
  const std::set<std::string> all(names.begin(), names.end());
  CHECK(all.size() == names.size());
  for (const char* name : {"out_proj.0.weight", "out_proj.1.fc2.weight", "blocks.1.att.latent_q"}) CHECK(all.count(name) == 1);
}

TEST_CASE("initial weights have the published spread and depend on the seed alone") {
  const LraClassifier a(ModelConfig{}, 16, 512, 10, false, 5), b(ModelConfig{}, 16, 512, 10, false, 5),
      c(ModelConfig{}, 16, 512, 10, false, 6);
  const auto pa = a.parameters(), pb = b.parameters(), pc = c.parameters();
  bool differs = false;
  for (size_t i = 0; i < pa.size(); ++i) {
    const std::vector<double> values = pa[i].value.to_vector();
    CHECK(values == pb[i].value.to_vector());
    differs = differs || values != pc[i].value.to_vector();
    if (values.size() < 10000) continue;
    double mean = 0, square = 0;
    for (const double v : values) {
      mean += v;
      square += v * v;
    }
    const double sigma = pa[i].name.ends_with("latent_q") ? 0.1 : 0.02, n = static_cast<double>(values.size());
    CHECK(std::abs(mean / n) < 5 * sigma / std::sqrt(n));
    CHECK(std::sqrt(square / n) == doctest::Approx(sigma).epsilon(0.05));
  }
  CHECK(differs);
}

TEST_CASE("padding reaches no result, unless asked for") {
  const Tensor tokens = random_tokens(2, 12, 11, 1);
  for (const char* mixer : {"flare", "flare++", "softmax", "linear", "linformer", "performer"})
    for (const char* pool : {"mean", "max", "cls"}) {
      CAPTURE(mixer);
      CAPTURE(pool);
      ModelConfig c = small_config(mixer);
      c.pool = pool;
      LraClassifier model(c, 11, 40, 10, false, 3);
      Context ctx;
      const Tensor plain = model.forward(tokens, {}, ctx);
      const auto padded = [&](int64_t filler, LraClassifier& m) {
        const Tensor longer = Tensor::full({2, 20}, static_cast<double>(filler), DType::i64),
                     mask = Tensor::zeros({2, 20}, DType::u8);
        copy(tokens, longer.view({2, 12}, {20, 1}));
        fill(mask.view({2, 12}, {20, 1}), 1);
        return m.forward(longer, mask, ctx);
      };
      CHECK(relative_error(padded(0, model), plain) < 1e-5);
      CHECK(padded(0, model).to_vector() == padded(7, model).to_vector());
      c.compat.no_mask = true;
      LraClassifier careless(c, 11, 40, 10, false, 3);
      CHECK(padded(0, careless).to_vector() != padded(7, careless).to_vector());
    }
}

TEST_CASE("dropout acts while training only and repeats") {
  ModelConfig c = small_config();
  c.dropout = c.embedding_dropout = c.head_dropout = c.attention_dropout = 0.2;
  LraClassifier model(c, 11, 40, 10, false, 3);
  const Tensor tokens = random_tokens(2, 12, 11, 1);
  const auto run = [&](bool training, int64_t step) {
    Context ctx;
    ctx.training = training;
    ctx.rng = Tensor::from(std::vector<int64_t>{9, step}, {2});
    return model.forward(tokens, {}, ctx).to_vector();
  };
  CHECK(run(false, 0) == run(false, 1));
  CHECK(run(true, 0) == run(true, 0));
  CHECK(run(true, 0) != run(true, 1));
  CHECK(run(true, 0) != run(false, 0));
  Context without_rng;
  without_rng.training = true;
  CHECK_THROWS_AS(model.forward(tokens, {}, without_rng), ConfigError);
}

TEST_CASE("wrong configurations and inputs are refused with the value") {
  const auto build = [](auto change) {
    return message_of<ConfigError>([&] {
      ModelConfig c = small_config();
      change(c);
      LraClassifier(c, 11, 40, 10, false, 0);
    });
  };
  CHECK(build([](ModelConfig&) {}).empty());
  CHECK(build([](ModelConfig& c) { c.heads = 3; }).find("3 does not divide model.channels 16") != std::string::npos);
  CHECK(build([](ModelConfig& c) { c.mixer = "flair"; }).find("flair") != std::string::npos);
  CHECK(build([](ModelConfig& c) { c.pool = "sum"; }).find("sum") != std::string::npos);
  CHECK(build([](ModelConfig& c) { c.norm = "batch"; }).find("batch") != std::string::npos);
  CHECK(build([](ModelConfig& c) { c.activation = "relu6"; }).find("relu6") != std::string::npos);
  CHECK(build([](ModelConfig& c) { c.position = "alibi"; }).find("alibi") != std::string::npos);
  CHECK(build([](ModelConfig& c) {
          c.position = "rope";
          c.heads = 16;
        }).find("even head width") != std::string::npos);
  LraClassifier one(small_config(), 11, 10, 10, false, 0), two(small_config(), 11, 10, 2, true, 0);
  Context ctx;
  const Tensor tokens = random_tokens(2, 12, 11, 1);
  CHECK(message_of<ShapeError>([&] { one.forward(tokens, {}, ctx); }).find("12 tokens exceeds max_length 10") != std::string::npos);
  CHECK_THROWS_AS(two.forward(tokens, {}, ctx), ShapeError);
  CHECK_THROWS_AS(one.forward(tokens, Tensor::zeros({2, 11}, DType::u8), ctx), ShapeError);
}

TEST_CASE("checkpoints round-trip, and what does not fit is named") {
  const std::string path = (std::filesystem::temp_directory_path() / "flare_test_nn.safetensors").string();
  LraClassifier a(small_config(), 11, 12, 4, false, 3), b(small_config(), 11, 12, 4, false, 4);
  save_parameters(path, a, {{"step", "7"}});
  CHECK(read_safetensors(path).metadata.at("step") == "7");
  load_parameters(path, b);
  const auto pa = a.parameters(), pb = b.parameters();
  for (size_t i = 0; i < pa.size(); ++i) CHECK(pa[i].value.to_vector() == pb[i].value.to_vector());
  std::filesystem::remove(path);

  const auto complaint = [&](auto change) {
    std::vector<NamedTensor> tensors;
    for (const Parameter& p : a.parameters()) tensors.push_back({p.name, p.value.detach()});
    change(tensors);
    LraClassifier fresh(small_config(), 11, 12, 4, false, 5);
    const std::vector<double> before = fresh.parameters()[0].value.to_vector();
    const std::string message = message_of<DataError>([&] { load_parameters(tensors, "w.safetensors", fresh); });
    if (!message.empty()) CHECK(fresh.parameters()[0].value.to_vector() == before);
    return message;
  };
  CHECK(complaint([](auto&) {}).empty());
  const std::string missing = complaint([](auto& t) { t.pop_back(); });
  CHECK(missing.find("w.safetensors") != std::string::npos);
  CHECK(missing.find("missing: cls_proj.2.bias") != std::string::npos);
  CHECK(complaint([](auto& t) {
          t.push_back({"blocks.9.norm1.weight", t[0].value});
        }).find("unexpected: blocks.9.norm1.weight") != std::string::npos);
  const std::string shape = complaint([](auto& t) { t[0].value = Tensor::zeros({10, 16}, DType::f32); });
  CHECK(shape.find("token_emb.token_embed.weight is [10,16] in the file and [11,16] in the model") != std::string::npos);
  CHECK(complaint([](auto& t) { t.erase(t.begin(), t.begin() + 5); }).find("and 2 more") != std::string::npos);
}

TEST_CASE("initialise: linear layers and embeddings take the spread asked for, the rest and the defaults stay") {
  ModelConfig config;
  config.channels = 32, config.heads = 4, config.latents = 8, config.blocks = 2;
  const auto weights = [](const ModelConfig& c) {
    std::map<std::string, std::vector<double>> all;
    for (const Parameter& p : LraClassifier(c, 20, 50, 3, false, 7).parameters()) all[p.name] = p.value.to_vector();
    return all;
  };
  const auto plain = weights(config);
  ModelConfig wide = config;
  wide.init_gain = 1.5, wide.embedding_std = 0.1;
  int n_linear = 0, n_embeddings = 0;
  for (const auto& [name, values] : weights(wide)) {
    const std::vector<double>& before = plain.at(name);
    const bool embedding = name == "token_emb.token_embed.weight" || name == "pos_emb.pe.weight";
    const bool norm = name.find("norm") != std::string::npos || name == "cls_proj.1.weight";
    const bool linear = !embedding && !norm && name.ends_with(".weight");
    n_linear += linear, n_embeddings += embedding;
    const double factor = embedding ? 5 : linear ? 1.5 / std::sqrt(32.0) / 0.02 : 1;
    for (size_t i = 0; i < values.size(); ++i) CHECK(values[i] == doctest::Approx(factor * before[i]).epsilon(1e-6));
  }
  CHECK(n_embeddings == 2);
  CHECK(n_linear == 2 * (5 + 5 + 1 + 5) + 1);
  wide.init_gain = -1;
  CHECK_THROWS_WITH_AS(weights(wide), "model.init_gain: -1 is negative", ConfigError);
}

TEST_CASE("grid positions: the row in one half of the channels, the column in the other, any two pixels apart") {
  constexpr int64_t kSide = 8, kChannels = 16, kHalf = kChannels / 2;
  Rng rng(1);
  PositionEmbedding grid("grid", kSide * kSide, kChannels, rng);
  Context ctx;
  const std::vector<double> p = grid.forward(kSide * kSide, ctx).to_vector();
  const auto at = [&](int64_t y, int64_t x, int64_t c) { return p[static_cast<size_t>((y * kSide + x) * kChannels + c)]; };
  const auto apart = [&](int64_t y, int64_t x, int64_t v, int64_t u) {
    double sum = 0;
    for (int64_t c = 0; c < kChannels; ++c) sum += std::pow(at(y, x, c) - at(v, u, c), 2);
    return std::sqrt(sum);
  };
  double square = 0, least = 1e9;
  for (int64_t y = 0; y < kSide; ++y)
    for (int64_t x = 0; x < kSide; ++x)
      for (int64_t c = 0; c < kHalf; ++c) {
        CHECK(at(y, x, c) == at(y, 0, c));
        CHECK(at(y, x, kHalf + c) == at(x, 0, c));
      }
  for (const double v : p) square += v * v / static_cast<double>(p.size());
  CHECK(std::sqrt(square) == doctest::Approx(0.02));
  for (int64_t i = 0; i < kSide * kSide; ++i)
    for (int64_t j = 0; j < i; ++j) least = std::min(least, apart(i / kSide, i % kSide, j / kSide, j % kSide));
  CHECK(least > 0.02);                                 // a pixel further along one axis, its fast waves a quarter turn on
  CHECK(apart(3, 3, 3, 4) < 0.7 * apart(3, 3, 6, 7));  // near is near
  CHECK(at(1, 0, 0) == doctest::Approx(0.02 * std::sqrt(2.0)));

  ModelConfig c = small_config();
  c.position = "grid";
  c.embedding_std = 0.5;
  for (const Device device : devices()) {
    LraClassifier model(c, 20, 64, 2, false, 3);
    model.to(device);
    Tensor scale;
    for (const Parameter& q : model.parameters())
      if (q.name == "pos_emb.pos_scale") scale = q.value;
    CHECK(scale.item() == doctest::Approx(0.5 * std::sqrt(2.0)));
    backward(sum_all(model.forward(to_device(random_tokens(2, 64, 20, 4), device), {}, ctx)));
    CHECK(grad(scale).item() != 0);
  }
  CHECK(message_of<ConfigError>([&] { LraClassifier(c, 20, 65, 2, false, 3); }).find("got 65 tokens") != std::string::npos);
  c.pool = "cls";
  CHECK(message_of<ConfigError>([&] { LraClassifier(c, 20, 64, 2, false, 3); }).find("no class token") != std::string::npos);
}
