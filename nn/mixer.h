#pragma once
#include <functional>
#include <memory>
#include <string>

#include "nn/config.h"
#include "nn/context.h"
#include "nn/linear.h"
#include "nn/module.h"

namespace flare {

/// A token mixer: lets tokens exchange information.  x: [B,N,C] of ctx.dtype, mask: u8 [B,N] (0: padding) or undefined, residual:
/// [B,N,C] to add to the result, or undefined -> [B,N,C]. Padding never influences other tokens; what padded rows of the result
/// hold is up to the mixer.
class Mixer : public Module {
 public:
  virtual Tensor forward(const Tensor& x, const Tensor& mask, const Tensor& residual, Context& ctx) = 0;
};

/// The mixer a configuration names, for samples of at most max_tokens tokens; 0: the samples have no common limit. ConfigError on
/// an unknown name, when heads does not divide channels, or when a mixer with weights for each position meets max_tokens 0.
std::unique_ptr<Mixer> make_mixer(const ModelConfig& config, Rng& rng, int64_t max_tokens);

/// One entry of the registry: a value of model.mixer.
struct MixerKind {
  std::string name;
  std::function<std::unique_ptr<Mixer>(const ModelConfig&, Rng&, int64_t max_tokens)> make;
  bool per_position = false;  // it has weights for each position, so their shape and use depend on max_tokens
};
/// Adds a kind, beside those of this folder (nn/mixer.cpp). False when the name is taken.
bool register_mixer(MixerKind kind);
/// ConfigError that lists the names when there is none of this name.
const MixerKind& find_mixer(const std::string& name);
/// All names in the order of registration, joined by ", ".
std::string mixer_names();

/// How keys (and queries) learn their position inside a mixer.
enum class Rotary { none, rotation, as_shipped };
Rotary rotary_of(const ModelConfig& config);
/// x: [B,N,C] with the rotary embedding applied to each head. `as_shipped` is FLARE.py's map: with even/odd channels e, o of a
/// head and angles θ[n,i] (i < D/2), y = x ⊙ cos(θ⊗[1,1]) + [-o, e] ⊙ sin(θ⊗[1,1]), where ⊗ repeats each angle twice in place while
/// [-o, e] concatenates halves: the two disagree, so norms are not kept.
Tensor apply_rotary(const Tensor& x, int64_t heads, Rotary rotary);

/// How mixers end: residual + dropout(out y), the sum made where the bias is added if nothing is dropped.
Tensor finish_mixer(const Linear& out, const Tensor& y, double dropout, const Tensor& residual, Context& ctx);

/// The mask as factors for tensors [B,N,…] of `ndim` axes: 1 and, at padding, 0;  u8 [B,N] -> [B,N,1,…] of dtype.
Tensor mask_factors(const Tensor& mask, int ndim, DType dtype);

/// The factor of the logits: config.scale, or the mixer's published default where that is 0.
double attention_scale(const ModelConfig& config);

}  // namespace flare
