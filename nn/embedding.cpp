#include "nn/embedding.h"

#include <cmath>
#include <numbers>

#include "nn/dropout.h"
#include "ops/cast.h"
#include "ops/embedding.h"
#include "ops/pointwise.h"
#include "ops/shaping.h"

namespace flare {

Embedding::Embedding(int64_t vocab, int64_t channels, Rng& rng) {
  check<ConfigError>(vocab >= 1, "embedding: a vocabulary of ", vocab, " tokens");
  add_parameter("weight", weight_, normal_tensor({vocab, channels}, 0.02, rng), false);
}

Tensor Embedding::forward(const Tensor& tokens, const Context& ctx, const Tensor& next) const {
  return embedding(tokens, next ? concat({weight_, reshape(next, {1, next.numel()})}, 0) : weight_, ctx.dtype);
}

TokenEmbedding::TokenEmbedding(int64_t vocab, int64_t channels, double dropout, Rng& rng)
    : token_embed_(vocab, channels, rng), dropout_(dropout) {
  add_child("token_embed", token_embed_);
}

Tensor TokenEmbedding::forward(const Tensor& tokens, Context& ctx, const Tensor& next) const {
  return apply_dropout(token_embed_.forward(tokens, ctx, next), dropout_, ctx);
}

namespace {
Tensor sinusoids(int64_t n, int64_t channels) {
  std::vector<float> table(static_cast<size_t>(n * channels));
  for (int64_t p = 0; p < n; ++p)
    for (int64_t c = 0; c + 1 < channels; c += 2) {
      const double angle =
          static_cast<double>(p) * std::exp(-std::log(10000.0) * static_cast<double>(c) / static_cast<double>(channels));
      table[static_cast<size_t>(p * channels + c)] = static_cast<float>(std::sin(angle));
      table[static_cast<size_t>(p * channels + c + 1)] = static_cast<float>(std::cos(angle));
    }
  return Tensor::from(table, {n, channels});
}

/// The row's waves in the first half of the channels, the column's in the second: from a quarter turn a pixel to half a turn a side
Tensor grid_waves(int64_t side, int64_t channels) {
  const int64_t half = channels / 2, waves = half / 2;
  const double fastest = std::numbers::pi / 2, slowest = std::numbers::pi / static_cast<double>(side);
  std::vector<float> table(static_cast<size_t>(side * side * channels));
  for (int64_t p = 0; p < side * side; ++p)
    for (int64_t c = 0; c < channels; ++c) {
      const auto place = static_cast<double>(c < half ? p / side : p % side);
      const double share = waves > 1 ? static_cast<double>(c % half / 2) / static_cast<double>(waves - 1) : 0;
      const double angle = place * fastest * std::pow(slowest / fastest, share);
      table[static_cast<size_t>(p * channels + c)] = static_cast<float>(c % 2 ? std::cos(angle) : std::sin(angle));
    }
  return Tensor::from(table, {side * side, channels});
}
}  // namespace

PositionEmbedding::PositionEmbedding(const std::string& kind, int64_t max_length, int64_t channels, Rng& rng)
    : learned_(kind == "learned"), max_length_(max_length) {
  check<ConfigError>(max_length >= 1, "position: max_length ", max_length, " must be at least 1");
  if (learned_) {
    add_child("pe", pe_);
    pe_.make_learned(max_length, channels, rng);
  } else {
    const bool grid = kind == "grid";
    const auto side = static_cast<int64_t>(std::lround(std::sqrt(static_cast<double>(max_length))));
    check<ConfigError>(channels % (grid ? 4 : 2) == 0, "position: ", kind, " needs ",
                       grid ? "a multiple of four" : "an even number of", " channels, got ", channels);
    check<ConfigError>(!grid || side * side == max_length, "position: grid needs the pixels of a square and no class token, got ",
                       max_length, " tokens");
    const double scale = grid ? 0.02 * std::numbers::sqrt2 : 1.0 / std::sqrt(static_cast<double>(channels));
    add_parameter("pos_scale", pos_scale_, Tensor::full({}, scale, DType::f32), false);
    waves_ = grid ? grid_waves(side, channels) : sinusoids(max_length, channels);
  }
}

Tensor PositionEmbedding::forward(int64_t n, const Context& ctx) {
  check(n <= max_length_, "position: a sequence of ", n, " tokens exceeds max_length ", max_length_);
  if (learned_) return cast(slice(pe_.weight, 0, 0, n), ctx.dtype);
  waves_ = cast_to(to_device(waves_, pos_scale_.device()), pos_scale_.dtype());
  return cast(mul(slice(waves_, 0, 0, n), pos_scale_), ctx.dtype);
}

}  // namespace flare
