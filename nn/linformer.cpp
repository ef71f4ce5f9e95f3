#include "nn/linformer.h"

#include <cmath>

#include "nn/dropout.h"
#include "ops/cast.h"
#include "ops/matmul.h"
#include "ops/pointwise.h"
#include "ops/sdpa.h"
#include "ops/shaping.h"

namespace flare {

Linformer::Linformer(const ModelConfig& config, Rng& rng, int64_t max_tokens) : QkvMixer(config, rng), max_tokens_(max_tokens) {
  check<ConfigError>(config.latents >= 1, "model.latents: ", config.latents, " must be at least 1");
  check<ConfigError>(max_tokens >= 1, "linformer: max_tokens ", max_tokens, " must be at least 1");
  const double sigma = 1 / std::sqrt(static_cast<double>(max_tokens));
  add_parameter("e_proj", e_proj_, normal_tensor({config.latents, max_tokens}, sigma, rng), true);
  add_parameter("f_proj", f_proj_, normal_tensor({config.latents, max_tokens}, sigma, rng), true);
}

Tensor Linformer::forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) {
  const int64_t n = x.size(1);
  check(n <= max_tokens_, "linformer: a sequence of ", n, " tokens exceeds max_length ", max_tokens_,
        " (the class token counted), for which its weights are");
  const Heads h = project(x);
  const auto shorten = [&](const Tensor& weight, const Tensor& tokens) {
    Tensor all_heads = reshape(tokens, x.shape());
    if (mask) all_heads = all_heads * mask_factors(mask, 3, all_heads.dtype());
    return split_heads(matmul(cast(slice(weight, 1, 0, n), x.dtype()), all_heads), heads_);  // [B,H,M,D]
  };
  const uint64_t site = ctx.site();
  const Tensor y = sdpa(transpose(rotate(h.q), 1, 2), shorten(e_proj_, rotate(h.k)), shorten(f_proj_, h.v), {}, scale_,
                        active_dropout(attention_dropout_, ctx), ctx.rng, site)
                       .out;
  return finish(y, residual, ctx);
}

}  // namespace flare
