/// Layers, models, optimizers, schedules and checkpoints. Parity with PyTorch: test_golden.cpp.
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "nn/checkpoint.h"
#include "nn/models/lra_classifier.h"
#include "nn/models/pde_operator.h"
#include "nn/optim/optimizer.h"
#include "ops/loss.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "ops/shaping.h"
#include "tests/golden.h"

using namespace flare;

namespace {

std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu};
  if (cuda_available()) all.push_back(Device::cuda);
  return all;
}

ModelConfig pde_config(int64_t latents) {
  ModelConfig c;
  c.blocks = 8;
  c.channels = 64;
  c.heads = 8;
  c.latents = latents;
  return c;
}

ModelConfig small_config(const std::string& mixer = "flare") {
  ModelConfig c;
  c.mixer = mixer;
  c.blocks = 2;
  c.channels = 16;
  c.heads = 4;
  c.latents = 8;
  c.kv_layers = c.ffn_layers = 1;
  return c;
}

Tensor random_tokens(int64_t b, int64_t n, int64_t vocab, uint64_t seed) {
  Rng rng(seed);
  std::vector<int64_t> values(static_cast<size_t>(b * n));
  for (int64_t& v : values) v = static_cast<int64_t>(rng.below(static_cast<uint64_t>(vocab)));
  return Tensor::from(values, {b, n});
}

std::vector<std::string> names_of(const Module& model) {
  std::vector<std::string> names;
  for (const Parameter& p : model.parameters()) names.push_back(p.name);
  return names;
}

/// Two free parameters, "weight" [7,5] with decay and "bias" [5] without.
struct TwoParameters : Module {
  Tensor weight, bias;
  TwoParameters(const Tensor& w, const Tensor& b) {
    add_parameter("weight", weight, clone(w), true);
    add_parameter("bias", bias, clone(b), false);
  }
  void set_gradients(const Tensor& w, const Tensor& b) {
    fill(grad(weight), 0);
    fill(grad(bias), 0);
    accumulate(w, grad(weight));
    accumulate(b, grad(bias));
  }
};

Tensor row(const Tensor& stacked, int64_t i) {
  const Shape shape = stacked.shape().without(0);
  return stacked.view(shape, shape.strides(), i * shape.numel());
}

