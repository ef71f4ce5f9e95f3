#include <doctest/doctest.h>

#include <cmath>
#include <filesystem>
#include <fstream>

#include <unistd.h>

#include "core/file.h"
#include "tests/paths.h"
#include "tools/train/progress.h"
#include "tools/train/run_folder.h"

using namespace flare;

namespace {

struct Inner {
  double rate = 0.5;
  bool on = false;
  template <class F> void describe(F& f) {
    f("rate", rate, "a rate", Between{0, 1});
    f("on", on, "a switch");
  }
};
struct Outer {
  int64_t count = 3;
  std::string word = "red";
  uint64_t big = 0;
  Inner inner;
  template <class F> void describe(F& f) {
    f("count", count, "a count", Between{1, 100});
    f("word", word, "a colour", OneOf{{"red", "green"}});
    f("big", big, "a seed");
    f("inner", inner, "a section");
  }
  FieldList fields() {
    FieldList list;
    describe(list);
    return list;
  }
};

template <class F> std::string error_of(const F& body) {
  try {
    body();
  } catch (const Error& error) {
    CHECK(std::string(error.what()).find('\n') == std::string::npos);
    return error.what();
  }
  return "(no error)";
}
bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
std::string read_error(const std::string& json) {
  Outer outer;
  return error_of([&] { outer.fields().read(parse_json_text(json, "r.json"), "r.json"); });
}
std::string set_error(const std::string& assignment) {
  Outer outer;
  return error_of([&] { outer.fields().set_from_text(assignment); });
}

/// A fresh folder, removed at the end.
struct TemporaryFolder {
  std::string path = (std::filesystem::temp_directory_path() / ("flare_config_" + std::to_string(getpid()))).string();
  TemporaryFolder() {
    std::filesystem::remove_all(path);
    std::filesystem::create_directories(path);
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

}  // namespace

TEST_CASE("config: values arrive in the struct, and the tree that comes out goes back in") {
  Outer outer;
  outer.fields().read(parse_json_text(R"({"count": 7, "word": "green", "big": 18446744073709551615, // a comment
                                         "inner": {"rate": 1, "on": true}})",
                                      "r.json"),
                      "r.json");
  CHECK(outer.count == 7);
  CHECK(outer.word == "green");
  CHECK(outer.big == UINT64_MAX);
  CHECK(outer.inner.rate == 1.0);
  CHECK(outer.inner.on);
  Outer again;
  again.fields().read(outer.fields().write(), "copy");
  CHECK(again.fields().write().dump() == outer.fields().write().dump());
  CHECK(outer.fields().write().dump() == R"({"count":7,"word":"green","big":18446744073709551615,"inner":{"rate":1.0,"on":true}})");
}

TEST_CASE("config: a whole number written as a float is an integer, a fraction is not") {
  Outer outer;
  outer.fields().read(parse_json_text(R"({"count": 1e1})", "r.json"), "r.json");
  CHECK(outer.count == 10);
  CHECK(read_error(R"({"count": 1.5})") == "r.json: count: expected an integer, got number 1.5");
}

TEST_CASE("config: unknown keys name the nearest one") {
  CHECK(read_error(R"({"cuont": 1})") == "r.json: unknown key cuont; did you mean count?");
  CHECK(read_error(R"({"inner": {"rat": 1}})") == "r.json: unknown key inner.rat; did you mean inner.rate?");
  CHECK(read_error(R"({"rate": 1})") == "r.json: unknown key rate; did you mean inner.rate?");
  CHECK(read_error(R"({"innner": {"rate": 1}})") == "r.json: unknown key innner; did you mean inner?");
}

TEST_CASE("config: wrong types and ranges name key, expectation and value") {
  CHECK(read_error(R"({"count": "7"})") == "r.json: count: expected an integer, got string \"7\"");
  CHECK(read_error(R"({"count": 0})") == "r.json: count: expected a value in [1, 100], got 0");
  CHECK(read_error(R"({"inner": {"on": 1}})") == "r.json: inner.on: expected true or false, got number 1");
  CHECK(read_error(R"({"inner": 3})") == "r.json: inner: expected an object of settings, got number 3");
  CHECK(read_error(R"({"word": "blue"})") == "r.json: word: expected one of red, green, got \"blue\"");
  CHECK(read_error(R"({"big": -1})") == "r.json: big: expected an integer of at least 0, got -1");
  CHECK(read_error(R"({"count": null})") == "r.json: count: expected an integer, got null null");
  CHECK(contains(read_error(R"([1])"), "expected an object"));
}

TEST_CASE("config: a value that is refused leaves the old one") {
  Outer outer;
  FieldList list = outer.fields();
  CHECK_THROWS_AS(list.set_from_text("count=0"), ConfigError);
  CHECK(outer.count == 3);
}

