#include <doctest/doctest.h>

#include <cmath>

#include "autograd/node.h"
#include "core/allocator.h"
#include "ops/pointwise.h"
#include "ops/reduce.h"
#include "tests/train_fixtures.h"
#include "tools/train/diagnose.h"

using namespace flare;

TEST_CASE("trainer: two accumulated halves make the step of the whole batch") {
  const TrainFixture f("train");
  Recipe halves = f.recipe;
  halves.train.batch_size = 4;
  halves.train.accumulate = 2;
  const std::vector<double> a = trained_weights(f, f.recipe, "whole"), b = trained_weights(f, halves, "halves");
  REQUIRE(a.size() == b.size());
  // Adam divides by the gradient's own size, so rounding shows where gradients are near zero.
  double difference = 0, moved = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += std::abs(a[i] - b[i]);
    moved += std::abs(a[i]);
  }
  CHECK(difference < 1e-3 * moved);
}

TEST_CASE("trainer: prefetching changes nothing") {
  const TrainFixture f("train");
  Recipe plain = f.recipe;
  plain.train.prefetch = false;
  CHECK(trained_weights(f, f.recipe, "prefetch") == trained_weights(f, plain, "plain"));
}

TEST_CASE("trainer: when memory runs out it says what was asked for and what would fit") {
  const TrainFixture f("train");
  Recipe recipe = f.recipe;
  recipe.train.batch_size = 64;
  const RunFolder run = RunFolder::create(f.path + "/oom", recipe);
  Trainer trainer(recipe, open_data(recipe), Device::cpu, true);
  trainer.attach(run);
  release_cached(Device::cpu);
  set_memory_limit(Device::cpu, memory_stats(Device::cpu).reserved + (300 << 10));
  std::string message;
  try {
    trainer.run_steps();
  } catch (const DeviceError& error) { message = error.what(); }
  set_memory_limit(Device::cpu, 0);
  INFO(message);
  CHECK(message.find("out of cpu memory") != std::string::npos);
  CHECK(message.find("asked for") != std::string::npos);
  CHECK(message.find("--set train.batch_size=") != std::string::npos);
}

TEST_CASE("diagnose: the first tensor that is not finite is named with its module and op") {
  const Tensor w = Tensor::from<float>({1, -1, 2}, {3});
  set_requires_grad(w);
  const std::vector<Parameter> parameters = {{"w", w, true}};
  const auto forward = [&](bool* in_backward) {
    const ScopeName outer("blocks.0"), inner("mlp");
    const Tensor y = log(w);
    const Tensor loss = sum_all(exp(y));
    *in_backward = true;
    backward(loss);
  };
  CHECK(first_bad_tensor(parameters, forward) == "log in blocks.0.mlp (forward): 1 NaN and 0 infinite of 3 values, shape [3]");
  const auto only_backward = [&](bool* in_backward) {
    const ScopeName scope("head");
    const Tensor loss = sum_all(sqrt(affine(w, 0.0, 0.0)));  // the derivative of sqrt at 0 is infinite
    *in_backward = true;
    backward(loss);
  };
  const std::string found = first_bad_tensor(parameters, only_backward);
  INFO(found);
  CHECK((found.find("(backward)") != std::string::npos || found.find("gradient of w") != std::string::npos));
  const std::vector<Parameter> broken = {{"v", Tensor::from<float>({1, INFINITY}, {2}), true}};
  CHECK(first_bad_tensor(broken, only_backward) == "parameter v: 0 NaN and 1 infinite of 2 values, shape [2]");
}

TEST_CASE("batches: a slice holds the samples' own rows") {
  Batch batch;
  batch.n_samples = 3;
  batch.n_tokens = 6;
  batch.tokens = Tensor::from<int64_t>({1, 2, 3, 4, 5, 6}, {3, 2});
  batch.labels = Tensor::from<int64_t>({7, 8, 9}, {3});
  const Batch part = slice_batch(batch, 1, 2);
  CHECK(part.tokens.to_vector() == std::vector<double>{3, 4, 5, 6});
  CHECK(part.labels.to_vector() == std::vector<double>{8, 9});
  CHECK(part.n_samples == 2);
  CHECK_THROWS_AS(slice_batch(batch, 2, 2), ShapeError);
}
