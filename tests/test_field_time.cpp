/// Fields at several recorded times: roll-out and conditioning against loops written out here, gradients against finite
/// differences, errors by time, and whole runs through the command line.
#include <nlohmann/json.hpp>

#include "autograd/node.h"
#include "core/allocator.h"
#include "nn/models/pde_operator.h"
#include "tests/cli_fixtures.h"
#include "tests/dataset_fixtures.h"
#include "tests/wave_fixtures.h"
#include "tools/train/memory_plan.h"
#include "tools/train/step.h"
#include "tools/train/trainer.h"

namespace {

Recipe wave_recipe(const std::string& data, const std::vector<std::string>& set) {
  Recipe recipe = parse_recipe(
      R"({"model": {"blocks": 2, "channels": 16, "heads": 2, "latents": 4, "kv_layers": 0, "ffn_layers": 0, "io_layers": 0},
          "train": {"steps": 8, "batch_size": 4, "log_every": 4, "eval_every": 8, "checkpoint_every": 8},
          "optim": {"lr": 2e-3, "schedule": {"name": "constant"}}})",
      "test", set);
  recipe.task.data = data;
  return recipe;
}

/// A data set of waves, a task on it whose weights are large enough that the output follows the input, and a batch.
struct WaveTask {
  TemporaryFolder tmp;
  Waves waves;
  DatasetInfo info;
  std::unique_ptr<Task> task;
  Batch batch;
  explicit WaveTask(const std::vector<std::string>& set, const Waves& options = {}) : waves(options) {
    write_waves(tmp / "data", waves);
    const PreparedFolder folder(tmp / "data");
    info = folder.info();
    task = make_task(wave_recipe(tmp / "data", set), folder);
    Rng rng(5);
    for (const Parameter& p : task->parameters())
      for (int64_t i = 0; i < p.value.numel(); ++i) p.value.data<float>()[i] += static_cast<float>(0.3 * (rng.uniform() - 0.5));
    batch = Loader(folder, "train", {.batch_size = 3, .shuffle = false, .prefetch = false}).next();
  }
  PdeOperator& model() { return dynamic_cast<PdeOperator&>(task->model()); }
  Tensor forward(bool training) {
    Context context;
    context.training = training;
    return task->forward(batch, context);
  }
  const Normalisation& scale(const char* field) const { return info.normalisation.at(field); }

  /// The model on inputs [B][N][in] that are scaled already -> values in memory order.
  std::vector<double> model_on(const std::vector<float>& input, int64_t channels) {
    Context context;
    const int64_t b = batch.x.size(0), n = batch.x.size(1);
    return model().forward(Tensor::from(input, {b, n, channels}), {}, context).to_vector();
  }
};

double worst_difference(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) worst = std::max(worst, std::abs(a[i] - b[i]));
  return worst;
}

/// One roll-out in plain loops, feeding the model its own frames or the true ones. y [B][N][T·c].
std::vector<double> roll_out(WaveTask& w, bool teacher_forcing) {
  const int64_t b = w.batch.x.size(0), n = w.batch.x.size(1), in = w.batch.x.size(2), c = w.waves.frame, times = w.waves.times;
  const Normalisation &x = w.scale("x"), &y = w.scale("y");
  std::vector<double> mean(static_cast<size_t>(c)), square(static_cast<size_t>(c));  // of a channel over all times
  for (size_t i = 0; i < y.mean.size(); ++i) {
    mean[i % mean.size()] += y.mean[i] / static_cast<double>(times);
    square[i % mean.size()] += (y.std[i] * y.std[i] + y.mean[i] * y.mean[i]) / static_cast<double>(times);
  }
  std::vector<double> window = w.batch.x.to_vector(), out(static_cast<size_t>(b * n * times * c));  // in the data's units
  for (int64_t t = 0; t < times; ++t) {
    std::vector<float> scaled;
    for (size_t i = 0; i < window.size(); ++i) {
      const size_t channel = i % static_cast<size_t>(in);
      scaled.push_back(static_cast<float>((window[i] - x.mean[channel]) / x.std[channel]));
    }
    const std::vector<double> frame = w.model_on(scaled, in);
    for (int64_t p = 0; p < b * n; ++p) {
      double* at = window.data() + p * in;
      for (int64_t i = 2; i + c < in; ++i) at[i] = at[i + c];  // the oldest frame leaves
      for (int64_t k = 0; k < c; ++k) {
        const auto i = static_cast<size_t>(k);
        const double value = frame[static_cast<size_t>(p * c + k)] * std::sqrt(square[i] - mean[i] * mean[i]) + mean[i];
        out[static_cast<size_t>((p * times + t) * c + k)] = value;
        at[in - c + k] = teacher_forcing ? w.batch.y.item((p * times + t) * c + k) : value;
      }
    }
  }
  return out;
}

}  // namespace

