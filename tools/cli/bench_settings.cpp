#include "tools/cli/bench_settings.h"

#include <algorithm>

#include "core/rng.h"
#include "nn/models/lra_classifier.h"
#include "nn/models/pde_operator.h"
#include "ops/loss.h"
#include "ops/shaping.h"

namespace flare {
namespace {

constexpr const char* kLra = R"("blocks": 4, "channels": 128, "heads": 8, "latents": 128, "kv_layers": 3, "ffn_layers": 3)";
constexpr const char* kPde = R"("blocks": 8, "channels": 64, "heads": 8, "kv_layers": 3, "ffn_layers": 3)";
const Setting kSettings[] = {
    {"listops", SettingKind::sequence, 2000, 16, 10, 0, 0, true, kLra, R"("batch_size": 32, "precision": "bf16")"},
    {"text", SettingKind::sequence, 4000, 257, 2, 0, 0, true, R"("position": "rope", "pool": "cls", "scale": 0.25, *lra)",
     R"("batch_size": 32, "precision": "bf16")"},
    {"retrieval", SettingKind::pair, 4000, 257, 2, 0, 0, true, kLra, R"("batch_size": 32, "precision": "bf16")"},
    {"image", SettingKind::sequence, 1024, 256, 10, 0, 0, false,
     R"("blocks": 3, "channels": 64, "heads": 8, "latents": 256, "kv_layers": 2, "ffn_layers": 1)",
     R"("batch_size": 32, "precision": "bf16")"},
    {"pathfinder", SettingKind::sequence, 1024, 256, 2, 0, 0, false, R"("dropout": 0.1, *lra)",
     R"("batch_size": 32, "precision": "fp32", "clip_norm": 0.5)"},
    {"elasticity", SettingKind::points, 972, 0, 0, 2, 1, false, R"("latents": 64, *pde)", R"("batch_size": 2, "ema_decay": 0.999)"},
    {"darcy", SettingKind::points, 7225, 0, 0, 3, 1, false, R"("latents": 128, *pde)", R"("batch_size": 2, "ema_decay": 0.999)"},
    {"drivaer40k", SettingKind::points, 40000, 0, 0, 3, 1, false, R"("latents": 64, *pde)",
     R"("batch_size": 1, "ema_decay": 0.999)"},
    {"1m", SettingKind::points, int64_t{1} << 20, 0, 0, 3, 1, false,
     R"("blocks": 8, "channels": 128, "heads": 8, "latents": 128, "kv_layers": 3, "ffn_layers": 3)",
     R"("batch_size": 1, "precision": "bf16")"},
};

}  // namespace

std::string setting_names() {
  std::string names;
  for (const Setting& s : kSettings) names += cat(names.empty() ? "" : ", ", s.name);
  return names;
}

namespace {
const Setting& setting_named(const std::string& name) {
  for (const Setting& s : kSettings)
    if (name == s.name) return s;
  throw ConfigError(
      cat("bench step: no setting ", quoted(name), "; there are ", setting_names(), ", all, or a recipe of such a task"));
}

Recipe recipe_of_setting(const Setting& s, const std::vector<std::string>& assignments) {
  std::string model = s.model;
  for (const auto& [word, text] : {std::pair{"*lra", kLra}, std::pair{"*pde", kPde}})
    if (const size_t at = model.find(word); at != std::string::npos) model.replace(at, 4, text);
  return parse_recipe(cat(R"({"task": {"name": ")", s.name, R"("}, "model": {)", model, R"(}, "train": {)", s.train,
                          R"(}, "optim": {"lr": 5e-4}})"),
                      s.name, assignments);
}

class SyntheticTask : public Task {
 public:
  SyntheticTask(const Setting& s, const Recipe& recipe, int64_t length) : kind_(s.kind) {
    if (kind_ == SettingKind::points)
      points_ = std::make_unique<PdeOperator>(recipe.model, s.in_channels, s.out_channels, recipe.seed, length);
    else
      sequence_ =
          std::make_unique<LraClassifier>(recipe.model, s.vocabulary, length, s.n_classes, kind_ == SettingKind::pair, recipe.seed);
  }
  Module& model() override { return points_ ? static_cast<Module&>(*points_) : *sequence_; }
  Tensor forward(const Batch& b, Context& context) override {
    if (points_) return points_->forward(b.x, b.mask, context);
    if (kind_ == SettingKind::pair) return sequence_->forward(b.tokens, b.mask, b.tokens_b, b.mask_b, context);
    return sequence_->forward(b.tokens, b.mask, context);
  }
  Tensor loss(const Tensor& output, const Batch& b) override {
    if (points_) return relative_l2(output, b.y);
    if (output.size(1) == 1) return bce_with_logits(reshape(output, {output.size(0)}), b.labels);
    return cross_entropy(output, b.labels);
  }
  Tensor score_sum(const Tensor& output, const Batch& b) override {
    return points_ ? relative_l2(output, b.y) : correct_count(output, b.labels);
  }
  std::string score_name() const override { return points_ ? "relative_l2" : "accuracy"; }
  bool higher_is_better() const override { return !points_; }
  std::unique_ptr<Meter> new_meter() const override { throw ConfigError("bench step: a synthetic task is not evaluated"); }
  Tensor predict(const Tensor&, Context&, Device) override { throw ConfigError("bench step: a synthetic task predicts nothing"); }

