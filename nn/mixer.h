#pragma once
#include <memory>

#include "nn/config.h"
#include "nn/context.h"
#include "nn/module.h"

namespace flare {

/// A token mixer: lets tokens exchange information.  x: [B,N,C] of ctx.dtype, mask: u8 [B,N] (0: padding) or undefined -> [B,N,C].
/// Padding never influences other tokens; what padded rows of the result hold is up to the mixer.
class Mixer : public Module {
 public:
  virtual Tensor forward(const Tensor& x, const Tensor& mask, Context& ctx) = 0;
};

/// The mixer a configuration names. ConfigError on an unknown name, or when heads does not divide channels.
std::unique_ptr<Mixer> make_mixer(const ModelConfig& config, Rng& rng);

/// How keys (and queries) learn their position inside a mixer.
enum class Rotary { none, rotation, as_shipped };
Rotary rotary_of(const ModelConfig& config);
/// x: [B,N,C] with the rotary embedding applied to each head. `as_shipped` is FLARE.py's map: with even/odd channels e, o of a
/// head and angles θ[n,i] (i < D/2), y = x ⊙ cos(θ⊗[1,1]) + [-o, e] ⊙ sin(θ⊗[1,1]), where ⊗ repeats each angle twice in place while
/// [-o, e] concatenates halves: the two disagree, so norms are not kept.
Tensor apply_rotary(const Tensor& x, int64_t heads, Rotary rotary);

/// The factor of the logits: config.scale, or the mixer's published default where that is 0.
double attention_scale(const ModelConfig& config);

}  // namespace flare
