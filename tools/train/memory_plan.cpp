#include "tools/train/memory_plan.h"

#include <unistd.h>

#include <algorithm>

#include <fmt/format.h>

#include "autograd/node.h"
#include "tools/train/progress.h"

namespace flare {
namespace {
constexpr Recompute kLevels[] = {Recompute::none, Recompute::norms, Recompute::keys};
}

const char* name_of(Recompute recompute) {
  return recompute == Recompute::none ? "none" : recompute == Recompute::norms ? "norms" : "keys";
}
Recompute recompute_named(const std::string& name) {
  for (const Recompute level : kLevels)
    if (name == name_of(level)) return level;
  throw ConfigError(cat("train.recompute: ", quoted(name), " is not one of auto, none, norms, keys"));
}

Batch shape_of_batch(const Batch& like, int64_t samples, int64_t length) {
  Batch shape;
  const auto resized = [&](const Tensor& t, bool has_length) {
    if (!t) return Tensor();
    Shape s = t.shape();
    s[0] = samples;
    if (has_length && length > 0) s[1] = length;
    return Tensor::empty(s, t.dtype(), Device::cuda);
  };
  shape.tokens = resized(like.tokens, true), shape.mask = resized(like.mask, true);
  shape.tokens_b = resized(like.tokens_b, true), shape.mask_b = resized(like.mask_b, true);
  shape.labels = resized(like.labels, false), shape.masked = resized(like.masked, false);
  shape.x = resized(like.x, like.x && like.x.ndim() > 2), shape.y = resized(like.y, like.y && like.y.ndim() > 2);
  shape.n_samples = samples;
  return shape;
}

StepRehearsal::StepRehearsal(std::unique_ptr<Task> task, const Recipe& recipe)
    : task_(std::move(task)), dtype_(apply_precision(recipe.train.precision)) {
  task_->model().to(Device::cuda);
  fixed_.weights = rehearsal_.live();
  optimizer_ = std::make_unique<Optimizer>(task_->parameters(), recipe.optim, recipe.train.steps, recipe.train.clip_norm,
                                           recipe.train.ema_decay);
  fixed_.gradients = optimizer_->gradient_bytes();
  fixed_.optimizer = rehearsal_.live() - fixed_.weights - fixed_.gradients;
  const int64_t before = rehearsal_.live();
  if (dtype_ == DType::bf16) optimizer_->refresh_rounded();
  fixed_.weights += rehearsal_.live() - before;
}

MemoryNeeds StepRehearsal::needs(const Batch& like, Recompute recompute) {
  const int64_t empty = rehearsal_.live();
  const Batch batch = shape_of_batch(like, like.n_samples, 0);
  MemoryNeeds needs = fixed_;
  const int64_t before = rehearsal_.live();
  needs.batch = before - empty;
  rehearsal_.reset_peak();
  {
    Context context;
    context.training = true;
    context.dtype = dtype_;
    context.rng = optimizer_->clock();
    context.recompute = recompute;
    const Tensor output = task_->forward(batch, context);
    const Tensor loss = task_->loss(output, batch);
    backward(loss);
    const NoGrad no_grad;
    task_->score_sum(output.detach(), batch);
  }
  optimizer_->zero_grad();
  needs.activations = rehearsal_.peak() - before;
  return needs;
}

int64_t StepRehearsal::most_samples(const Batch& shape, Recompute recompute, int64_t capacity) {
  const auto fits = [&](int64_t samples) { return needs(shape_of_batch(shape, samples, 0), recompute).total() <= capacity; };
  if (capacity <= 0 || !fits(1)) return 0;
  int64_t low = 1, high = 2;
  while (high < (int64_t{1} << 30) && fits(high)) low = high, high *= 2;
  while (high - low > std::max<int64_t>(1, low / 100)) {
    const int64_t middle = low + (high - low) / 2;
    (fits(middle) ? low : high) = middle;
  }
  return low;
}

int64_t usable_memory(Device device, int gpu_index) {
  if (device == Device::cuda) return std::max<int64_t>(cuda_info(gpu_index).free_bytes - kMemoryReserve, 1);
  const int64_t pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);
  return pages > 0 && page > 0 ? pages * page - std::min(kMemoryReserve, pages * page / 8) : 0;
}

std::string MemoryPlan::text() const {
  std::string line = fmt::format("weights {}, gradients {}, optimizer {}, batch {}, activations {}: {}",
                                 format_bytes(needs.weights), format_bytes(needs.gradients), format_bytes(needs.optimizer),
                                 format_bytes(needs.batch), format_bytes(needs.activations), format_bytes(needs.total()));
  if (capacity > 0) line += fmt::format(" of {}; at most {} samples would fit", format_bytes(capacity), most_samples);
  if (recompute != Recompute::none) line += fmt::format("; recomputing {}", name_of(recompute));
  return line;
}

MemoryPlan plan_memory(std::unique_ptr<Task> task, const Recipe& recipe, const Batch& sample, int64_t length, int64_t capacity) {
  StepRehearsal rehearsal(std::move(task), recipe);
  const Batch shape = shape_of_batch(sample, recipe.train.batch_size, length);
  const bool choose = recipe.train.recompute == "auto";
  MemoryPlan plan;
  plan.capacity = capacity;
  for (const Recompute level : kLevels) {
    if (!choose && level != recompute_named(recipe.train.recompute)) continue;
    plan.recompute = level;
    plan.needs = rehearsal.needs(shape, level);
    if (capacity == 0 || plan.needs.total() <= capacity) break;
  }
  plan.most_samples = rehearsal.most_samples(shape, plan.recompute, capacity);
  if (capacity > 0 && plan.needs.total() > capacity) {
    const int64_t wanted = recipe.train.batch_size * recipe.train.accumulate, fits = plan.most_samples;
    std::string advice = fits > 0
                             ? fmt::format("--set train.batch_size={} --set train.accumulate={}", fits, (wanted + fits - 1) / fits)
                             : std::string("make the model smaller (model.channels, model.blocks, model.latents)");
    if (!choose && recipe.train.recompute != "keys") advice = "set train.recompute to auto, or " + advice;
    throw OutOfMemory(cat("the step does not fit: ", plan.text(), "; ", advice), plan.needs.total(), 0, capacity);
  }
  return plan;
}

}  // namespace flare
