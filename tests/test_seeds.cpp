#include <chrono>
#include <cmath>
#include <thread>

#include "tests/cli_fixtures.h"
#include "tools/train/run_folder.h"
#include "tools/train/seeds.h"

namespace {

constexpr const char* kRecipe = R"({
  "task": {"name": "tiny", "data": "data"},
  "model": {"blocks": 1, "channels": 16, "heads": 2, "latents": 4, "kv_layers": 0, "ffn_layers": 0},
  "train": {"steps": 20, "batch_size": 8, "log_every": 5, "eval_every": 10, "checkpoint_every": 5},
  "optim": {"lr": 3e-3}
})";

void make_data(const Scratch& scratch, const std::string& n_test = "40") {
  scratch.write("tiny.json", kRecipe);
  const Outcome o = scratch.run({"data", "generate", "listops", "--out", "data", "--train", "200", "--val", "40", "--test", n_test,
                                 "--set", "min_length=4", "--set", "max_length=24", "--set", "max_depth=3", "--set", "max_args=4"});
  INFO(o.err);
  REQUIRE(o.code == 0);
}

std::vector<std::string> training(std::vector<std::string> more) {
  std::vector<std::string> args = {"train", "tiny.json", "--device", "cpu", "--run", "runs/r", "--quiet"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

double accuracy_of(const Scratch& scratch, const std::string& run) {
  return Json::parse(read_file(scratch.file(run + "/eval-test.json")))["accuracy"].get<double>();
}

Json summary_of(const Scratch& scratch) { return Json::parse(read_file(scratch.file("runs/r-seeds.json"))); }

std::string weights_hash(const Scratch& scratch, const std::string& run) {
  return sha256_of_file(scratch.file(run + "/checkpoints/last/trainer.safetensors")) +
         sha256_of_file(scratch.file(run + "/checkpoints/last/model.safetensors"));
}

}  // namespace

TEST_CASE("seeds: mean and standard deviation over n - 1") {
  CHECK(mean_deviation({1, 2, 4}).mean == doctest::Approx(7.0 / 3));
  CHECK(mean_deviation({1, 2, 4}).deviation == doctest::Approx(std::sqrt((16.0 + 1 + 25) / 9 / 2)));
  CHECK(mean_deviation({5}).mean == 5);
  CHECK(std::isnan(mean_deviation({5}).deviation));
  CHECK(seed_folder("runs/a", 3) == "runs/a-seed3");
}

TEST_CASE("seeds: runs equal single runs, and the summary equals their results; finished runs are kept") {
  const Scratch scratch;
  make_data(scratch);
  const Outcome o = scratch.run(training({"--seeds", "3", "--seed", "4"}));
  INFO(o.err);
  REQUIRE(o.code == 0);
  std::vector<double> scores;
  for (const std::string seed : {"4", "5", "6"}) scores.push_back(accuracy_of(scratch, "runs/r-seed" + seed));
  const Json summary = summary_of(scratch);
  const MeanDeviation of = mean_deviation(scores);
  CHECK(summary["complete"] == true);
  CHECK(summary["n"] == 3);
  CHECK(summary["score_name"] == "accuracy");
  CHECK(summary["mean"].get<double>() == doctest::Approx(of.mean));
  CHECK(summary["std"].get<double>() == doctest::Approx(of.deviation));
  CHECK(summary["majority_accuracy"].get<double>() > 0);
  for (size_t i = 0; i < 3; ++i) {
    CHECK(summary["runs"][i]["seed"] == 4 + i);
    CHECK(summary["runs"][i]["accuracy"] == scores[i]);
    CHECK(contains(summary["runs"][i]["chosen_by"], "chosen by accuracy"));
    CHECK(summary["runs"][i]["status"] == "finished");
  }
  for (const char* part : {"seed", "test accuracy", "mean", "std", "over n - 1", "majority", "runs/r-seeds.json"})
    CHECK(contains(o.out, part));

  std::vector<std::string> single = {"train",  "tiny.json", "--device", "cpu",     "--run",
                                     "single", "--seed",    "5",        "--quiet", "--json"};
  const Outcome alone = scratch.run(single);
  REQUIRE(alone.code == 0);
  const Json result = Json::parse(alone.out);
  CHECK(std::count(alone.out.begin(), alone.out.end(), '\n') == 1);
  CHECK((result["run"] == "single" && result["seed"] == 5 && result["steps"] == 20 && result["finished"] == true));
  CHECK(result["test"]["accuracy"] == scores[1]);
  CHECK(weights_hash(scratch, "single") == weights_hash(scratch, "runs/r-seed5"));

  // Again, with one seed more: three are kept, one is trained.
  const auto written = fs::last_write_time(scratch.file("runs/r-seed5/metrics.jsonl"));
  const Outcome more = scratch.run(training({"--seeds", "4", "--seed", "4", "--json"}));
  REQUIRE(more.code == 0);
  CHECK(fs::last_write_time(scratch.file("runs/r-seed5/metrics.jsonl")) == written);
  CHECK(Json::parse(more.out) == summary_of(scratch));
  CHECK(summary_of(scratch)["n"] == 4);
  check_failure(scratch.run(training({"--seeds", "4", "--seed", "4", "--set", "train.steps=30"})), 2,
                {"r-seed4/config.json", "train.steps is 20 there and 30 here"});
  CHECK(summary_of(scratch)["n"] == 4);
}

TEST_CASE("seeds: interrupted, it says so; --resume goes on to the same results") {
  const Scratch scratch;
  make_data(scratch);
  const std::vector<std::string> longer = {"--seeds", "2", "--set", "train.steps=600"};
  const pid_t child = scratch.start(training(longer));
  for (int i = 0; i < 6000 && read_metrics(scratch.file("runs/r-seed0")).size() < 4; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  kill(child, SIGINT);
  const Outcome stopped = scratch.wait(child);
  INFO(stopped.err);
  REQUIRE(stopped.code == 130);
  CHECK(contains(stopped.out, "not finished"));
  CHECK(contains(stopped.err, "--resume"));
  CHECK(summary_of(scratch)["complete"] == false);
  CHECK(summary_of(scratch)["runs"][1]["status"] == "unfinished");
  check_failure(scratch.run(training(longer)), 2, {"runs/r-seed0: holds an unfinished run; add --resume"});
  std::vector<std::string> resumed = longer;
  resumed.emplace_back("--resume");
  REQUIRE(scratch.run(training(resumed)).code == 0);
  CHECK(summary_of(scratch)["complete"] == true);
  REQUIRE(scratch.run({"train", "tiny.json", "--device", "cpu", "--run", "whole", "--quiet", "--set", "train.steps=600"}).code ==
          0);
  CHECK(weights_hash(scratch, "whole") == weights_hash(scratch, "runs/r-seed0"));
}

TEST_CASE("seeds: train.init with the name of several seeds' runs takes that of the same seed") {
  const Scratch scratch;
  make_data(scratch);
  REQUIRE(scratch.run(training({"--seeds", "2"})).code == 0);
  const auto second = [&](const std::string& run, const std::string& init) {
    const Outcome o =
        scratch.run({"train", "tiny.json", "--device", "cpu", "--run", run, "--seed", "1", "--set", "train.init=" + init});
    INFO(o.err);
    REQUIRE(o.code == 0);
    return Json::parse(read_file(scratch.file(run + "/eval-test.json")))["loss"].get<double>();
  };
  const double chained = second("chained", "runs/r");
  CHECK(contains(read_file(scratch.file("chained/log.txt")), "from runs/r-seed1/"));
  CHECK(chained == second("named", "runs/r-seed1"));
  CHECK(chained != second("other", "runs/r-seed0"));
  check_failure(
      scratch.run({"train", "tiny.json", "--device", "cpu", "--run", "none", "--seed", "7", "--set", "train.init=runs/r"}), 3,
      {"train.init: runs/r: is neither a run folder nor a .safetensors file; train that run first"});
}

TEST_CASE("seeds: a run that fails does not stop the others; its exit code is the program's") {
  const Scratch scratch;
  make_data(scratch);
  fs::create_directories(scratch.file("runs"));
  scratch.write("runs/r-seed1", "a file in the way");
  check_failure(scratch.run(training({"--seeds", "3"})), 2,
                {"seed 1 failed: runs/r-seed1: is a file", "2 of 3 seeds are finished"});
  const Json summary = summary_of(scratch);
  CHECK(summary["n"] == 2);
  CHECK(summary["complete"] == false);
  CHECK(summary["runs"][1]["status"] == "failed");
  CHECK(summary["runs"][1]["exit_code"] == 2);
  CHECK(summary["runs"][2]["status"] == "finished");
  fs::remove(scratch.file("runs/r-seed1"));
  CHECK(scratch.run(training({"--seeds", "3", "--resume"})).code == 0);
  CHECK(summary_of(scratch)["n"] == 3);
}

TEST_CASE("seeds: what cannot be summed up is refused before anything is trained") {
  const Scratch scratch;
  make_data(scratch, "0");
  check_failure(scratch.run(training({"--seeds", "2"})), 3, {"has no test split"});
  check_failure(scratch.run(training({"--seeds", "1"})), 2, {"--seeds"});
  CHECK_FALSE(fs::exists(scratch.file("runs")));
}
