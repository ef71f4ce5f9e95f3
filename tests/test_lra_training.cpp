/// Every Long Range Arena task from its source files to a trained model, by the shipped recipe made small.
#include "core/npy.h"
#include "datasets/lra/image.h"
#include "datasets/lra/text.h"
#include "nn/models/lra_classifier.h"
#include "tests/cli_fixtures.h"
#include "tests/lra_fixtures.h"
#include "tools/train/run_folder.h"

namespace {

std::string recipe_of_task(const std::string& name) { return cat(kSourceDir, "/tools/configs/lra/", name, ".json"); }

/// Trains on the prepared folder `data` with the recipe made small, and predicts its test split.
struct Trained {
  Json result;                    // eval-test.json
  double predicted_accuracy = 0;  // of `flare predict` on the same samples
};

/// The test split as `flare predict` takes it.
Tensor rows_of_split(const PreparedFolder& folder) {
  const int64_t n = folder.count("test"), longest = folder.info().max_length;
  if (!folder.has_field("tokens")) {
    const Column& x = folder.column("test", "x");
    const Tensor rows = Tensor::empty({n, longest, 1}, DType::f32);
    for (int64_t e = 0; e < rows.numel(); ++e) rows.data<float>()[e] = static_cast<float>(x.integer(e));
    return rows;
  }
  const int64_t towers = folder.has_field("tokens_b") ? 2 : 1;
  const Tensor rows = Tensor::zeros(towers == 2 ? Shape{n, 2, longest} : Shape{n, longest}, DType::i64);
  for (int64_t t = 0; t < towers; ++t) {
    const Column& c = folder.column("test", t ? "tokens_b" : "tokens");
    for (int64_t i = 0; i < n; ++i)
      for (int64_t e = 0; e < c.length(i); ++e) rows.data<int64_t>()[(i * towers + t) * longest + e] = c.integer(c.begin(i) + e);
  }
  return rows;
}

Trained train_small(const Scratch& scratch, const std::string& recipe, const std::vector<std::string>& more = {}) {
  std::vector<std::string> args = {"train", recipe_of_task(recipe), "--device", "cpu", "--run", "run"};
  for (const std::string set :
       {"task.data=data", "model.blocks=1", "model.channels=16", "model.heads=2", "model.latents=4", "model.kv_layers=0",
        "model.ffn_layers=0", "train.steps=6", "train.batch_size=4", "train.eval_every=3", "train.checkpoint_every=3",
        "train.log_every=2", "train.precision=fp32", "train.init=", "optim.lr=1e-2"})
    args.insert(args.end(), {"--set", set});
  args.insert(args.end(), more.begin(), more.end());
  const Outcome o = scratch.run(args);
  INFO(o.err);
  REQUIRE(o.code == 0);
  CHECK(contains(o.out, "always answering class"));
  Trained t;
  t.result = Json::parse(read_file(scratch.file("run/eval-test.json")));

  const PreparedFolder folder(scratch.file("data"));
  write_npy(scratch.file("x.npy"), rows_of_split(folder));
  const Outcome p = scratch.run({"predict", "run", "--input", "x.npy", "--output", "y.npy", "--device", "cpu"});
  INFO(p.err);
  REQUIRE(p.code == 0);
  const Tensor y = read_npy(scratch.file("y.npy"));
  const int64_t n = folder.count("test"), width = y.size(1);
  REQUIRE(y.size(0) == n);
  int64_t correct = 0;
  for (int64_t i = 0; i < n; ++i) {
    int64_t answer = width == 1 ? y.item(i) > 0 : 0;
    for (int64_t k = 1; k < width; ++k)
      if (y.item(i * width + k) > y.item(i * width + answer)) answer = k;
    correct += answer == folder.column("test", "labels").integer(i);
  }
  t.predicted_accuracy = static_cast<double>(correct) / static_cast<double>(n);
  return t;
}

void check_trained(const Trained& t, int64_t n_samples, size_t n_classes) {
  CHECK(t.result["n_samples"] == n_samples);
  CHECK(t.result["confusion"].size() == n_classes);
  CHECK(t.result["accuracy"].get<double>() == doctest::Approx(t.predicted_accuracy));
  CHECK(std::isfinite(t.result["loss"].get<double>()));
}

}  // namespace

TEST_CASE("lra: text trains from aclImdb, with padding masked") {
  const Scratch scratch;
  write_imdb(scratch.file("in"), 30);
  import_imdb(scratch.file("in"), scratch.file("data"), 30);
  check_trained(train_small(scratch, "text"), 60, 2);
  // Good and bad stand at the very front: a model that reads bytes learns them.
  fs::remove_all(scratch.file("run"));
  const Trained longer = train_small(scratch, "text",
                                     {"--set", "train.steps=240", "--set", "train.batch_size=16", "--set", "train.eval_every=240",
                                      "--set", "train.checkpoint_every=240"});
  CHECK(longer.result["accuracy"].get<double>() > 0.85);
}

TEST_CASE("lra: image trains from CIFAR-10 batches, as tokens and as floats") {
  const Scratch scratch;
  write_cifar(scratch.file("in"), 10);
  import_cifar(scratch.file("in"), scratch.file("data"), false, 10);
  check_trained(train_small(scratch, "image"), 10, 10);
  fs::remove_all(scratch.file("run"));
  import_cifar(scratch.file("in"), scratch.file("data"), true, 10);
  check_trained(train_small(scratch, "image"), 10, 10);
  CHECK(read_safetensors(scratch.file("run/checkpoints/last/model.safetensors")).tensors.size() > 0);
  check_failure(scratch.run({"predict", "run", "--input", "y.npy", "--output", "z.npy", "--device", "cpu"}), 3,
                {"numbers [n,N,1]"});
}