TEST_CASE("roll-out: the model is fed its own frames, or while training with teacher forcing the true ones") {
  WaveTask forced({"task.time=rollout"}), free({"task.time=rollout", "task.teacher_forcing=false"});
  const std::vector<double> own = roll_out(forced, false), truth = roll_out(forced, true);
  CHECK(worst_difference(own, truth) > 0.05);  // so the two can be told apart
  const Tensor evaluated = forced.forward(false);
  CHECK(evaluated.shape() == Shape{3, 12, 6});
  CHECK(worst_difference(evaluated.to_vector(), own) < 1e-5);
  CHECK(worst_difference(forced.forward(true).to_vector(), truth) < 1e-5);
  CHECK(worst_difference(free.forward(true).to_vector(), own) < 1e-5);
  CHECK(worst_difference(free.forward(false).to_vector(), own) < 1e-5);
  Context context;
  CHECK(worst_difference(forced.task->predict(forced.batch.x, context, Device::cpu).to_vector(), own) < 1e-5);
}

TEST_CASE("conditioning on the time: one call a time") {
  WaveTask w({"task.time=condition"});
  const int64_t b = 3, n = 12, in = 6, c = 2, times = 3;
  const Normalisation &x = w.scale("x"), &y = w.scale("y");
  std::vector<double> expected(static_cast<size_t>(b * n * times * c));
  for (int64_t t = 0; t < times; ++t) {
    std::vector<float> input;
    for (int64_t p = 0; p < b * n; ++p) {
      for (int64_t i = 0; i < in; ++i) {
        const auto channel = static_cast<size_t>(i);
        input.push_back(static_cast<float>((w.batch.x.item(p * in + i) - x.mean[channel]) / x.std[channel]));
      }
      input.push_back(static_cast<float>(t) / 2);
    }
    const std::vector<double> frame = w.model_on(input, in + 1);
    for (int64_t p = 0; p < b * n; ++p)
      for (int64_t k = 0; k < c; ++k) {
        const auto channel = static_cast<size_t>(t * c + k);
        expected[static_cast<size_t>((p * times + t) * c + k)] =
            frame[static_cast<size_t>(p * c + k)] * y.std[channel] + y.mean[channel];
      }
  }
  for (const bool training : {false, true}) CHECK(worst_difference(w.forward(training).to_vector(), expected) < 1e-5);
}