TEST_CASE("config: broken JSON says where, duplicate keys are refused") {
  CHECK(read_error("{\n  \"count\": 7,\n  oops\n}") == "r.json: not valid JSON at line 3, column 3");
  CHECK(read_error(R"({"count": 1, "count": 2})") == "r.json: key \"count\" appears twice in one object");
  CHECK(contains(read_error(""), "not valid JSON at line 1"));
}

TEST_CASE("config: --set parses by the field's type") {
  Outer outer;
  FieldList list = outer.fields();
  list.set_from_text("inner.rate=2.5e-1");
  list.set_from_text("inner.on=true");
  list.set_from_text("word=green");
  list.set_from_text("count=1e2");
  CHECK(outer.inner.rate == 0.25);
  CHECK(outer.inner.on);
  CHECK(outer.word == "green");
  CHECK(outer.count == 100);
  CHECK(set_error("inner.rate") == "--set inner.rate: expected key=value, for example optim.lr=5e-4");
  CHECK(contains(set_error("inner=3"), "is a section"));
  CHECK(set_error("inner.ratee=3") == "--set: unknown key inner.ratee; did you mean inner.rate?");
  CHECK(contains(set_error("count=many"), "--set count: expected a number, got string \"many\""));
  CHECK(contains(set_error("inner.on=yes"), "--set inner.on: expected true or false"));
}

TEST_CASE("config: edit distance") {
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("same", "same") == 0);
}

TEST_CASE("recipe: every shipped recipe is read, and its resolved form reads back the same") {
  int n_recipes = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(std::string(kSourceDir) + "/tools/configs")) {
    if (entry.path().extension() != ".json") continue;
    ++n_recipes;
    const Recipe recipe = read_recipe(entry.path().string());
    const Recipe again = parse_recipe(recipe_json(recipe).dump(), "resolved");
    CHECK(first_difference(recipe, again) == "");
    CHECK(recipe_hash(recipe) == recipe_hash(again));
  }
  CHECK(n_recipes >= 2);
}

TEST_CASE("recipe: the ListOps recipe is FLARE.py's setting") {
  const Recipe r = read_recipe(std::string(kSourceDir) + "/tools/configs/lra/listops.json");
  CHECK(r.train.steps == 10000);
  CHECK(r.train.batch_size == 32);
  CHECK(r.optim.lr == 5e-4);
  CHECK(r.optim.weight_decay == 1e-5);
  CHECK(r.optim.beta2 == 0.98);
  CHECK(r.train.clip_norm == 1.0);
  const Recipe mini = read_recipe(std::string(kSourceDir) + "/tools/configs/lra/listops-mini.json");
  CHECK(first_difference(r, mini) != "");
}

TEST_CASE("recipe: the first difference is named, the version does not count") {
  Recipe a, b;
  b.version = "9.9";
  CHECK(first_difference(a, b) == "");
  CHECK(recipe_hash(a) == recipe_hash(b));
  b.train.steps = 77;
  CHECK(first_difference(a, b) == "train.steps is 10000 there and 77 here");
  CHECK(recipe_hash(a) != recipe_hash(b));
}

TEST_CASE("recipe: values no run can use are refused by key") {
  CHECK(contains(error_of([] { parse_recipe("{}", "r", {"optim.lr=-1"}); }), "optim.lr: expected a number of at least 0, got -1"));
  CHECK(
      contains(error_of([] { parse_recipe("{}", "r", {"model.heads=5"}); }), "model.heads: 5 does not divide model.channels 128"));
  CHECK(contains(error_of([] { parse_recipe("{}", "r", {"train.precision=fp16"}); }),
                 "expected one of fp32, tf32, bf16, got \"fp16\""));
  CHECK(contains(error_of([] { read_recipe("/nowhere/recipe.json"); }), "no such recipe file"));
}

TEST_CASE("recipe: compat is a section of its own") {
  CHECK(parse_recipe(R"({"compat": {"flare_py": true}})", "r").model.compat.flare_py);
  CHECK_FALSE(parse_recipe("{}", "r").model.compat.flare_py);
  CHECK(contains(error_of([] { parse_recipe("{}", "r", {"model.compat.flare_py=true"}); }), "model.compat"));
}

TEST_CASE("recipe: the help lists every key") {
  const std::string help = config_help();
  for (const char* key : {"task.data", "model.latents", "train.steps", "optim.schedule.warmup", "seed"}) CHECK(contains(help, key));
}

