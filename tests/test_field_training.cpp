/// Training on fields: the loss on decoded fields and its derivative term against plain loops, parameter counts of the published
/// models, and a whole small run on generated Darcy data.
#include <nlohmann/json.hpp>

#include "autograd/node.h"
#include "core/safetensors.h"
#include "datasets/pde/darcy.h"
#include "datasets/pde/field_set.h"
#include "datasets/registry.h"
#include "nn/checkpoint.h"
#include "tests/dataset_fixtures.h"
#include "tests/pde_fixtures.h"
#include "tools/train/trainer.h"

namespace {

Recipe small_recipe(const std::string& data, const std::vector<std::string>& set = {}) {
  Recipe recipe =
      parse_recipe(R"({"model": {"blocks": 2, "channels": 32, "heads": 4, "latents": 16, "kv_layers": 1, "ffn_layers": 1},
                                   "train": {"steps": 600, "batch_size": 4, "log_every": 100, "eval_every": 200, "checkpoint_every": 200},
                                   "optim": {"lr": 2e-3, "schedule": {"name": "onecycle"}}})",
                   "test", set);
  recipe.task.data = data;
  return recipe;
}

DarcyOptions tiny_darcy() {
  DarcyOptions o;
  o.train = 64;
  o.val = 8;
  o.test = 16;
  o.resolution = 15;
  o.stride = 2;
  return o;
}

double norm_of_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return std::sqrt(sum);
}
double norm(const std::vector<double>& a) { return norm_of_difference(a, std::vector<double>(a.size())); }

/// Central differences of a field that is 0 outside its grid.
std::vector<double> differences(const std::vector<double>& u, int64_t h, int64_t w, int64_t di, int64_t dj) {
  const auto at = [&](int64_t i, int64_t j) { return i < 0 || i >= h || j < 0 || j >= w ? 0 : u[static_cast<size_t>(i * w + j)]; };
  std::vector<double> out;
  for (int64_t i = 0; i < h; ++i)
    for (int64_t j = 0; j < w; ++j) out.push_back(at(i + di, j + dj) - at(i - di, j - dj));
  return out;
}

}  // namespace

TEST_CASE("field regression: parameter counts of FLARE's models") {
  // As FLARE.py's code gives them for these tasks: channels in and out, heads, latents.
  struct Published {
    const char* recipe;
    int64_t in, out, heads, latents, parameters;
  };
  const TemporaryFolder tmp;
  for (const Published& p : {Published{"elasticity", 2, 1, 8, 64, 592641},
                             {"darcy", 3, 1, 16, 256, 691009},
                             {"darcy-gen", 3, 1, 16, 256, 691009},
                             {"elasticity-gen", 2, 1, 8, 64, 592641},
                             {"airfoil", 2, 1, 8, 256, 690945},
                             {"pipe", 2, 1, 8, 128, 625409},
                             {"drivaerml", 3, 1, 8, 256, 691009},
                             {"lpbf", 3, 1, 8, 128, 625473}}) {
    const Recipe recipe = read_recipe(cat(kSourceDir, "/tools/configs/pde/", p.recipe, ".json"));
    CHECK(recipe.model.heads == p.heads);
    CHECK(recipe.model.latents == p.latents);
    CHECK(recipe.task.name == p.recipe);
    DatasetInfo info;
    info.name = p.recipe;
    info.grid = {3, 3};
    write_field_set(tmp / p.recipe, info,
                    {{"train", Tensor::zeros({2, 9, p.in}, DType::f32), Tensor::full({2, 9, p.out}, 1, DType::f32)}});
    const std::unique_ptr<Task> task = make_task(recipe, PreparedFolder(tmp / p.recipe));
    CHECK(count_elements(task->parameters()) == p.parameters);
  }
}

