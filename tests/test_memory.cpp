/// Memory plans: rehearsed steps against real ones, and what recomputation saves without changing a bit.
#include <cstring>

#include "core/allocator.h"
#include "core/rehearsal.h"
#include "tests/train_fixtures.h"
#include "tools/train/memory_plan.h"

using namespace flare;

namespace {

/// A model large enough that activations outweigh small buffers.
Recipe wide_recipe(const TrainFixture& f) {
  Recipe recipe = f.recipe;
  recipe.model.channels = 32;
  recipe.model.blocks = 3;
  recipe.model.kv_layers = recipe.model.ffn_layers = 1;
  recipe.train.batch_size = 16;
  return recipe;
}
Batch batch_of(const Recipe& recipe) {
  LoaderOptions loading;
  loading.batch_size = recipe.train.batch_size;
  loading.pad_to = 24;
  loading.prefetch = false;
  return Loader(open_data(recipe), "train", loading).next();
}
struct RealStep {
  int64_t activations;
  std::vector<Tensor> gradients;
};
RealStep real_step(const Recipe& recipe, const Batch& batch, Recompute recompute) {
  const std::unique_ptr<Task> task = make_task(recipe, open_data(recipe));
  Optimizer optimizer(task->parameters(), recipe.optim, recipe.train.steps);
  TrainStep step(*task, optimizer, Device::cpu, {1, DType::f32, 0, false, recompute});
  reset_peak(Device::cpu);
  const int64_t before = memory_stats(Device::cpu).current;
  step.forward_backward(batch, 0);
  RealStep result{memory_stats(Device::cpu).peak - before, {}};
  for (const Parameter& p : task->parameters()) result.gradients.push_back(clone(grad(p.value)));
  return result;
}

}  // namespace

TEST_CASE("a rehearsal takes no memory, counts what would be live, and needs no GPU") {
  Tensor left;
  {
    Rehearsal rehearsal;
    const int64_t real = memory_stats(Device::cpu).current;
    const Tensor huge = Tensor::zeros({int64_t{1} << 40}, DType::f32, Device::cuda);
    CHECK(rehearsal.live() == int64_t{1} << 42);
    const Tensor twice = sum_of(huge, huge);
    CHECK(twice.device() == Device::cuda);
    CHECK(rehearsal.peak() == int64_t{1} << 43);
    left = huge;
    CHECK(memory_stats(Device::cpu).current == real);
    CHECK(is_rehearsed(huge.raw()));
    CHECK_FALSE(is_rehearsed(Tensor::zeros({1}, DType::f32).raw()));
    CHECK_THROWS_AS(Rehearsal(), ShapeError);
  }
  CHECK_FALSE(rehearsing());
  left = Tensor();  // after its rehearsal: nothing to give back
}

TEST_CASE("a rehearsed step needs what a real one takes, at every level of recomputation, and gradients keep their bits") {
  const TrainFixture f("memory");
  const Recipe recipe = wide_recipe(f);
  const Batch batch = batch_of(recipe);
  std::vector<int64_t> planned, taken;
  std::vector<Tensor> first;
  for (const Recompute level : {Recompute::none, Recompute::norms, Recompute::keys}) {
    const RealStep real = real_step(recipe, batch, level);
    taken.push_back(real.activations);
    StepRehearsal rehearsal(make_task(recipe, open_data(recipe)), recipe);
    planned.push_back(rehearsal.needs(shape_of_batch(batch, batch.n_samples, 0), level).activations);
    if (first.empty()) first = real.gradients;
    for (size_t i = 0; i < first.size(); ++i)
      CHECK(std::memcmp(first[i].raw(), real.gradients[i].raw(), static_cast<size_t>(first[i].bytes())) == 0);
    CHECK(static_cast<double>(planned.back()) == doctest::Approx(static_cast<double>(taken.back())).epsilon(0.1));
  }
  for (size_t i = 1; i < planned.size(); ++i) {
    CHECK(planned[i] < planned[i - 1]);
    CHECK(taken[i] < taken[i - 1]);
  }
}

TEST_CASE("a rehearsed step of each baseline mixer needs what a real one takes") {
  const TrainFixture f("memory_baselines");
  for (const char* mixer : {"softmax", "linear", "linformer", "performer"}) {
    CAPTURE(mixer);
    Recipe recipe = wide_recipe(f);
    recipe.model.mixer = mixer;
    const Batch batch = batch_of(recipe);
    const RealStep real = real_step(recipe, batch, Recompute::none);
    const MemoryNeeds planned = [&] {  // one rehearsal at a time
      StepRehearsal rehearsal(make_task(recipe, open_data(recipe)), recipe);
      return rehearsal.needs(shape_of_batch(batch, batch.n_samples, 0), Recompute::none);
    }();
    CHECK(static_cast<double>(planned.activations) == doctest::Approx(static_cast<double>(real.activations)).epsilon(0.1));
    CHECK(plan_memory(make_task(recipe, open_data(recipe)), recipe, batch, 24, 2 * planned.total()).most_samples >= 16);
  }
}

TEST_CASE("a plan recomputes as little as fits, says how many samples would, and refuses what cannot") {
  const TrainFixture f("plan");
  Recipe recipe = wide_recipe(f);
  const Batch sample = batch_of(recipe);
  const auto plan = [&](int64_t capacity) {
    return plan_memory(make_task(recipe, open_data(recipe)), recipe, sample, 24, capacity);
  };
  std::vector<int64_t> totals;
  for (const char* level : {"none", "norms", "keys"}) {
    recipe.train.recompute = level;
    totals.push_back(plan(0).needs.total());
  }
  recipe.train.recompute = "auto";
  CHECK(plan(totals[0]).recompute == Recompute::none);
  CHECK(plan(totals[0] - 1).recompute == Recompute::norms);
  CHECK(plan(totals[1] - 1).recompute == Recompute::keys);
  CHECK(plan(totals[0]).most_samples >= recipe.train.batch_size);
  CHECK_THROWS_WITH_AS(plan(totals[2] - 1), doctest::Contains("samples would fit"), OutOfMemory);
  recipe.train.recompute = "none";
  CHECK_THROWS_WITH_AS(plan(totals[1]), doctest::Contains("set train.recompute to auto"), OutOfMemory);

  recipe.train.recompute = "keys";
  const MemoryPlan roomy = plan(50 * totals[2]);
  StepRehearsal rehearsal(make_task(recipe, open_data(recipe)), recipe);
  const auto total = [&](int64_t samples) { return rehearsal.needs(shape_of_batch(sample, samples, 24), Recompute::keys).total(); };
  CHECK(roomy.most_samples > 40 * recipe.train.batch_size / 2);
  CHECK(total(roomy.most_samples) <= 50 * totals[2]);
  CHECK(total(roomy.most_samples + roomy.most_samples / 10) > 50 * totals[2]);
}