TEST_CASE("run folder: a second run is refused, resuming needs the same configuration") {
  const TemporaryFolder folder;
  const std::string path = folder.path + "/run";
  Recipe recipe;
  recipe.seed = 5;
  {
    const RunFolder run = RunFolder::create(path, recipe);
    CHECK(is_run_folder(path));
  }
  CHECK(first_difference(recipe_of(path), recipe) == "");
  CHECK(contains(error_of([&] { RunFolder::create(path, recipe); }), "already holds a run; add --resume"));
  CHECK_NOTHROW(RunFolder::resume(path, recipe));
  recipe.optim.lr = 0.25;
  CHECK(contains(error_of([&] { RunFolder::resume(path, recipe); }), "optim.lr is 0.001 there and 0.25 here"));
}

TEST_CASE("run folder: only one process trains in it") {
  const TemporaryFolder folder;
  const Recipe recipe;
  const RunFolder run = RunFolder::create(folder.path + "/run", recipe);
  CHECK(contains(error_of([&] { RunFolder::resume(folder.path + "/run", recipe); }), "another process is training"));
}

TEST_CASE("run folder: metrics are cut at the checkpoint's step") {
  const TemporaryFolder folder;
  const RunFolder run = RunFolder::create(folder.path + "/run", Recipe{});
  run.append_metrics({{"step", 10}, {"split", "train"}, {"loss", 0.1}});
  run.append_metrics({{"step", 10}, {"split", "val"}, {"loss", 0.2}});
  run.append_metrics({{"step", 20}, {"split", "train"}, {"loss", 1.0 / 3}});
  run.append_metrics({{"step", 20}, {"split", "val"}, {"loss", 0.3}});
  run.append_metrics({{"step", 20}, {"split", "test"}, {"loss", 0.3}});
  std::ofstream(run.file("metrics.jsonl"), std::ios::app) << "{\"step\": 30, \"split\": \"tra";  // cut off by a kill
  CHECK(read_metrics(run.path()).size() == 5);
  run.truncate_metrics(20, true);
  CHECK(read_metrics(run.path()).size() == 4);
  run.truncate_metrics(20, false);
  const std::vector<Json> lines = read_metrics(run.path());
  REQUIRE(lines.size() == 3);
  CHECK(lines[2]["loss"].get<double>() == 1.0 / 3);
  run.truncate_metrics(10, true);
  CHECK(read_metrics(run.path()).size() == 2);
  run.truncate_metrics(-1, false);
  CHECK(read_metrics(run.path()).empty());
}

TEST_CASE("run folder: a checkpoint comes back bit for bit, and a failed one leaves the old") {
  const TemporaryFolder folder;
  const RunFolder run = RunFolder::create(folder.path + "/run", Recipe{});
  CHECK(!run.load_checkpoint("last"));
  CHECK(contains(error_of([&] { weights_of_run(run.path()); }), "has no checkpoint yet"));
  CheckpointFiles files;
  files.model = {{"w", Tensor::from<float>({1.5f, -0.0f, 3e-40f}, {3})}};
  files.trainer = {{"trainer.step", Tensor::from<int64_t>({42}, {1})}};
  files.metadata = {{"step", "42"}};
  run.save_checkpoint("last", files);
  CHECK(weights_of_run(run.path()) == run.path() + "/checkpoints/last/model.safetensors");
  files.model[0].value = Tensor();  // an undefined tensor cannot be written
  CHECK_THROWS_AS(run.save_checkpoint("last", files), DataError);
  CHECK(!directory_exists(run.file("checkpoints/last.writing")));
  const auto back = run.load_checkpoint("last");
  REQUIRE(back);
  CHECK(back->metadata.at("step") == "42");
  CHECK(back->model.at(0).value.to_vector() == std::vector<double>{1.5, -0.0, static_cast<double>(3e-40f)});
  CHECK(back->trainer.at(0).value.item() == 42);
  CHECK(back->ema.empty());
}

TEST_CASE("progress: units and the report line") {
  CHECK(format_bytes(3 << 20) == "3 MiB");
  CHECK(format_bytes(int64_t{5} << 29) == "2.5 GiB");
  CHECK(format_duration(61.4) == "1:01");
  CHECK(format_duration(3723) == "1:02:03");
  CHECK(format_count(1234567) == "1.2M");
  StepReport r;
  r.step = 600;
  r.steps = 10000;
  r.epoch = 3;
  r.loss = 1.8312;
  r.score = 0.352;
  r.grad_norm = 0.42;
  r.lr = 4.8e-4;
  r.ms_per_step = 3.1;
  r.data_share = 0.02;
  r.tokens_per_s = 1.2e6;
  r.seconds_left = 761;
  r.peak_bytes = 3 << 20;
  CHECK(format_report(r, "accuracy") ==
        "epoch 3 step 600/10000 | loss 1.8312 | accuracy 0.3520 | grad 0.42 | lr 4.80e-04 | 3.1 ms/step (data 2%) | 1.2M tok/s | 3 "
        "MiB | 12:41 left");
}
