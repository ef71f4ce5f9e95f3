#include "nn/mixer.h"

#include <cmath>
#include <deque>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "core/rehearsal.h"
#include "nn/attention.h"
#include "nn/dropout.h"
#include "nn/flare.h"
#include "nn/flare_pp.h"
#include "nn/linear_attention.h"
#include "nn/linformer.h"
#include "nn/performer.h"
#include "ops/pointwise.h"
#include "ops/rope.h"
#include "ops/shaping.h"

namespace flare {

namespace {

template <class M> std::unique_ptr<Mixer> make(const ModelConfig& config, Rng& rng, int64_t) {
  return std::make_unique<M>(config, rng);
}

std::deque<MixerKind>& kinds() {
  static std::deque<MixerKind> all = {
      {"flare", make<FlareAttention>},
      {"flare++", make<FlarePlusPlus>},
      {"softmax", make<SoftmaxAttention>},
      {"linear", make<LinearAttention>},
      {"linformer",
       [](const ModelConfig& config, Rng& rng, int64_t max_tokens) { return std::make_unique<Linformer>(config, rng, max_tokens); },
       true},
      {"performer", make<Performer>},
  };
  return all;
}

const MixerKind* look_up(const std::string& name) {
  for (const MixerKind& kind : kinds())
    if (kind.name == name) return &kind;
  return nullptr;
}

}  // namespace

bool register_mixer(MixerKind kind) {
  if (look_up(kind.name)) return false;
  kinds().push_back(std::move(kind));
  return true;
}

std::string mixer_names() {
  std::string names;
  for (const MixerKind& kind : kinds()) names += (names.empty() ? "" : ", ") + kind.name;
  return names;
}

const MixerKind& find_mixer(const std::string& name) {
  const MixerKind* found = look_up(name);
  check<ConfigError>(found != nullptr, "model.mixer: \"", name, "\" is not one of ", mixer_names());
  return *found;
}

std::unique_ptr<Mixer> make_mixer(const ModelConfig& config, Rng& rng, int64_t max_tokens) {
  check<ConfigError>(config.heads >= 1 && config.channels >= 1 && config.channels % config.heads == 0,
                     "model.heads: ", config.heads, " does not divide model.channels ", config.channels);
  check<ConfigError>(std::isfinite(config.scale) && config.scale >= 0, "model.scale: ", config.scale,
                     " is not 0 or a positive number");
  const MixerKind& kind = find_mixer(config.mixer);
  check<ConfigError>(!kind.per_position || max_tokens >= 1, "model.mixer: ", kind.name,
                     " has weights for each token, and here samples differ in size; choose a mixer without (flare, softmax)");
  return kind.make(config, rng, max_tokens);
}

Tensor finish_mixer(const Linear& out, const Tensor& y, double dropout, const Tensor& residual, Context& ctx) {
  if (!residual || active_dropout(dropout, ctx) == 0) return out.forward(y, residual);
  return residual + apply_dropout(out.forward(y), dropout, ctx);
}

Tensor mask_factors(const Tensor& mask, int ndim, DType dtype) {
  Shape shape = mask.shape();
  while (shape.ndim() < ndim) shape.push_back(1);
  return cast_to(mask, dtype).viewed_as(shape);
}

Rotary rotary_of(const ModelConfig& config) {
  if (config.position != "rope") return Rotary::none;
  check<ConfigError>(config.channels / config.heads % 2 == 0, "model.position: rope needs an even head width, got ",
                     config.channels / config.heads);
  return config.compat.ships_rope() ? Rotary::as_shipped : Rotary::rotation;
}

namespace {
constexpr double kRopeBase = 10000.0;

struct AngleTables {
  Tensor cosine, sine;
};  // of n · base^(-2i/D), each value twice: [N, 1, D]

AngleTables make_angle_tables(int64_t n, int64_t width, DType dtype, Device device) {
  std::vector<double> cosine(static_cast<size_t>(n * width)), sine(cosine.size());
  for (int64_t p = 0; p < n; ++p)
    for (int64_t d = 0; d < width; ++d) {
      const double angle =
          static_cast<double>(p) * std::pow(kRopeBase, -2.0 * static_cast<double>(d / 2) / static_cast<double>(width));
      cosine[static_cast<size_t>(p * width + d)] = std::cos(angle);
      sine[static_cast<size_t>(p * width + d)] = std::sin(angle);
    }
  const auto place = [&](const std::vector<double>& values) {
    return to_device(cast_to(Tensor::from(values, {n, 1, width}), dtype), device);
  };
  return {place(cosine), place(sine)};
}

/// Kept for the life of the process (and never destroyed), so that a captured step makes no copy from the host.
AngleTables angle_tables(int64_t n, int64_t width, DType dtype, Device device) {
  if (rehearsing()) return make_angle_tables(n, width, dtype, device);
  static std::mutex mutex;
  static auto& cache = *new std::map<std::tuple<int64_t, int64_t, DType, Device>, AngleTables>;
  const std::lock_guard lock(mutex);
  const auto key = std::make_tuple(n, width, dtype, device);
  const auto found = cache.find(key);
  return found != cache.end() ? found->second : cache.emplace(key, make_angle_tables(n, width, dtype, device)).first->second;
}
}  // namespace

Tensor apply_rotary(const Tensor& x, int64_t heads, Rotary rotary) {
  if (rotary == Rotary::none) return x;
  if (rotary == Rotary::rotation) return rope(x, heads, kRopeBase);
  const int64_t b = x.size(0), n = x.size(1), c = x.size(2), width = c / heads;
  const Tensor pairs = reshape(x, {b, n, heads, width / 2, 2});
  const Tensor even = reshape(slice(pairs, 4, 0, 1), {b, n, heads, width / 2});
  const Tensor odd = reshape(slice(pairs, 4, 1, 1), {b, n, heads, width / 2});
  const Tensor halves = concat({neg(odd), even}, 3);
  const AngleTables tables = angle_tables(n, width, x.dtype(), x.device());
  return reshape(reshape(x, {b, n, heads, width}) * tables.cosine + halves * tables.sine, {b, n, c});
}

double attention_scale(const ModelConfig& config) {
  if (config.scale > 0) return config.scale;
  return config.mixer == "flare" ? 1.0 : 1.0 / std::sqrt(static_cast<double>(config.channels) / static_cast<double>(config.heads));
}

}  // namespace flare