TEST_CASE("several times: the loss is the mean over times, the score of all times together, and errors are listed by time") {
  for (const char* mode : {"task.time=condition", "task.time=rollout", "task.time=channels"}) {
    CAPTURE(mode);
    WaveTask w({mode});
    const int64_t b = 3, n = 12, times = 3, c = 2;
    const Tensor output = clone(w.batch.y);  // with errors that grow from time to time
    Rng rng(3);
    for (int64_t i = 0; i < output.numel(); ++i)
      output.data<float>()[i] += static_cast<float>((rng.uniform() - 0.3) * static_cast<double>(1 + i % (times * c) / c));
    double whole = 0, warped = 0;
    std::vector<double> by_time(static_cast<size_t>(times));
    for (int64_t s = 0; s < b; ++s) {
      double error = 0, size = 0, warped_size = 0;
      for (int64_t t = 0; t < times; ++t) {
        double time_error = 0, time_size = 0;
        for (int64_t p = 0; p < n; ++p)
          for (int64_t k = 0; k < c; ++k) {
            const int64_t at = (s * n + p) * times * c + t * c + k;
            time_error += std::pow(output.item(at) - w.batch.y.item(at), 2);
            time_size += std::pow(w.batch.y.item(at), 2);
            warped_size += std::pow(0.25 * w.batch.y.item(at) + 0.75, 2);
          }
        by_time[static_cast<size_t>(t)] += std::sqrt(time_error / time_size) / static_cast<double>(b);
        error += time_error;
        size += time_size;
      }
      whole += std::sqrt(error / size) / static_cast<double>(b);
      warped += 0.25 * std::sqrt(error / warped_size) / static_cast<double>(b);
    }
    const double step = (by_time[0] + by_time[1] + by_time[2]) / 3;
    REQUIRE(std::abs(step - whole) > 1e-3 * whole);
    const double loss = std::string(mode) == "task.time=channels" ? whole : step;
    CHECK(w.task->loss(output, w.batch).item() == doctest::Approx(loss).epsilon(1e-5));
    CHECK(w.task->score_sum(output, w.batch).item() == doctest::Approx(3 * whole).epsilon(1e-5));

    DatasetInfo info = w.info;
    info.splits.clear();
    info.fields.clear();
    info.warp = {{0.75}, {0.25}};
    write_field_set(w.tmp / "warped", info,
                    {{"train", read_npy(w.tmp / "data/train.x.npy"), read_npy(w.tmp / "data/train.y.npy")}});
    const PreparedFolder folder(w.tmp / "warped");
    CHECK(folder.info().warp.mean == std::vector<double>{0.75});
    const std::unique_ptr<Task> task = make_task(wave_recipe(w.tmp / "warped", {mode}), folder);
    const std::unique_ptr<Meter> meter = task->new_meter();
    meter->add(w.batch, output);
    const Json result = meter->result();
    CHECK(result["loss"].get<double>() == doctest::Approx(loss).epsilon(1e-5));
    CHECK(result["relative_l2"].get<double>() == doctest::Approx(whole).epsilon(1e-5));
    CHECK(result["relative_l2_step"].get<double>() == doctest::Approx(step).epsilon(1e-5));
    CHECK(result["relative_l2_warped"].get<double>() == doctest::Approx(warped).epsilon(1e-5));
    REQUIRE(result["relative_l2_by_time"].size() == 3);
    for (size_t t = 0; t < 3; ++t)
      CHECK(result["relative_l2_by_time"][t].get<double>() == doctest::Approx(by_time[t]).epsilon(1e-5));
    CHECK_FALSE(w.task->new_meter()->result().contains("relative_l2_warped"));
  }
}

TEST_CASE("several times: gradients of the loss in f64 against central differences") {
  // Through all steps of a roll-out, through windows of true frames, through the times of a batch; with derivatives on the grid.
  for (const std::vector<std::string>& set : {std::vector<std::string>{"task.time=rollout", "task.teacher_forcing=false"},
                                              {"task.time=rollout"},
                                              {"task.time=condition"},
                                              {"task.time=rollout", "task.teacher_forcing=false", "task.derivative_weight=0.1"}}) {
    CAPTURE(set.size());
    CAPTURE(set.front());
    WaveTask w(set, {.h = 3, .w = 3});
    w.task->model().to(DType::f64);
    w.batch.x = cast_to(w.batch.x, DType::f64);
    w.batch.y = cast_to(w.batch.y, DType::f64);
    const auto loss = [&] {
      Context context;
      context.training = true;
      context.dtype = DType::f64;
      return w.task->loss(w.task->forward(w.batch, context), w.batch);
    };
    backward(loss());
    int64_t checked = 0;
    for (const Parameter& p : w.task->parameters()) {
      const Tensor gradient = grad(p.value);
      REQUIRE(gradient);
      for (const int64_t i : {int64_t{0}, p.value.numel() / 2, p.value.numel() - 1}) {
        double& at = p.value.data<double>()[i];
        const double kept = at, h = 1e-6;
        const NoGrad no_grad;
        at = kept + h;
        const double up = loss().item();
        at = kept - h;
        const double down = loss().item();
        at = kept;
        CHECK_MESSAGE(gradient.item(i) == doctest::Approx((up - down) / (2 * h)).epsilon(1e-5).scale(1e-3), p.name, " ", i);
        ++checked;
      }
    }
    CHECK(checked > 60);
  }
}

