#include "nn/mixer.h"

#include <cmath>
#include <map>
#include <mutex>
#include <tuple>

#include "core/rehearsal.h"
#include "nn/attention.h"
#include "nn/flare.h"
#include "nn/flare_pp.h"
#include "ops/pointwise.h"
#include "ops/rope.h"
#include "ops/shaping.h"

namespace flare {

std::unique_ptr<Mixer> make_mixer(const ModelConfig& config, Rng& rng) {
  check<ConfigError>(config.heads >= 1 && config.channels >= 1 && config.channels % config.heads == 0,
                     "model.heads: ", config.heads, " does not divide model.channels ", config.channels);
  check<ConfigError>(std::isfinite(config.scale) && config.scale >= 0, "model.scale: ", config.scale,
                     " is not 0 or a positive number");
  if (config.mixer == "flare") return std::make_unique<FlareAttention>(config, rng);
  if (config.mixer == "flare++") return std::make_unique<FlarePlusPlus>(config, rng);
  if (config.mixer == "softmax") return std::make_unique<SoftmaxAttention>(config, rng);
  throw ConfigError(cat("model.mixer: \"", config.mixer, "\" is not one of flare, flare++, softmax"));
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
