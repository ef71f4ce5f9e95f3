#include "nn/embedding.h"

#include <cmath>

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
}  // namespace

PositionEmbedding::PositionEmbedding(const std::string& kind, int64_t max_length, int64_t channels, Rng& rng)
    : learned_(kind == "learned"), max_length_(max_length) {
  check<ConfigError>(max_length >= 1, "position: max_length ", max_length, " must be at least 1");
  if (learned_) {
    add_child("pe", pe_);
    pe_.make_learned(max_length, channels, rng);
  } else {
    check<ConfigError>(channels % 2 == 0, "position: sinusoidal needs an even number of channels, got ", channels);
    add_parameter("pos_scale", pos_scale_, Tensor::full({}, 1.0 / std::sqrt(static_cast<double>(channels)), DType::f32), false);
    waves_ = sinusoids(max_length, channels);
  }
}

Tensor PositionEmbedding::forward(int64_t n, const Context& ctx) {
  check(n <= max_length_, "position: a sequence of ", n, " tokens exceeds max_length ", max_length_);
  if (learned_) return cast(slice(pe_.weight, 0, 0, n), ctx.dtype);
  waves_ = cast_to(to_device(waves_, pos_scale_.device()), pos_scale_.dtype());
  return cast(mul(slice(waves_, 0, 0, n), pos_scale_), ctx.dtype);
}

}  // namespace flare
