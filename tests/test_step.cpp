/// The training step: moving many small tensors at once, batches and figures beside the work, and captured against plain steps.
#include "tests/train_fixtures.h"

#include <chrono>
#include <fstream>
#include <thread>

#include "core/copy_many.h"
#include "core/staging.h"
#include "tests/tensor_fixtures.h"
#include "tests/wave_fixtures.h"
#include "tools/train/signals.h"

using namespace flare;

namespace {

std::vector<Device> devices() {
  std::vector<Device> all = {Device::cpu};
  if (cuda_available()) all.push_back(Device::cuda);
  return all;
}

/// metrics.jsonl without what depends on the clock.
std::vector<Json> metrics_of(const std::string& folder) {
  std::vector<Json> lines;
  std::ifstream file(folder + "/metrics.jsonl");
  for (std::string text; std::getline(file, text);) {
    Json line = Json::parse(text, nullptr, false);
    if (line.is_discarded()) break;  // being written
    for (const char* key : {"tokens_per_s", "ms_per_step", "data_share", "peak_bytes"}) line.erase(key);
    lines.push_back(line);
  }
  return lines;
}

/// Everything that a step can contain: dropout, clipping, averages, batches of several lengths.
Recipe full_recipe(const TrainFixture& f, const std::string& precision, int64_t accumulate) {
  Recipe recipe = f.recipe;
  recipe.model.blocks = 2;
  recipe.model.dropout = recipe.model.embedding_dropout = recipe.model.head_dropout = 0.1;
  recipe.task.length_steps = 3;  // lengths 8, 16, 24
  recipe.train.precision = precision;
  recipe.train.accumulate = accumulate;
  recipe.train.batch_size = 4;
  recipe.train.clip_norm = 0.5;
  recipe.train.ema_decay = 0.9;
  recipe.train.steps = 200;
  recipe.train.log_every = 7;
  recipe.train.eval_every = 60;
  recipe.train.checkpoint_every = 50;
  recipe.optim.schedule.name = "onecycle";
  return recipe;
}

}  // namespace

TEST_CASE("copy_many and accumulate_many equal one copy at a time") {
  for (const Device device : devices()) {
    std::vector<CopyPair> copies, sums;
    std::vector<std::vector<double>> copied, summed;
    for (int64_t i = 0; i < 130; ++i) {  // more than one table, sizes around a block's, and some that need the plain path
      const Shape shape = i % 10 == 9 ? Shape{4, 5} : Shape{i == 50 ? 0 : i * i % 5003 + 1};
      Tensor src = to_device(uniform(shape, DType::f32, static_cast<uint64_t>(i)), device);
      if (i % 10 == 9) src = src.view({4, 5}, {1, 4});
      const DType to = i % 7 == 3 ? DType::bf16 : DType::f32;
      copies.push_back({src, Tensor::full(shape, -1, to, device)});
      copied.push_back(cast_to(src, to).to_vector());
      const Tensor sum = to_device(uniform(shape, DType::f32, static_cast<uint64_t>(1000 + i)), device);
      const Tensor expected = clone(sum);
      accumulate(src, expected);
      sums.push_back({src, sum});
      summed.push_back(expected.to_vector());
    }
    copy_many(copies);
    accumulate_many(sums);
    for (size_t i = 0; i < copies.size(); ++i) {
      CHECK(copies[i].dst.to_vector() == copied[i]);
      CHECK(sums[i].dst.to_vector() == summed[i]);
    }
    CHECK_THROWS_AS(copy_many(std::vector<CopyPair>{{sums[0].dst, sums[1].dst}}), ShapeError);
  }
}

TEST_CASE("sum_of equals a copy that is added to, packed or not") {
  for (const Device device : devices())
    for (const DType dtype : {DType::f32, DType::bf16})
      for (const int64_t n : {1, 7, 8, 4096, 5003}) {
        const Tensor a = to_device(uniform({n, 2}, dtype, 1), device), b = to_device(uniform({n, 2}, dtype, 2), device);
        const Tensor expected = clone(a);
        accumulate(b, expected);
        CHECK(sum_of(a, b).to_vector() == expected.to_vector());
        const auto turned = [&](const Tensor& x) { return x.view({2, n}, {1, 2}); };
        CHECK(sum_of(turned(a), turned(b)).to_vector() == contiguous(turned(expected)).to_vector());
      }
}