TEST_CASE("field regression: loss and score on decoded fields") {
  const TemporaryFolder tmp;
  generate_darcy(tiny_darcy(), tmp / "data");
  const PreparedFolder folder(tmp / "data");
  const int64_t side = 8, n = side * side;
  const std::unique_ptr<Task> task = make_task(small_recipe(tmp / "data"), folder),
                              with_derivatives = make_task(small_recipe(tmp / "data", {"task.derivative_weight=0.1"}), folder);
  Loader loader(folder, "train", {.batch_size = 2, .shuffle = false, .prefetch = false});
  const Batch batch = loader.next();
  Context context;
  const Tensor output = task->forward(batch, context);
  REQUIRE(output.shape() == Shape{2, n, 1});

  double expected = 0, derivatives = 0;
  for (int64_t b = 0; b < 2; ++b) {
    std::vector<double> pred, truth, inner;
    for (int64_t p = 0; p < n; ++p) {
      const bool is_border = p / side == 0 || p / side == side - 1 || p % side == 0 || p % side == side - 1;
      pred.push_back(output.item(b * n + p));
      inner.push_back(is_border ? 0 : pred.back());
      truth.push_back(batch.y.item(b * n + p));
    }
    expected += norm_of_difference(pred, truth) / norm(truth) / 2;
    for (const auto& [di, dj] : {std::pair(1, 0), std::pair(0, 1)}) {
      const std::vector<double> d = differences(truth, side, side, di, dj);
      derivatives += norm_of_difference(differences(inner, side, side, di, dj), d) / norm(d) / 2;
    }
  }
  CHECK(task->loss(output, batch).item() == doctest::Approx(expected).epsilon(1e-5));
  CHECK(task->score_sum(output, batch).item() == doctest::Approx(2 * expected).epsilon(1e-5));
  CHECK(with_derivatives->loss(output, batch).item() == doctest::Approx(expected + 0.1 * derivatives).epsilon(1e-5));
  const std::unique_ptr<Meter> meter = with_derivatives->new_meter();
  meter->add(batch, output);
  CHECK(meter->result()["relative_l2"].get<double>() == doctest::Approx(expected).epsilon(1e-5));
  CHECK(meter->result()["loss"].get<double>() == doctest::Approx(expected + 0.1 * derivatives).epsilon(1e-5));
  CHECK(meter->result()["worst"]["relative_l2"].get<double>() >= meter->result()["best"]["relative_l2"].get<double>());
  // Its gradient, in f64 against central differences, at points of the corner, the border and the inside.
  Batch wide = batch;
  wide.y = cast_to(batch.y, DType::f64);
  const auto loss_at = [&](const Tensor& pred) { return with_derivatives->loss(pred, wide).item(); };
  const Tensor leaf = clone(cast_to(output.detach(), DType::f64));
  set_requires_grad(leaf);
  backward(with_derivatives->loss(leaf, wide));
  const std::vector<double> gradient = grad(leaf).to_vector();
  for (const int64_t p : {int64_t{0}, int64_t{3}, side, side + 1, 3 * side + 4, n + 2 * side + 6}) {
    const double h = 1e-6;
    const Tensor up = clone(leaf.detach()), down = clone(leaf.detach());
    up.data<double>()[p] += h;
    down.data<double>()[p] -= h;
    CHECK(gradient[static_cast<size_t>(p)] == doctest::Approx((loss_at(up) - loss_at(down)) / (2 * h)).epsilon(1e-5));
  }
  // The fresh model answers about the mean of u, not about 0: its output is decoded.
  CHECK(output.item(0) == doctest::Approx(folder.info().normalisation.at("y").mean[0]).epsilon(0.5));

  DatasetInfo cloud;
  cloud.name = "cloud";
  write_field_set(tmp / "cloud", cloud, {{"train", Tensor::zeros({2, 9, 2}, DType::f32), Tensor::full({2, 9, 1}, 1, DType::f32)}});
  CHECK_SAYS(2, "states no 2-D grid",
             make_task(small_recipe(tmp / "cloud", {"task.derivative_weight=0.1"}), PreparedFolder(tmp / "cloud")));
  // A mixer with weights for each point takes samples of that size alone.
  const PreparedFolder points(tmp / "cloud");
  const std::unique_ptr<Task> sized = make_task(small_recipe(tmp / "cloud", {"model.mixer=linformer"}), points);
  Context evaluation;
  CHECK(sized->predict(Tensor::zeros({3, 9, 2}, DType::f32), evaluation, Device::cpu).shape() == Shape{3, 9, 1});
  CHECK_SAYS(3, "samples of 8 points; the model takes 9",
             sized->predict(Tensor::zeros({3, 8, 2}, DType::f32), evaluation, Device::cpu));
}