TEST_CASE("several times: meshes of differing size, padded and masked") {
  const TemporaryFolder tmp;
  DatasetInfo info;
  info.name = "clouds";
  info.kind = "field_regression";
  info.coordinates = 2;
  info.times = 3;
  Rng rng(1);
  std::vector<float> x, y;
  std::vector<int64_t> offsets = {0};
  for (int64_t s = 0; s < 4; ++s) {
    for (int64_t p = 0; p < 5 + 3 * s; ++p) {
      for (int k = 0; k < 4; ++k) x.push_back(static_cast<float>(rng.uniform()));
      for (int k = 0; k < 3; ++k) y.push_back(static_cast<float>(1 + rng.uniform()));
    }
    offsets.push_back(static_cast<int64_t>(y.size()) / 3);
  }
  {
    PreparedWriter writer(tmp / "data", info);
    writer.add_ragged("train", "x", Tensor::from(x, {offsets.back(), 4}), Tensor::from(offsets, {5}));
    writer.add_ragged("train", "y", Tensor::from(y, {offsets.back(), 3}), Tensor::from(offsets, {5}));
    writer.commit();
  }
  const PreparedFolder folder(tmp / "data");
  for (const char* mode : {"task.time=condition", "task.time=rollout"})
    for (const bool training : {false, true}) {
      const std::unique_ptr<Task> task = make_task(wave_recipe(tmp / "data", {mode}), folder);
      const auto error_of = [&](int64_t batch_size, const std::unique_ptr<Meter>& meter) {
        Loader loader(folder, "train", {.batch_size = batch_size, .shuffle = false, .prefetch = false});
        double sum = 0;
        for (int64_t done = 0; done < 4; done += batch_size) {
          const Batch batch = loader.next();
          CHECK((batch_size == 1 || batch.mask.numel() > batch.n_tokens));  // there is padding
          Context context;
          context.training = training;
          const Tensor output = task->forward(batch, context);
          meter->add(batch, output);
          sum += task->loss(output, batch).item() * static_cast<double>(batch_size) / 4;
        }
        return sum;
      };
      const std::unique_ptr<Meter> together = task->new_meter(), single = task->new_meter();
      CHECK(error_of(4, together) == doctest::Approx(error_of(1, single)).epsilon(1e-5));
      for (size_t t = 0; t < 3; ++t)
        CHECK(together->result()["relative_l2_by_time"][t].get<double>() ==
              doctest::Approx(single->result()["relative_l2_by_time"][t].get<double>()).epsilon(1e-5));
    }
}