TEST_CASE("readback: first in, first out, with the values at the time of asking") {
  for (const Device device : devices()) {
    Readback readback(device);
    CHECK(readback.empty());
    CHECK_FALSE(readback.ready());
    const Tensor x = Tensor::zeros({}, DType::f32, device), n = Tensor::zeros({1}, DType::i64, device);
    for (int i = 0; i < 5; ++i) {
      fill(x, 0.5 * i);
      fill(n, i);
      readback.queue({x, n});
    }
    compute_stream(device).synchronize();
    CHECK(readback.ready());
    for (int i = 0; i < 5; ++i) CHECK(readback.take() == std::vector<double>{0.5 * i, static_cast<double>(i)});
    CHECK(readback.empty());
    CHECK_THROWS_AS(readback.queue({Tensor::zeros({2}, DType::f32, device)}), ShapeError);
  }
}

TEST_CASE("upload: groups of changing size arrive in order, whatever happens to their sources") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  Upload upload;
  std::vector<Tensor> targets;
  std::vector<std::vector<double>> expected;
  for (int64_t i = 0; i < 12; ++i) {
    const Tensor a = uniform({1000 * (i % 5) + 1}, DType::f32, static_cast<uint64_t>(i)),
                 b = Tensor::full({3}, double(i), DType::i64);
    const std::vector<int64_t> offsets = Upload::layout({a, b});
    const Tensor target = Tensor::empty({offsets[2]}, DType::u8, Device::cuda);
    upload.send({a, b});
    expected.push_back(a.to_vector());
    fill(a, -1);
    upload.receive(target);
    targets.push_back(target.reinterpreted(a.shape(), DType::f32, offsets[0]));
    targets.push_back(target.reinterpreted({3}, DType::i64, offsets[1]));
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    CHECK(targets[2 * i].to_vector() == expected[i]);
    CHECK(targets[2 * i + 1].item(2) == static_cast<double>(i));
  }
}

TEST_CASE("steps of the baseline mixers are captured whole and give the same bits") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  for (const char* mixer : {"softmax", "linear", "linformer", "performer"})
    for (const char* precision : {"fp32", "bf16"}) {
      CAPTURE(mixer);
      CAPTURE(precision);
      const TrainFixture f("step_mixers");
      Recipe recipe = full_recipe(f, precision, 1);
      recipe.model.mixer = mixer;
      const auto plain = trained_weights(f, recipe, "plain", Device::cuda, false);
      CHECK(trained_weights(f, recipe, "captured", Device::cuda, true) == plain);
    }
}

TEST_CASE("steps over several recorded times are captured whole and give the same bits") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  const TrainFixture f("step_times");
  write_waves(f.path + "/waves", {.train = 16, .val = 4});
  for (const char* time : {"condition", "rollout"})
    for (const bool teacher_forcing : {true, false})
      for (const char* precision : {"fp32", "bf16"}) {
        CAPTURE(time);
        CAPTURE(teacher_forcing);
        CAPTURE(precision);
        Recipe recipe = full_recipe(f, precision, 1);
        recipe.task.data = f.path + "/waves";
        recipe.task.time = time;
        recipe.task.teacher_forcing = teacher_forcing;
        recipe.train.steps = 40;
        recipe.train.eval_every = recipe.train.checkpoint_every = 20;  // a roll-out of its own predictions between captured steps
        const std::string name = cat(time, teacher_forcing, precision);
        const auto plain = trained_weights(f, recipe, name + "-plain", Device::cuda, false);
        CHECK(trained_weights(f, recipe, name + "-captured", Device::cuda, true) == plain);
        const PreparedFolder folder = open_data(recipe);
        const auto task = make_task(recipe, folder);
        task->model().to(Device::cuda);
        Optimizer optimizer(task->parameters(), recipe.optim, 100, 1.0);
        TrainStep step(*task, optimizer, Device::cuda, {1, apply_precision(precision), 0, true});
        Loader loader(folder, "train", {.batch_size = 4});
        for (int i = 0; i < 4; ++i) step.run(loader.next(), 0);
        CHECK(step.n_graphs() == 1);  // recorded, and not run plainly after a warning
      }
}

