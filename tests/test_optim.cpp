/// Optimizers and schedules against PyTorch and their formulas; clipping, bad steps, accumulation, averaged weights, resuming.
#include <limits>

#include "nn/optim/optimizer.h"
#include "ops/loss.h"
#include "tests/nn_fixtures.h"
#include "tests/tensor_fixtures.h"

namespace {

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

}  // namespace

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

TEST_CASE("halt_at_bad_step: no step after a bad one changes anything") {
  for (const Device device : devices()) {
    TwoParameters model(Tensor::full({7, 5}, 1, DType::f32, device), Tensor::full({5}, 1, DType::f32, device));
    Optimizer optimizer(model.parameters(), OptimConfig{}, 10, 1.0, 0.9);
    optimizer.halt_at_bad_step();
    optimizer.set_seed(77);
    const auto give = [&](double g) {
      model.set_gradients(Tensor::full({7, 5}, g, DType::f32, device), Tensor::full({5}, g, DType::f32, device));
      optimizer.step();
      return model.weight.item(3);
    };
    const double good = give(0.5);
    CHECK(good != 1);
    CHECK(give(std::numeric_limits<double>::infinity()) == good);
    CHECK(give(0.5) == good);
    CHECK(optimizer.bad_step().item() == 1);
    CHECK(optimizer.clock().to_vector() == std::vector<double>{77, 3});
  }
}

TEST_CASE("void gradients: the first delivery replaces what is there, the second adds, none means zero") {
  for (const Device device : devices()) {
    const auto leaf = [&](double value) {
      const Tensor x = Tensor::full({300}, value, DType::f32, device);
      set_requires_grad(x);
      return x;
    };
    const Tensor a = leaf(2), b = leaf(3), c = leaf(5);
    OptimConfig config;
    config.name = "sgd";
    config.lr = 1;
    config.momentum = 0;
    config.weight_decay = 0;
    config.schedule.name = "constant";
    Optimizer optimizer({{"a", a, true}, {"b", b, true}, {"c", c, true}}, config, 10);
    for (int step = 0; step < 2; ++step) {  // d/da (a·b + a) = b + 1, d/db = a; c is not reached
      const double a0 = a.item(7), b0 = b.item(7);
      backward(sum_all(a * b + a));
      CHECK(grad(a).item(299) == b0 + 1);
      backward(sum_all(a * b));
      CHECK(grad(a).item(299) == 2 * b0 + 1);
      CHECK(grad(b).item(0) == 2 * a0);
      if (step == 1) {
        optimizer.zero_grad();
        CHECK(optimizer.void_gradients() == std::vector<bool>{true, true, true});
        CHECK(grad(b).item(0) == 0);
        CHECK(optimizer.void_gradients() == std::vector<bool>{true, false, true});
        break;
      }
      optimizer.step();
      optimizer.zero_grad();
      CHECK(a.item(7) == a0 - (2 * b0 + 1));
      CHECK(b.item(7) == b0 - 2 * a0);
      CHECK(c.item(7) == 5);
    }
  }
}

TEST_CASE("bf16 copies of the weights follow steps and other writes") {
  for (const Device device : devices()) {
    TwoParameters model(to_device(uniform({7, 5}, DType::f32, 1), device), to_device(uniform({5}, DType::f32, 2), device));
    const auto fresh = [&](const Tensor& x) {  // converted, not handed out
      const Tensor y = Tensor::empty(x.shape(), DType::bf16, device);
      copy(x, y);
      return y.to_vector();
    };
    {
      Optimizer optimizer(model.parameters(), OptimConfig{}, 10, 0, 0.9);
      optimizer.refresh_rounded();
      const void* const kept = cast_to(model.weight, DType::bf16).raw();
      for (int i = 0; i < 3; ++i) {
        model.set_gradients(Tensor::full({7, 5}, 1, DType::f32, device), Tensor::full({5}, 1, DType::f32, device));
        optimizer.step();
        CHECK(cast_to(model.weight, DType::bf16).raw() == kept);
        CHECK(cast_to(model.weight, DType::bf16).to_vector() == fresh(model.weight));
        CHECK(cast_to(model.bias, DType::bf16).to_vector() == fresh(model.bias));
      }
      const Tensor row = model.weight.detach().view({5}, {1}, 10);  // a view finds its part
      CHECK(cast_to(row, DType::bf16).to_vector() == fresh(row));
      optimizer.swap_ema();  // written by something else: converted anew
      CHECK(cast_to(model.weight, DType::bf16).raw() != kept);
      CHECK(cast_to(model.weight, DType::bf16).to_vector() == fresh(model.weight));
      optimizer.refresh_rounded();
      CHECK(cast_to(model.weight, DType::bf16).raw() == kept);
      CHECK(cast_to(model.weight, DType::bf16).to_vector() == fresh(model.weight));
    }
    CHECK_FALSE(has_rounded(model.weight));
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
    for (const char* mixer : {"flare", "flare++", "softmax", "linear", "linformer", "performer"}) {
      CAPTURE(mixer);
      LraClassifier model(small_config(mixer), 11, 16, 4, false, 3);
      model.to(device);
      OptimConfig c;
      c.lr = 1e-2;
      Optimizer optimizer(model.parameters(), c, 120, 1.0, 0.9);
      std::vector<std::vector<double>> fixed;
      for (const NamedTensor& buffer : model.buffers()) fixed.push_back(buffer.value.to_vector());
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
      for (size_t i = 0; i < fixed.size(); ++i) CHECK(model.buffers()[i].value.to_vector() == fixed[i]);
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