TEST_CASE("several times: recipes and descriptions that cannot be") {
  const TemporaryFolder tmp;
  CHECK_SAYS(2, "task.time: expected one of channels, condition, rollout, got \"steps\"",
             parse_recipe("{}", "test", {"task.time=steps"}));
  CHECK_SAYS(2, "task.teacher_forcing: expected true or false", parse_recipe("{}", "test", {"task.teacher_forcing=maybe"}));
  const auto make = [&](const Waves& waves, const std::string& time) {
    write_waves(tmp / "data", waves);
    make_task(wave_recipe(tmp / "data", {"task.time=" + time}), PreparedFolder(tmp / "data"));
  };
  for (const char* time : {"rollout", "condition"})
    CHECK_SAYS(2, "data/dataset.json states one (no entry times); make the data set again, or set task.time=channels",
               make({.has_times = false}, time));
  CHECK_SAYS(2, "rollout needs x to be the position and frames of 2 channels, and ", make({.history = 0}, "rollout"));
  CHECK_SAYS(2, " has 0 channels behind the 2 of the position", make({.history = 0}, "rollout"));
  CHECK_NOTHROW(make({.history = 0}, "condition"));
  CHECK_NOTHROW(make({.has_times = false}, "channels"));

  // A frame of x that is not whole: three channels behind the position, frames of two.
  DatasetInfo info;
  info.name = "odd";
  info.coordinates = 2;
  info.times = 3;
  const Tensor x = Tensor::zeros({2, 4, 5}, DType::f32), y = Tensor::full({2, 4, 6}, 1, DType::f32);
  write_field_set(tmp / "odd", info, {{"train", x, y}});
  CHECK_SAYS(2, "has 3 channels behind the 2 of the position; set task.time=condition or channels",
             make_task(wave_recipe(tmp / "odd", {"task.time=rollout"}), PreparedFolder(tmp / "odd")));

  for (const auto& [times, text] : {std::pair(int64_t{4}, "dataset.json: times is 4, which does not divide the 6 channels of y"),
                                    std::pair(int64_t{0}, "dataset.json: times is 0, the number of recorded times in y"),
                                    std::pair(int64_t{-3}, "dataset.json: times is -3")}) {
    info.times = times;
    CHECK_SAYS(3, text, write_field_set(tmp / "bad", info, {{"train", x, y}}));
  }
  CHECK_FALSE(fs::exists(tmp / "bad"));
  const std::string json = read_file(tmp / "odd/dataset.json");
  REQUIRE(json.find("\"times\": 3") != std::string::npos);
  const auto with_times = [&](const std::string& value) {
    std::string changed = json;
    put(tmp / "odd/dataset.json", changed.replace(changed.find("\"times\": 3"), 10, "\"times\": " + value));
    data_error([&] { PreparedFolder(tmp / "odd"); }, "odd/dataset.json: ");
  };
  with_times("5");
  with_times("\"three\"");
  with_times("2.5");
  info.times = 3;
  info.warp = {{1, 2}, {1}};
  CHECK_SAYS(3, "warp has 2 means and 1 deviations for the 6 channels of y", write_field_set(tmp / "bad", info, {{"train", x, y}}));
  put(tmp / "odd/dataset.json", json);
  CHECK(contains(describe(PreparedFolder(tmp / "odd")), "3 in the channels of y"));
}

TEST_CASE("several times: the recipes take the literature's way, with its channels in and out") {
  struct Published {
    const char* recipe;
    const char* time;
    int64_t in, times, frame, model_in;
  };
  const TemporaryFolder tmp;
  for (const Published& p :
       {Published{"plasticity", "condition", 3, 20, 4, 4}, Published{"navier-stokes", "rollout", 12, 10, 1, 12},
        Published{"navier-stokes-gen", "rollout", 12, 10, 1, 12}}) {
    CAPTURE(p.recipe);
    const Recipe recipe = read_recipe(cat(kSourceDir, "/tools/configs/pde/", p.recipe, ".json"));
    CHECK(recipe.task.time == p.time);
    CHECK(recipe.task.teacher_forcing);
    DatasetInfo info;
    info.name = p.recipe;
    info.coordinates = 2;
    info.times = p.times;
    write_field_set(tmp / p.recipe, info,
                    {{"train", Tensor::zeros({1, 9, p.in}, DType::f32), Tensor::full({1, 9, p.times * p.frame}, 1, DType::f32)}});
    const std::unique_ptr<Task> task = make_task(recipe, PreparedFolder(tmp / p.recipe));
    const std::vector<Parameter> parameters = task->parameters();
    const auto shape_of = [&](const std::string& name) {
      for (const Parameter& parameter : parameters)
        if (parameter.name == name) return parameter.value.shape();
      return Shape{};
    };
    CHECK(shape_of("in_proj.fc1.weight") == Shape{recipe.model.channels, p.model_in});
    CHECK(shape_of("out_proj.1.fc2.weight") == Shape{p.frame, recipe.model.channels});
  }
}