TEST_CASE("lra: retrieval trains on pairs from AAN files, excerpts on pairs from a folder of text") {
  const Scratch scratch;
  write_aan(scratch.file("in"), 20);
  REQUIRE(scratch.run({"data", "prepare", "retrieval", "--source", "in", "--out", "data"}).code == 0);
  check_trained(train_small(scratch, "retrieval"), 20, 2);
  fs::remove_all(scratch.file("run"));
  for (int d = 0; d < 40; ++d) write_bytes(scratch.file(cat("docs/", d, ".txt")), words(static_cast<uint64_t>(d), 60));
  const Outcome o = scratch.run({"data", "generate", "excerpts", "--out", "data", "--set", "source=docs", "--set", "length=50",
                                 "--train", "40", "--val", "8", "--test", "10"});
  INFO(o.err);
  REQUIRE(o.code == 0);
  check_trained(train_small(scratch, "excerpts"), 10, 2);
}

TEST_CASE("lra: pathfinder trains at 32 and at 128, generated and imported") {
  const Scratch scratch;
  for (const std::string size : {"32", "128"}) {
    fs::remove_all(scratch.file("run"));
    const Outcome o = scratch.run(
        {"data", "generate", "pathfinder", "--out", "data", "--set", "size=" + size, "--train", "8", "--val", "4", "--test", "6"});
    INFO(o.err);
    REQUIRE(o.code == 0);
    check_trained(train_small(scratch, "pathfinder" + size), 6, 2);
  }
  write_pathfinder(scratch.file("in"), 20);
  REQUIRE(scratch.run({"data", "prepare", "pathfinder", "--source", "in", "--out", "data"}).code == 0);
  fs::remove_all(scratch.file("run"));
  check_trained(train_small(scratch, "pathfinder32"), 4, 2);
}

TEST_CASE("lra: every mixer trains on ListOps, continues and predicts what it evaluates to") {
  const Scratch scratch;
  const Outcome o = scratch.run({"data", "generate", "listops", "--out", "data", "--set", "min_length=4", "--set", "max_length=24",
                                 "--set", "max_depth=3", "--set", "max_args=4", "--train", "48", "--val", "8", "--test", "12"});
  INFO(o.err);
  REQUIRE(o.code == 0);
  for (const std::string mixer : {"linear", "linformer", "performer"})
    for (const std::string decay : {"0", "0.5"}) {  // with averages the weights a run is judged by lie in a file of their own
      CAPTURE(mixer);
      CAPTURE(decay);
      fs::remove_all(scratch.file("run"));
      const std::vector<std::string> sets = {"--set", "model.mixer=" + mixer,    "--set", "model.scale=0",
                                             "--set", "train.ema_decay=" + decay};
      check_trained(train_small(scratch, "listops-mini", sets), 12, 10);
      const Outcome again = scratch.run({"eval", "run", "--split", "test", "--device", "cpu"});
      INFO(again.err);
      REQUIRE(again.code == 0);
      CHECK(contains(again.out, "always answering class"));
    }
}

TEST_CASE("lra: the recipe of image is the published model") {
  const Recipe recipe = read_recipe(recipe_of_task("image"));
  CHECK(LraClassifier(recipe.model, 256, 1024, 10, false, 0).parameter_count() == 286666);
}

TEST_CASE("lra: what is missing is named, and how to get it") {
  const Scratch scratch;
  const auto missing = [&](const std::string& recipe) {
    return scratch.run({"train", recipe_of_task(recipe), "--device", "cpu", "--run", "run"});
  };
  check_failure(missing("text"), 3, {"make it with: flare data prepare text --source DIR --out data/text"});
  check_failure(missing("image"), 3, {"flare data prepare image --source DIR --out data/image"});
  check_failure(missing("retrieval"), 3, {"flare data prepare retrieval --source DIR --out data/retrieval"});
  check_failure(missing("excerpts"), 3, {"flare data generate excerpts --set source=DIR --seed 0 --out data/excerpts"});
  check_failure(missing("pathfinder32"), 3,
                {"flare data generate pathfinder --set size=32 --seed 0 --train 2000000 --out data/pathfinder32-2m"});
  check_failure(
      missing("pathfinder32-short"), 3,
      {"flare data generate pathfinder --set size=32 --set segments=6 --set shortest=2 --seed 1", "--out data/pathfinder32-short"});
  check_failure(missing("pathfinder32-mixed"), 3,
                {"flare data generate pathfinder --set size=32 --set shortest=3 --seed 0", "--out data/pathfinder32-mixed"});
  check_failure(missing("pathfinder32-published"), 3,
                {"flare data generate pathfinder --set size=32 --seed 0 --out data/pathfinder32"});
  check_failure(missing("pathfinder128"), 3, {"flare data generate pathfinder --set size=128 --seed 0 --out data/pathfinder128"});
  check_failure(scratch.run({"data", "prepare", "text", "--source", ".", "--out", "data"}), 3,
                {"not found: train/neg, train/pos, test/neg, test/pos", "12500 files", "aclImdb_v1.tar.gz"});
  CHECK(!fs::exists(scratch.file("data")));
}
