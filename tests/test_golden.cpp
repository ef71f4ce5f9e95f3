/// Whole models against PyTorch: the files of tests/golden, made by tools/golden/make_golden.py in float64.
#include <memory>

#include "nn/checkpoint.h"
#include "nn/models/lra_classifier.h"
#include "nn/models/pde_operator.h"
#include "nn/optim/optimizer.h"
#include "ops/loss.h"
#include "ops/shaping.h"
#include "tests/golden.h"

using namespace flare;

namespace {

struct Setting {
  const char* label;
  Device device;
  DType dtype;
  double output, grads, losses;  // tolerances
};

/// One case: model with the file's weights, inputs on the device, and the loss as a function of both.
struct Case {
  Case(const std::string& name, const Setting& s) : golden(name), setting(s) {
    const nlohmann::json json = golden.metadata("config");
    config = model_config(json);
    const auto integer = [&json](const char* key) { return json.at(key).get<int64_t>(); };
    is_operator = json.at("model") == "operator";
    if (is_operator) {
      pde = std::make_unique<PdeOperator>(config, integer("in_channels"), integer("out_channels"), 1,
                                          json.value("n_points", int64_t{0}));
    } else {
      n_classes = integer("n_classes");
      lra = std::make_unique<LraClassifier>(config, integer("vocab"), integer("max_length"), n_classes,
                                            json.at("two_towers").get<bool>(), 1);
    }
    std::vector<NamedTensor> weights;
    for (const NamedTensor& t : golden.file.tensors)
      for (const std::string kind : {"param.", "buffer."})
        if (t.name.starts_with(kind)) weights.push_back({t.name.substr(kind.size()), t.value});
    load_parameters(weights, name, model());
    model().to(setting.dtype);
    model().to(setting.device);
    ctx.dtype = setting.dtype;
  }
  Module& model() { return is_operator ? static_cast<Module&>(*pde) : *lra; }
  Tensor input(const std::string& name) const {
    if (!golden.has("input." + name)) return {};
    const Tensor& x = golden.at("input." + name);
    return to_device(is_float(x.dtype()) ? cast_to(x, setting.dtype) : x, setting.device);
  }
  /// Output and loss; `x`: the operator's input.
  std::pair<Tensor, Tensor> run(const Tensor& x) {
    ctx.next_site = 0;
    if (is_operator) {
      const Tensor y = pde->forward(x, input("mask"), ctx);
      return {y, relative_l2(y, input("target"), input("mask"))};
    }
    const Tensor y = golden.has("input.tokens_b")
                         ? lra->forward(input("tokens"), input("mask"), input("tokens_b"), input("mask_b"), ctx)
                         : lra->forward(input("tokens"), input("mask"), ctx);
    const Tensor labels = input("labels");
    return {y, n_classes == 2 ? bce_with_logits(reshape(y, {y.size(0)}), labels) : cross_entropy(y, labels)};
  }

  Golden golden;
  Setting setting;
  ModelConfig config;
  bool is_operator = false;
  int64_t n_classes = 0;
  std::unique_ptr<LraClassifier> lra;
  std::unique_ptr<PdeOperator> pde;
  Context ctx;
};

void check_output_and_gradients(const std::string& name, const Setting& setting) {
  Case c(name, setting);
  const Tensor x = c.is_operator ? clone(c.input("x")) : Tensor{};
  if (x) set_requires_grad(x);
  const auto [y, loss] = c.run(x);
  CHECK(relative_error(y, c.golden.at("output")) < setting.output);
  CHECK(relative_error(loss, c.golden.at("loss")) < setting.output);
  backward(loss);
  double largest = 0;
  for (const Parameter& p : c.model().parameters())
    for (const double g : c.golden.at("grad." + p.name).to_vector()) largest = std::max(largest, std::abs(g));
  // Gradients that vanish identically (a bias before a softmax) are held against the largest of the model.
  for (const Parameter& p : c.model().parameters()) {
    INFO(p.name);
    REQUIRE(grad(p.value));
    CHECK(relative_error(grad(p.value), c.golden.at("grad." + p.name), 1e-4 * largest) < setting.grads);
  }
  if (x) CHECK(relative_error(grad(x), c.golden.at("input_grad.x")) < setting.grads);
}

void check_ten_steps(const std::string& name, const Setting& setting) {
  Case c(name, setting);
  const nlohmann::json train = c.golden.metadata("train");
  const auto number = [&train](const char* key) { return train.at(key).get<double>(); };
  OptimConfig optim;
  optim.lr = number("lr");
  optim.weight_decay = number("weight_decay");
  optim.beta2 = number("beta2");
  optim.eps = number("eps");
  optim.schedule.warmup = number("warmup");
  optim.schedule.div_factor = number("div_factor");
  optim.schedule.final_div_factor = number("final_div_factor");
  const int64_t steps = train.at("steps").get<int64_t>();
  Optimizer optimizer(c.model().parameters(), optim, steps, number("clip_norm"));
  const std::vector<double> expected = c.golden.at("losses").to_vector();
  for (int64_t i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    const Tensor loss = c.run(c.input("x")).second;
    backward(loss);
    optimizer.check_loss(loss);
    optimizer.step();
    INFO("step ", i);
    CHECK(loss.item() == doctest::Approx(expected[static_cast<size_t>(i)]).epsilon(setting.losses));
  }
  CHECK(optimizer.bad_step().item() == -1);
}

const std::vector<std::string> kCases = {
    "lra_flare",          "lra_flarepp",           "lra_softmax",          "lra_flare_rope_cls",
    "lra_retrieval",      "lra_flarepp_rope_norm", "lra_softmax_rope_rms", "lra_flare_as_shipped",
    "pde_flare",          "pde_flarepp",           "pde_softmax",          "lra_linear",
    "lra_linear_rope",    "lra_linformer",         "lra_linformer_rope",   "lra_performer",
    "lra_performer_rope", "pde_linformer",         "pde_performer"};

void check_all(const Setting& setting) {
  for (const std::string& name : kCases) {
    CAPTURE(name);
    CAPTURE(setting.label);
    check_output_and_gradients(name, setting);
    check_ten_steps(name, setting);
  }
}

}  // namespace

TEST_CASE("models equal PyTorch in f64 on the CPU") { check_all({"cpu f64", Device::cpu, DType::f64, 1e-12, 1e-12, 1e-11}); }

TEST_CASE("models equal PyTorch in f32 on the CPU") { check_all({"cpu f32", Device::cpu, DType::f32, 1e-5, 1e-4, 1e-4}); }

TEST_CASE("models equal PyTorch in f32 on the GPU") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU");
    return;
  }
  check_all({"cuda f32", Device::cuda, DType::f32, 1e-5, 1e-4, 1e-4});
}

TEST_CASE("models in bf16 stay near PyTorch") {
  std::vector<Device> devices = {Device::cpu};
  if (cuda_available()) devices.push_back(Device::cuda);
  for (const Device device : devices)
    for (const std::string& name : kCases) {
      CAPTURE(name);
      Case c(name, {"bf16", device, DType::f32, 0, 0, 0});
      c.ctx.dtype = DType::bf16;
      const auto [y, loss] = c.run(c.input("x"));
      CHECK(y.dtype() == DType::f32);
      // bf16 has 8 significant bits; two blocks of about ten rounded maps each leave up to 3 percent.
      CHECK(relative_error(y, c.golden.at("output")) < 0.05);
      backward(loss);
      for (const Parameter& p : c.model().parameters()) {
        INFO(p.name);
        REQUIRE(grad(p.value));
        CHECK(grad(p.value).dtype() == DType::f32);
      }
    }
}