TEST_CASE("several times: a rehearsed step needs what a real one takes") {
  // The roll-out keeps every step for backward; a single step of the same model is the measure.
  const TemporaryFolder tmp;
  write_waves(tmp / "data", {.h = 16, .w = 16, .times = 6});
  const PreparedFolder folder(tmp / "data");
  int64_t at_once = 0;
  for (const std::vector<std::string>& set : {std::vector<std::string>{},
                                              {"task.time=condition"},
                                              {"task.time=rollout"},
                                              {"task.time=rollout", "task.teacher_forcing=false"}}) {
    CAPTURE(set.size());
    const Recipe recipe = wave_recipe(tmp / "data", set);
    const Batch batch = Loader(folder, "train", {.batch_size = 4, .prefetch = false}).next();
    const std::unique_ptr<Task> task = make_task(recipe, folder);
    Optimizer optimizer(task->parameters(), recipe.optim, recipe.train.steps);
    TrainStep step(*task, optimizer, Device::cpu, {1, DType::f32, 0, false});
    reset_peak(Device::cpu);
    const int64_t before = memory_stats(Device::cpu).current;
    step.forward_backward(batch, 0);
    const int64_t taken = memory_stats(Device::cpu).peak - before;
    StepRehearsal rehearsal(make_task(recipe, folder), recipe);
    const int64_t planned = rehearsal.needs(shape_of_batch(batch, 4, 0), Recompute::none).activations;
    CHECK(static_cast<double>(planned) == doctest::Approx(static_cast<double>(taken)).epsilon(0.1));
    if (set.empty()) at_once = planned;
    if (!set.empty()) CHECK(planned > 4 * at_once);
  }
}

TEST_CASE("several times: runs learn waves, and beat repeating the last frame") {
  const TemporaryFolder tmp;
  write_waves(tmp / "data", {.train = 48, .val = 8, .test = 8, .is_scaled = false});
  const Tensor x = read_npy(tmp / "data/test.x.npy"), y = read_npy(tmp / "data/test.y.npy");
  double still = 0;
  for (int64_t s = 0; s < 8; ++s) {
    double error = 0, size = 0;
    for (int64_t p = s * 12; p < (s + 1) * 12; ++p)
      for (int64_t i = 0; i < 6; ++i) {
        error += std::pow(y.item(p * 6 + i) - x.item(p * 6 + 4 + i % 2), 2);
        size += std::pow(y.item(p * 6 + i), 2);
      }
    still += std::sqrt(error / size) / 8;
  }
  for (const std::vector<std::string>& set : {std::vector<std::string>{"task.time=condition"},
                                              {"task.time=rollout"},
                                              {"task.time=rollout", "task.teacher_forcing=false"}}) {
    std::vector<std::string> all = {"train.steps=300", "train.eval_every=300", "train.log_every=100", "train.checkpoint_every=300"};
    all.insert(all.end(), set.begin(), set.end());
    const Recipe recipe = wave_recipe(tmp / "data", all);
    const RunFolder run = RunFolder::create(tmp / cat("run", set.size(), set[0].back()), recipe);
    Trainer trainer(recipe, open_data(recipe), Device::cpu, true);
    trainer.attach(run);
    REQUIRE(trainer.run_steps());
    const double error = (*trainer.test())["relative_l2"].get<double>();
    MESSAGE(set.back(), ": ", error, ", the last frame again ", still);
    CHECK(error < 0.5 * still);
  }
}

