#pragma once
#include "nn/context.h"

namespace flare {

/// x with elements zeroed with probability p and the rest divided by 1 - p; x itself outside training or for p = 0. The mask
/// is a function of (seed, step, site, element), so it repeats on any device. ConfigError when ctx.rng is missing.
Tensor apply_dropout(const Tensor& x, double p, Context& ctx);
/// The probability that acts in this pass: p while training, else 0. Checks ctx.rng as above.
double active_dropout(double p, const Context& ctx);

}  // namespace flare