TEST_CASE("field regression: a small run learns Darcy flow, and its checkpoint carries the scales") {
  const TemporaryFolder tmp;
  generate_darcy(tiny_darcy(), tmp / "data");
  const Recipe recipe = small_recipe(tmp / "data", {"task.derivative_weight=0.01", "train.ema_decay=0.9"});
  const RunFolder run = RunFolder::create(tmp / "run", recipe);
  Trainer trainer(recipe, open_data(recipe), Device::cpu, true);
  trainer.attach(run);
  REQUIRE(trainer.run_steps());
  const std::optional<Json> result = trainer.test();
  REQUIRE(result);
  const double error = (*result)["relative_l2"].get<double>();

  // Answering the mean field of train is the least a model should beat.
  const Tensor train = read_npy(tmp / "data/train.y.npy"), test = read_npy(tmp / "data/test.y.npy"),
               test_x = read_npy(tmp / "data/test.x.npy");
  const int64_t n = train.size(1);
  std::vector<double> mean(static_cast<size_t>(n));
  for (int64_t i = 0; i < train.numel(); ++i)
    mean[static_cast<size_t>(i % n)] += train.item(i) / static_cast<double>(train.size(0));
  double baseline = 0;
  for (int64_t s = 0; s < test.size(0); ++s) {
    std::vector<double> truth;
    for (int64_t p = 0; p < n; ++p) truth.push_back(test.item(s * n + p));
    baseline += norm_of_difference(mean, truth) / norm(truth) / static_cast<double>(test.size(0));
  }
  MESSAGE("test relative L2 ", error, ", mean field ", baseline);
  CHECK(error < 0.8 * baseline);
  CHECK((*result)["n_samples"] == 16);

  // Predictions repeat the score, also when the data folder has been made anew with other scales.
  const auto predict = [&](bool adopts) {
    DatasetInfo other;
    other.name = "other";
    other.normalisation = {{"x", {{0, 0, 0}, {1, 1, 1}}}, {"y", {{7}, {3}}}};
    write_field_set(tmp / "other", other, {{"train", test_x, test}});
    const std::unique_ptr<Task> task = make_task(small_recipe(tmp / "other"), PreparedFolder(tmp / "other"));
    const SafeTensors weights = read_safetensors(weights_of_run(tmp / "run"));
    load_parameters(weights.tensors, "weights", task->model());
    if (adopts) task->adopt(weights.metadata);
    Context context;
    const NoGrad no_grad;
    const Tensor fields = task->predict(test_x, context, Device::cpu);
    double sum = 0;
    for (int64_t s = 0; s < test.size(0); ++s) {
      std::vector<double> pred, truth;
      for (int64_t p = 0; p < n; ++p) pred.push_back(fields.item(s * n + p)), truth.push_back(test.item(s * n + p));
      sum += norm_of_difference(pred, truth) / norm(truth) / static_cast<double>(test.size(0));
    }
    return sum;
  };
  CHECK(predict(true) == doctest::Approx(error).epsilon(1e-4));
  CHECK(predict(false) > 10 * error);
  const std::unique_ptr<Task> task = make_task(recipe, PreparedFolder(tmp / "data"));
  CHECK_SAYS(3, "its entry normalisation cannot be read", task->adopt({{"normalisation", "{\"x\": 3}"}}));
  CHECK_SAYS(3, "divides by 0", task->adopt({{"normalisation", R"({"x":{"mean":[0],"std":[0]},"y":{"mean":[0],"std":[1]}})"}}));
  Context context;
  CHECK_SAYS(3, "expected floats [n,N,3]", task->predict(Tensor::zeros({2, 5, 2}, DType::f32), context, Device::cpu));
}

