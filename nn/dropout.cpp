#include "nn/dropout.h"

#include "ops/dropout.h"

namespace flare {

double active_dropout(double p, const Context& ctx) {
  check<ConfigError>(p >= 0 && p < 1, "dropout: probability ", p, " is outside [0, 1)");
  if (!ctx.training || p == 0) return 0;
  check<ConfigError>(ctx.rng.defined(), "dropout: training needs Context::rng, i64 [2] = {seed, step}");
  return p;
}

Tensor apply_dropout(const Tensor& x, double p, Context& ctx) {
  // The site is taken even when nothing is dropped, so that numbering does not depend on the probabilities.
  const uint64_t site = ctx.site();
  const double active = active_dropout(p, ctx);
  return active == 0 ? x : dropout(x, active, ctx.rng, site);
}

}  // namespace flare