TEST_CASE("several times: train, eval and predict a roll-out of navier-stokes-gen from the command line") {
  const Scratch scratch;
  const auto run = [&](const std::vector<std::string>& args) {
    const Outcome o = scratch.run(args);
    INFO(o.err);
    REQUIRE(o.code == 0);
    return o.out;
  };
  run({"data", "generate", "navier-stokes-gen", "--out", "data",     "--train", "4",        "--val", "1",       "--test",
       "3",    "--set",    "resolution=16",     "--set", "stride=2", "--set",   "steps=20", "--set", "times=6", "--quiet"});
  CHECK(contains(read_file(scratch.file("data/dataset.json")), "\"times\": 3"));
  CHECK(contains(run({"data", "show", "data"}), "3 in the channels of y"));
  scratch.write("ns.json", R"({"task": {"name": "navier-stokes-gen", "data": "data", "time": "rollout"},
    "model": {"blocks": 1, "channels": 8, "heads": 2, "latents": 4, "kv_layers": 0, "ffn_layers": 0},
    "train": {"steps": 4, "batch_size": 2, "log_every": 2, "eval_every": 4, "checkpoint_every": 4}})");
  run({"train", "ns.json", "--run", "run", "--device", "cpu", "--quiet"});
  CHECK(fs::exists(scratch.file("run/panels/test-worst.png")));
  const Json test = Json::parse(run({"eval", "run", "--json", "--device", "cpu"}));
  REQUIRE(test["relative_l2_by_time"].size() == 3);
  CHECK(contains(run({"eval", "run", "--device", "cpu"}), "relative_l2_step"));
  CHECK(contains(read_file(scratch.file("run/report.html")), "Relative L2 of each time"));

  run({"predict", "run", "--input", "data/test.x.npy", "--output", "y.npy", "--device", "cpu", "--quiet"});
  const Tensor pred = read_npy(scratch.file("y.npy")), truth = read_npy(scratch.file("data/test.y.npy"));
  REQUIRE(pred.shape() == Shape{3, 64, 3});
  double sum = 0;
  for (int64_t s = 0; s < 3; ++s) {
    double error = 0, size = 0;
    for (int64_t i = s * 192; i < (s + 1) * 192; ++i) {
      error += std::pow(pred.item(i) - truth.item(i), 2);
      size += std::pow(truth.item(i), 2);
    }
    sum += std::sqrt(error / size) / 3;
  }
  CHECK(sum == doctest::Approx(test["relative_l2"].get<double>()).epsilon(1e-5));
  run({"predict", "run", "--split", "test", "--sample", "1", "--output", "y.vtu", "--device", "cpu", "--quiet"});
  CHECK(contains(read_file(scratch.file("y.vtu")), "Name=\"prediction\" NumberOfComponents=\"3\""));

  // The other ways on the same data, and what cannot be.
  for (const std::vector<std::string>& set :
       {std::vector<std::string>{"task.time=channels"}, {"task.time=condition"}, {"task.teacher_forcing=false"}}) {
    std::vector<std::string> args = {"train", "ns.json", "--run", cat("other", set[0].size()), "--device", "cpu", "--quiet"};
    for (const std::string& s : set) args.insert(args.end(), {"--set", s});
    run(args);
  }
  check_failure(scratch.run({"train", "ns.json", "--run", "no", "--device", "cpu", "--set", "task.time=roll"}), 2,
                {"task.time: expected one of channels, condition, rollout"});
  std::string json = read_file(scratch.file("data/dataset.json"));
  scratch.write("data/dataset.json", json.replace(json.find("\"times\": 3"), 10, "\"times\": 7"));
  check_failure(scratch.run({"train", "ns.json", "--run", "no", "--device", "cpu"}), 3,
                {"data/dataset.json: times is 7, which does not divide the 3 channels of y"});
  scratch.write("data/dataset.json", json.replace(json.find("\"times\": 7,"), 11, ""));
  check_failure(scratch.run({"train", "ns.json", "--run", "no", "--device", "cpu"}), 2,
                {"task.time: rollout needs several recorded times", "set task.time=channels"});
  CHECK_FALSE(fs::exists(scratch.file("no")));
}