TEST_CASE("field regression: meshes of differing size, padded and masked") {
  const TemporaryFolder tmp;
  DatasetInfo info;
  info.name = "clouds";
  info.kind = "field_regression";
  info.normalisation["y"] = {{1}, {2}};
  Rng rng(1);
  std::vector<float> x, y;
  std::vector<int64_t> offsets = {0};
  for (int64_t s = 0; s < 8; ++s) {
    for (int64_t p = 0; p < 5 + 3 * s; ++p) {
      x.push_back(static_cast<float>(rng.uniform()));
      x.push_back(static_cast<float>(rng.uniform()));
      y.push_back(1 + x.back());
    }
    offsets.push_back(static_cast<int64_t>(y.size()));
  }
  {
    PreparedWriter writer(tmp / "data", info);
    const int64_t n = static_cast<int64_t>(y.size());
    writer.add_ragged("train", "x", Tensor::from(x, {n, 2}), Tensor::from(offsets, {9}));
    writer.add_ragged("train", "y", Tensor::from(y, {n, 1}), Tensor::from(offsets, {9}));
    writer.commit();
  }
  const PreparedFolder folder(tmp / "data");
  CHECK_THROWS_WITH_AS(make_task(small_recipe(tmp / "data", {"model.mixer=linformer"}), folder),
                       doctest::Contains("samples differ in size"), ConfigError);
  const std::unique_ptr<Task> task = make_task(small_recipe(tmp / "data"), folder);
  Context context;
  // All at once, padded, against one by one.
  Loader together(folder, "train", {.batch_size = 8, .shuffle = false, .prefetch = false});
  const Batch batch = together.next();
  REQUIRE(batch.mask);
  const double padded = task->loss(task->forward(batch, context), batch).item();
  Loader single(folder, "train", {.batch_size = 1, .shuffle = false, .prefetch = false});
  double mean = 0;
  for (int64_t s = 0; s < 8; ++s) {
    const Batch one = single.next();
    mean += task->loss(task->forward(one, context), one).item() / 8;
  }
  CHECK(padded == doctest::Approx(mean).epsilon(1e-5));
}

TEST_CASE("field regression: the real small files train") {
  const TemporaryFolder tmp;
  if (const std::string source = data_folder("darcy"); !source.empty()) {
    prepare_dataset("darcy", source, tmp / "darcy");
    const Recipe recipe = small_recipe(tmp / "darcy", {"train.steps=500", "train.eval_every=500", "train.log_every=500"});
    const RunFolder run = RunFolder::create(tmp / "darcy-run", recipe);
    Trainer trainer(recipe, open_data(recipe), Device::cpu, true);
    trainer.attach(run);
    REQUIRE(trainer.run_steps());
    const double error = (*trainer.test())["relative_l2"].get<double>();
    MESSAGE("Darcy 16 x 16 after 500 steps: ", error);
    CHECK(error < 0.487);  // what the mean of train gives (data/README.md)
  }
  if (const std::string source = data_folder("shapenet_car"); !source.empty()) {
    prepare_dataset("shapenet-car", source, tmp / "cars");
    Recipe recipe =
        small_recipe(tmp / "cars", {"train.steps=12", "train.eval_every=12", "train.log_every=4", "train.batch_size=1"});
    const RunFolder run = RunFolder::create(tmp / "cars-run", recipe);
    Trainer trainer(recipe, open_data(recipe), Device::cpu, true);
    trainer.attach(run);
    REQUIRE(trainer.run_steps());
    std::vector<double> losses;
    for (const Json& line : read_metrics(tmp / "cars-run"))
      if (line["split"] == "train") losses.push_back(line["loss"].get<double>());
    REQUIRE(losses.size() == 3);
    CHECK(losses.back() < losses.front());
  }
}