 private:
  SettingKind kind_;
  std::unique_ptr<PdeOperator> points_;
  std::unique_ptr<LraClassifier> sequence_;
};
}  // namespace

ChosenSetting choose_setting(const std::string& word, const std::vector<std::string>& assignments) {
  if (!word.ends_with(".json")) {
    const Setting& setting = setting_named(word);
    return {&setting, recipe_of_setting(setting, assignments)};
  }
  Recipe recipe = read_recipe(word, assignments);
  return {&setting_named(recipe.task.name), std::move(recipe)};
}

std::vector<std::string> expand_settings(const std::vector<std::string>& words) {
  if (words != std::vector<std::string>{"all"}) return words;
  std::vector<std::string> names;
  for (const Setting& s : kSettings) names.emplace_back(s.name);
  return names;
}

std::unique_ptr<Task> synthetic_task(const Setting& setting, const Recipe& recipe, int64_t length) {
  return std::make_unique<SyntheticTask>(setting, recipe, length);
}

Batch synthetic_batch(const Setting& s, int64_t batch_size, int64_t length, bool masked, uint64_t seed) {
  Rng rng(seed);
  Batch b;
  b.n_samples = batch_size;
  const auto sequences = [&](Tensor& tokens, Tensor& mask) {
    tokens = Tensor::zeros({batch_size, length}, DType::i64);
    if (masked) mask = Tensor::zeros({batch_size, length}, DType::u8);
    for (int64_t i = 0; i < batch_size; ++i) {
      const int64_t shortest = std::max<int64_t>(length / 4, 1);
      const int64_t n = masked ? shortest + static_cast<int64_t>(rng.below(static_cast<uint64_t>(length - shortest + 1))) : length;
      for (int64_t k = 0; k < n; ++k) {
        tokens.data<int64_t>()[i * length + k] = 1 + static_cast<int64_t>(rng.below(static_cast<uint64_t>(s.vocabulary - 1)));
        if (masked) mask.data<uint8_t>()[i * length + k] = 1;
      }
      b.n_tokens += n;
    }
  };
  const auto field = [&](int64_t channels) {
    const Tensor t = Tensor::empty({batch_size, length, channels}, DType::f32);
    for (int64_t i = 0; i < t.numel(); ++i) t.data<float>()[i] = static_cast<float>(rng.uniform());
    return t;
  };
  if (s.kind == SettingKind::points) {
    b.x = field(s.in_channels);
    b.y = field(s.out_channels);
    b.n_tokens = batch_size * length;
    return b;
  }
  sequences(b.tokens, b.mask);
  if (s.kind == SettingKind::pair) sequences(b.tokens_b, b.mask_b);
  b.labels = Tensor::empty({batch_size}, DType::i64);
  for (int64_t i = 0; i < batch_size; ++i)
    b.labels.data<int64_t>()[i] = static_cast<int64_t>(rng.below(static_cast<uint64_t>(s.n_classes)));
  return b;
}

}  // namespace flare