template <class E, class F>
std::string message_of(const F& f) {
  try {
    f();
  } catch (const E& e) { return e.what(); }
  return "";
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
  for (const char* mixer : {"flare", "flare++", "softmax"})
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

TEST_CASE("optimizers equal PyTorch and the published Lion") {
  const Golden golden("optimizers");
  const auto number = [&](const char* key) { return std::stod(golden.file.metadata.at(key)); };
  const int64_t steps = static_cast<int64_t>(number("steps"));
  for (const Device device : devices())
    for (const DType dtype : {DType::f64, DType::f32}) {
      if (dtype == DType::f64 && device == Device::cuda) continue;
      for (const std::string name : {"adamw", "adamw_clip", "adamw_onecycle", "sgd", "sgd_nesterov", "sgd_onecycle", "lion"}) {
        CAPTURE(name);
        OptimConfig c;
        c.name = name.substr(0, name.find('_'));
        c.lr = number("lr");
        c.weight_decay = number("weight_decay");
        c.beta2 = c.name == "lion" ? 0.99 : 0.98;
        c.nesterov = name == "sgd_nesterov";
        c.schedule.name = name.ends_with("onecycle") ? "onecycle" : "constant";
        c.schedule.warmup = 0.3;
        c.schedule.div_factor = 25;  // PyTorch's defaults
        const auto place = [&](const Tensor& x) { return to_device(cast_to(x, dtype), device); };
        TwoParameters model(place(golden.at("start.weight")), place(golden.at("start.bias")));
        Optimizer optimizer(model.parameters(), c, steps, name == "adamw_clip" ? 3.0 : 0.0, number("ema"));
        const Tensor weights = place(golden.at("grads.weight")), biases = place(golden.at("grads.bias"));
        for (int64_t i = 0; i < steps; ++i) {
          model.set_gradients(row(weights, i), row(biases, i));
          optimizer.step();
        }
        const double tolerance = dtype == DType::f64 ? 1e-12 : 3e-6;
        CHECK(relative_error(model.weight, golden.at(name + ".weight")) < tolerance);
        CHECK(relative_error(model.bias, golden.at(name + ".bias")) < tolerance);
        CHECK(optimizer.ema()[0].first == "weight");
        CHECK(relative_error(optimizer.ema()[0].second, golden.at(name + ".ema.weight")) < tolerance);
        CHECK(relative_error(optimizer.ema()[1].second, golden.at(name + ".ema.bias")) < tolerance);
        CHECK(optimizer.step_count().item() == steps);
      }
    }
}

TEST_CASE("onecycle equals PyTorch; the other schedules equal their formulas") {
  const Golden golden("optimizers");
  const double lr = std::stod(golden.file.metadata.at("lr"));
  for (const int64_t total : {37, 100, 10, 5}) {
    const std::vector<double> args = golden.at(cat("onecycle.", total, ".args")).to_vector();
    const std::vector<double> series = golden.at(cat("onecycle.", total)).to_vector();
    ScheduleConfig c;
    c.warmup = args[0];
    c.div_factor = args[1];
    c.final_div_factor = args[2];
    const SchedulePlan plan = make_schedule(c, lr, 0.9, total);
    for (int64_t s = 0; s < total; ++s) {
      const ScheduleValue v = schedule_at(plan, s);
      CHECK(v.lr == doctest::Approx(series[static_cast<size_t>(2 * s)]).epsilon(1e-12));
      CHECK(v.beta1 == doctest::Approx(series[static_cast<size_t>(2 * s + 1)]).epsilon(1e-12));
    }
    CHECK(schedule_at(plan, total + 5).lr == schedule_at(plan, total - 1).lr);
    c.cycle_momentum = false;
    CHECK(schedule_at(make_schedule(c, lr, 0.9, total), 2).beta1 == 0.9);
  }
  ScheduleConfig c;
  c.warmup = 0.2;
  const auto at = [&](const char* name, int64_t s) {
    c.name = name;
    return schedule_at(make_schedule(c, 2.0, 0.9, 20), s).lr;
  };
  CHECK(at("constant", 0) == 2.0);
  CHECK(at("constant", 19) == 2.0);
  CHECK(at("warmup", 0) == 0.5);
  CHECK(at("warmup", 3) == 2.0);
  CHECK(at("warmup", 19) == 2.0);
  CHECK(at("cosine", 1) == 1.0);
  CHECK(at("cosine", 4) == 2.0);
  CHECK(at("cosine", 19) == doctest::Approx(0.0));
  c.min_ratio = 0.1;
  CHECK(at("cosine", 19) == doctest::Approx(0.2));
  CHECK_THROWS_AS(at("linear", 0), ConfigError);
}

TEST_CASE("clipping: the norm covers all parameters and is reported before clipping") {
  for (const Device device : devices()) {
    TwoParameters model(Tensor::zeros({7, 5}, DType::f32, device), Tensor::zeros({5}, DType::f32, device));
    OptimConfig c;
    c.name = "sgd";
    c.lr = 1;
    c.momentum = 0;
    c.weight_decay = 0;
    c.schedule.name = "constant";
    Optimizer optimizer(model.parameters(), c, 10, 2.0);
    model.set_gradients(Tensor::full({7, 5}, 3, DType::f32, device), Tensor::full({5}, 3, DType::f32, device));
    optimizer.step();
    const double norm = 3 * std::sqrt(40.0);
    CHECK(optimizer.grad_norm().item() == doctest::Approx(norm));
    CHECK(optimizer.lr().item() == 1);
    CHECK(model.weight.item(34) == doctest::Approx(-3 * 2 / norm));
    CHECK(model.bias.item(0) == doctest::Approx(-3 * 2 / norm));
    model.set_gradients(Tensor::full({7, 5}, 0.01, DType::f32, device), Tensor::zeros({5}, DType::f32, device));
    const double before = model.weight.item(0);
    optimizer.step();  // below the limit: not scaled
    CHECK(model.weight.item(0) == doctest::Approx(before - 0.01));
  }
}

TEST_CASE("a step with a loss or gradient that is not finite changes nothing and is remembered") {
  for (const Device device : devices())
    for (const bool by_loss : {true, false}) {
      TwoParameters model(Tensor::full({7, 5}, 1, DType::f32, device), Tensor::full({5}, 1, DType::f32, device));
      Optimizer optimizer(model.parameters(), OptimConfig{}, 10, 1.0, 0.9);
      const auto give = [&](double g, double loss) {
        model.set_gradients(Tensor::full({7, 5}, g, DType::f32, device), Tensor::full({5}, g, DType::f32, device));
        optimizer.check_loss(Tensor::full({}, loss, DType::f32, device));
        optimizer.step();
      };
      const double bad = by_loss ? std::numeric_limits<double>::quiet_NaN() : std::numeric_limits<double>::infinity();
      give(0.5, 1);
      CHECK(optimizer.bad_step().item() == -1);
      const auto snapshot = [&] {
        std::vector<double> all = model.weight.to_vector();
        for (const auto& [name, value] : optimizer.state())
          if (name != "step_count" && name != "bad_step")
            for (const double v : value.to_vector()) all.push_back(v);
        for (const auto& [name, value] : optimizer.ema())
          for (const double v : value.to_vector()) all.push_back(v);
        return all;
      };
      const std::vector<double> before = snapshot();
      by_loss ? give(0.5, bad) : give(bad, 1);
      by_loss ? give(0.5, bad) : give(bad, 1);
      CHECK(snapshot() == before);
      CHECK(optimizer.bad_step().item() == 1);
      CHECK(optimizer.step_count().item() == 3);
      give(0.5, 1);
      CHECK(snapshot() != before);
      CHECK(optimizer.bad_step().item() == 1);
    }
}

TEST_CASE("accumulated gradients of scaled losses equal the large batch") {
  for (const Device device : devices()) {
    const Tensor tokens = to_device(random_tokens(6, 12, 11, 1), device);
    const Tensor labels = Tensor::from(std::vector<int64_t>{1, 2, 3, 0, 1, 4}, {6}, device);
    const auto train = [&](int64_t parts) {
      LraClassifier model(small_config(), 11, 12, 5, false, 3);
      model.to(device);
      Optimizer optimizer(model.parameters(), OptimConfig{}, 3, 1.0);
      for (int step = 0; step < 3; ++step) {
        optimizer.zero_grad();
        for (int64_t i = 0; i < parts; ++i) {
          Context ctx;
          const int64_t n = 6 / parts;
          backward(cross_entropy(model.forward(contiguous(slice(tokens, 0, i * n, n)), {}, ctx),
                                 contiguous(slice(labels, 0, i * n, n))) *
                   (1.0 / static_cast<double>(parts)));
        }
        optimizer.step();
      }
      std::vector<std::pair<std::string, Tensor>> state = optimizer.state();
      std::vector<Tensor> moments = {optimizer.grad_norm()};
      for (const auto& [name, value] : state)
        if (name.starts_with("exp_avg.")) moments.push_back(clone(value));
      return moments;
    };
    const std::vector<Tensor> whole = train(1), parts = train(3);
    double largest = 0;
    for (const Tensor& m : whole)
      for (const double v : m.to_vector()) largest = std::max(largest, std::abs(v));
    for (size_t i = 0; i < whole.size(); ++i) CHECK(relative_error(parts[i], whole[i], 1e-3 * largest) < 1e-3);
    CHECK(parts[0].item() == doctest::Approx(whole[0].item()).epsilon(1e-4));
  }
}

TEST_CASE("every mixer overfits one batch") {
  for (const Device device : devices())
    for (const char* mixer : {"flare", "flare++", "softmax"}) {
      CAPTURE(mixer);
      LraClassifier model(small_config(mixer), 11, 16, 4, false, 3);
      model.to(device);
      OptimConfig c;
      c.lr = 1e-2;
      Optimizer optimizer(model.parameters(), c, 120, 1.0, 0.9);
      const Tensor tokens = to_device(random_tokens(8, 16, 11, 2), device);
      const Tensor labels = Tensor::from(std::vector<int64_t>{0, 1, 2, 3, 3, 2, 1, 0}, {8}, device);
      const auto loss_of = [&] {
        Context ctx;
        return cross_entropy(model.forward(tokens, {}, ctx), labels);
      };
      CHECK(loss_of().item() == doctest::Approx(std::log(4.0)).epsilon(0.1));
      for (int i = 0; i < 120; ++i) {
        optimizer.zero_grad();
        const Tensor loss = loss_of();
        backward(loss);
        optimizer.check_loss(loss);
        optimizer.step();
      }
      const double last = loss_of().item();
      CHECK(last < 0.05);
      optimizer.swap_ema();
      const double averaged = loss_of().item();
      CHECK(averaged < 0.1);
      CHECK(averaged != last);
      optimizer.swap_ema();
      CHECK(loss_of().item() == last);
    }
}

TEST_CASE("optimizer state restored elsewhere continues bit for bit") {
  const Tensor tokens = random_tokens(4, 12, 11, 2), labels = Tensor::from(std::vector<int64_t>{0, 1, 2, 3}, {4});
  const auto train = [&](LraClassifier& model, Optimizer& optimizer, int steps) {
    for (int i = 0; i < steps; ++i) {
      Context ctx;
      optimizer.zero_grad();
      backward(cross_entropy(model.forward(tokens, {}, ctx), labels));
      optimizer.step();
    }
  };
  LraClassifier a(small_config(), 11, 12, 4, false, 3), b(small_config(), 11, 12, 4, false, 99);
  Optimizer oa(a.parameters(), OptimConfig{}, 9, 1.0, 0.9), ob(b.parameters(), OptimConfig{}, 9, 1.0, 0.9);
  train(a, oa, 4);
  const auto transfer = [](const std::vector<std::pair<std::string, Tensor>>& from,
                           const std::vector<std::pair<std::string, Tensor>>& to) {
    REQUIRE(from.size() == to.size());
    for (size_t i = 0; i < from.size(); ++i) {
      CHECK(from[i].first == to[i].first);
      copy(from[i].second, to[i].second);
    }
  };
  transfer(oa.state(), ob.state());
  transfer(oa.ema(), ob.ema());
  const auto pa = a.parameters(), pb = b.parameters();
  for (size_t i = 0; i < pa.size(); ++i) copy(pa[i].value.detach(), pb[i].value.detach());
  train(a, oa, 5);
  train(b, ob, 5);
  for (size_t i = 0; i < pa.size(); ++i) CHECK(pa[i].value.to_vector() == pb[i].value.to_vector());
  for (size_t i = 0; i < pa.size(); ++i) CHECK(oa.ema()[i].second.to_vector() == ob.ema()[i].second.to_vector());
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

TEST_CASE("the optimizer refuses what it cannot train") {
  TwoParameters model(Tensor::zeros({7, 5}, DType::f32), Tensor::zeros({5}, DType::f32));
  const auto build = [&](auto change) {
    OptimConfig c;
    change(c);
    return message_of<ConfigError>([&] { Optimizer(model.parameters(), c, 10); });
  };
  CHECK(build([](OptimConfig&) {}).empty());
  CHECK(build([](OptimConfig& c) { c.name = "adam"; }).find("adam") != std::string::npos);
  CHECK(build([](OptimConfig& c) { c.lr = -1; }).find("-1") != std::string::npos);
  CHECK(build([](OptimConfig& c) { c.beta2 = 1; }).find("beta2 1") != std::string::npos);
  CHECK(build([](OptimConfig& c) { c.schedule.name = "step"; }).find("step") != std::string::npos);
  Optimizer optimizer(model.parameters(), OptimConfig{}, 10);
  clear_grad(model.weight);
  CHECK_THROWS_AS(optimizer.step(), ShapeError);
  optimizer.zero_grad();
  optimizer.step();
  CHECK(optimizer.step_count().item() == 1);
}