TEST_CASE("captured and plain steps give the same bits over 200 steps") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  for (const auto& [precision, accumulate] : {std::pair{"fp32", 1}, std::pair{"bf16", 1}, std::pair{"bf16", 3}}) {
    CAPTURE(precision);
    CAPTURE(accumulate);
    const TrainFixture f("step");
    const Recipe recipe = full_recipe(f, precision, accumulate);
    const auto plain = trained_weights(f, recipe, "plain", Device::cuda, false);
    CHECK(trained_weights(f, recipe, "captured", Device::cuda, true) == plain);
    CHECK(metrics_of(f.path + "/captured") == metrics_of(f.path + "/plain"));
    // Stopped somewhere past step 70 and gone on with the other kind of step.
    for (const bool graph : {true, false}) {
      const std::string folder = f.path + (graph ? "/first-captured" : "/first-plain");
      const RunFolder run = RunFolder::create(folder, recipe);
      std::thread stopper([&] {
        const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(60);
        while (metrics_of(folder).size() < 12 && std::chrono::steady_clock::now() < until) std::this_thread::yield();
        set_stop_requested(true);
      });
      Trainer first(recipe, open_data(recipe), Device::cuda, true, graph);
      first.attach(run);
      first.run_steps();
      stopper.join();
      set_stop_requested(false);
      CHECK(first.step() >= 70);
      MESSAGE("stopped after step ", first.step());
      Trainer second(recipe, open_data(recipe), Device::cuda, true, !graph);
      second.attach(run);
      REQUIRE(second.restore());
      REQUIRE(second.run_steps());
      CHECK(weights_of(second) == plain);
    }
  }
}

TEST_CASE("a step that is not finite is found and named, captured or not") {
  for (const Device device : devices())
    for (const bool graph : {true, false}) {
      const TrainFixture f("bad");
      Recipe recipe = f.recipe;
      recipe.train.steps = 100;
      recipe.train.log_every = 100;
      recipe.optim.lr = 1e38;
      recipe.optim.schedule.name = "warmup";  // small for some steps, so that they are captured
      recipe.optim.schedule.warmup = 0.9;
      const RunFolder run = RunFolder::create(f.path + "/run", recipe);
      Trainer trainer(recipe, open_data(recipe), device, true, graph);
      trainer.attach(run);
      std::string message;
      try {
        trainer.run_steps();
      } catch (const NumericError& error) { message = error.what(); }
      CHECK(message.find("not finite") != std::string::npos);
      CHECK(message.find("first bad tensor: ") != std::string::npos);
    }
}

TEST_CASE("a step with kept bf16 weights equals one that converts them at every use") {
  for (const Device device : devices()) {
    const TrainFixture f("rounded");
    const PreparedFolder folder = open_data(f.recipe);
    const auto train = [&](bool by_step) {
      const auto task = make_task(f.recipe, folder);
      task->model().to(device);
      Optimizer optimizer(task->parameters(), f.recipe.optim, 100, 1.0);
      TrainStep step(*task, optimizer, device, {1, DType::bf16, 0, true});
      Loader loader(folder, "train", {.batch_size = 4, .pad_to = 24});
      for (int i = 0; i < 6; ++i) {
        if (by_step) {
          step.run(loader.next(), 0);
          continue;
        }
        step.forward_backward(to_device(loader.next(), device), 0);
        optimizer.step();
        optimizer.zero_grad();
      }
      std::vector<double> all;
      for (const Parameter& p : task->parameters()) {
        CHECK(has_rounded(p.value) == by_step);
        for (const double x : p.value.to_vector()) all.push_back(x);
      }
      return all;
    };
    CHECK(train(true) == train(false));
  }
}

TEST_CASE("a captured step is replayed: graphs, one a length, sharing their memory") {
  if (!cuda_available()) {
    MESSAGE("skipped: no GPU on this machine");
    return;
  }
  const TrainFixture f("graphs");
  Recipe recipe = full_recipe(f, "bf16", 1);
  const PreparedFolder folder = open_data(recipe);
  const auto task = make_task(recipe, folder);
  task->model().to(Device::cuda);
  Optimizer optimizer(task->parameters(), recipe.optim, 100, 1.0);
  TrainStep step(*task, optimizer, Device::cuda, {1, DType::bf16, 0, true});
  for (const int64_t pad : {int64_t{24}, int64_t{16}}) {
    Loader loader(folder, "train", {.batch_size = 4, .pad_to = pad});
    for (int i = 0; i < 4; ++i) step.run(loader.next(), 0);
    CHECK(step.n_graphs() == (pad == 24 ? 1 : 2));
    CHECK(step.n_nodes() > 20);
  }
  CHECK(optimizer.step_count().item() == 8);
  CHECK(optimizer.bad_step().item() == -1);
  CHECK(step.loss_sum().item() > 0);
  step.release_graphs();
  CHECK(step.n_graphs() == 0);
  const std::vector<LaunchProfile::Entry> profile = step.profile(Loader(folder, "train", {.batch_size = 4, .pad_to = 24}).next());
  REQUIRE(profile.size() > 5);
  for (const LaunchProfile::Entry& entry : profile) CHECK((entry.n > 0 && entry.microseconds > 0));
  CHECK(optimizer.step_count().item() == 9);
}
