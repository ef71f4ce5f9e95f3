#include <chrono>
#include <cstdlib>
#include <sstream>
#include <thread>

#include "core/npy.h"
#include "core/safetensors.h"
#include "tests/cli_fixtures.h"
#include "tools/train/run_folder.h"

namespace {

constexpr const char* kRecipe = R"({
  "task": {"name": "tiny", "data": "data", "generate": "listops --train 200 --val 40 --test 40"},
  "model": {"blocks": 1, "channels": 16, "heads": 2, "latents": 4, "kv_layers": 0, "ffn_layers": 0, "dropout": 0.1},
  "train": {"steps": 60, "batch_size": 8, "log_every": 5, "eval_every": 20, "checkpoint_every": 7, "ema_decay": 0.9},
  "optim": {"lr": 3e-3, "beta2": 0.98}
})";

void make_data(const Scratch& scratch) {
  scratch.write("tiny.json", kRecipe);
  const Outcome o = scratch.run({"data",         "generate", "listops",       "--out", "data",        "--train", "200",
                                 "--val",        "40",       "--test",        "40",    "--seed",      "1",       "--set",
                                 "min_length=4", "--set",    "max_length=24", "--set", "max_depth=3", "--set",   "max_args=4"});
  INFO(o.err);
  REQUIRE(o.code == 0);
}
std::vector<std::string> training(const std::string& run, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {"train", "tiny.json", "--device", "cpu", "--run", run};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// The lines of metrics.jsonl without what depends on the clock.
std::string timeless_metrics(const std::string& run) {
  std::string text;
  for (Json line : read_metrics(run)) {
    for (const char* key : {"tokens_per_s", "ms_per_step", "data_share", "peak_bytes"}) line.erase(key);
    text += line.dump() + "\n";
  }
  return text;
}
void check_same_run(const Scratch& scratch, const std::string& a, const std::string& b) {
  CHECK(timeless_metrics(scratch.file(a)) == timeless_metrics(scratch.file(b)));
  for (const char* file : {"/checkpoints/last/model.safetensors", "/checkpoints/last/ema.safetensors",
                           "/checkpoints/last/trainer.safetensors", "/checkpoints/best/ema.safetensors"})
    CHECK(sha256_of_file(scratch.file(a) + file) == sha256_of_file(scratch.file(b) + file));
  Json results[2] = {Json::parse(read_file(scratch.file(a) + "/eval-test.json")),
                     Json::parse(read_file(scratch.file(b) + "/eval-test.json"))};
  for (Json& result : results)
    for (const char* key : {"weights", "chosen_by", "step"}) result.erase(key);  // worded otherwise by `flare eval`
  CHECK(results[0] == results[1]);
}
/// Waits until the run has written this many lines of metrics, or has ended.
void wait_for_lines(const std::string& run, size_t n) {
  for (int i = 0; i < 6000 && read_metrics(run).size() < n; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(5));
}
bool no_gpu(const Scratch& scratch) { return Json::parse(scratch.run({"info", "--json"}).out)["gpus"].empty(); }

}  // namespace

TEST_CASE("cli: usage errors exit 2 with one line, help and version exit 0") {
  const Scratch scratch;
  check_failure(scratch.run({}), 2, {"subcommand"});
  check_failure(scratch.run({"trian"}), 2, {"unknown command trian; did you mean train?"});
  check_failure(scratch.run({"data", "shwo"}), 2, {"unknown command shwo; did you mean show?"});
  check_failure(scratch.run({"train"}), 2, {"no recipe given"});
  check_failure(scratch.run({"train", "x.json", "--sed", "1"}), 2, {"--sed"});
  check_failure(scratch.run({"predict", "run"}), 2, {"--input"});
  check_failure(scratch.run({"train", "x.json", "--seed", "-1"}), 2, {"--seed"});
  CHECK(scratch.run({"--help"}).code == 0);
  CHECK(contains(scratch.run({"train", "--help"}).out, "--resume"));
  CHECK(contains(scratch.run({"--version"}).out, "flare 0."));
  CHECK(contains(scratch.run({"--version"}).out, "(commit "));
  CHECK(contains(scratch.run({"train", "--help-config"}).out, "optim.schedule.name"));
}

TEST_CASE("cli: configuration errors exit 2 and name the key") {
  const Scratch scratch;
  scratch.write("typo.json", R"({"optim": {"lr_": 1e-3}})");
  scratch.write("type.json", R"({"train": {"steps": "many"}})");
  scratch.write("broken.json", "{");
  check_failure(scratch.run({"train", "missing.json"}), 2, {"missing.json"});
  check_failure(scratch.run({"train", "typo.json"}), 2, {"typo.json: unknown key optim.lr_; did you mean optim.lr?"});
  check_failure(scratch.run({"train", "type.json"}), 2, {"train.steps: expected an integer, got string \"many\""});
  check_failure(scratch.run({"train", "broken.json"}), 2, {"not valid JSON at line 1"});
  scratch.write("good.json", "{}");
  check_failure(scratch.run({"train", "good.json", "--set", "model.latent=4"}), 2,
                {"unknown key model.latent; did you mean model.latents?"});
  check_failure(scratch.run({"train", "good.json", "--device", "tpu"}), 2, {"tpu"});
  CHECK(!fs::exists(scratch.file("runs")));
}

TEST_CASE("cli: missing and damaged data exit 3") {
  const Scratch scratch;
  scratch.write("tiny.json", kRecipe);
  check_failure(scratch.run(training("run")), 3,
                {"make it with: flare data generate listops --train 200 --val 40 --test 40 --out data"});
  CHECK(!fs::exists(scratch.file("run")));
  make_data(scratch);
  CHECK(contains(scratch.run({"data", "show", "data"}).out, "train"));
  CHECK(contains(scratch.run({"data", "list"}).out, "listops"));
  check_failure(scratch.run({"data", "show", "nowhere"}), 3, {"nowhere"});
  check_failure(scratch.run({"data", "generate", "listop", "--out", "x"}), 2, {"listops"});
  fs::resize_file(scratch.file("data/train.tokens.npy"), 200);
  check_failure(scratch.run(training("run")), 3, {"train.tokens.npy"});
}

TEST_CASE("cli: --device cuda without a GPU exits 4 with one line") {
  const Scratch scratch;
  if (!no_gpu(scratch)) {
    MESSAGE("skipped: this machine has a GPU");
    return;
  }
  make_data(scratch);
  check_failure(scratch.run({"train", "tiny.json", "--device", "cuda", "--run", "run"}), 4, {"cuda"});
  CHECK(!fs::exists(scratch.file("run")));
}

TEST_CASE("cli: two runs of one seed agree bit for bit, another seed does not; results, eval and predict") {
  const Scratch scratch;
  make_data(scratch);
  const Outcome first = scratch.run(training("a"));
  INFO(first.err);
  REQUIRE(first.code == 0);
  CHECK(contains(first.out, "accuracy"));
  CHECK(contains(first.out, "always answering class"));
  CHECK(contains(first.out, "on the val split"));
  CHECK(contains(first.err, "step 60/60"));
  REQUIRE(scratch.run(training("b")).code == 0);
  check_same_run(scratch, "a", "b");
  REQUIRE(scratch.run(training("c", {"--seed", "1"})).code == 0);
  CHECK(timeless_metrics(scratch.file("a")) != timeless_metrics(scratch.file("c")));
  for (const char* file : {"config.json", "metrics.jsonl", "log.txt", "report.html", "eval-test.json"})
    CHECK(fs::exists(scratch.file("a/") + file));
  CHECK(contains(read_file(scratch.file("a/report.html")), "class=\"curve\""));
  const Json summary = Json::parse(read_file(scratch.file("a/summary.json")));
  CHECK((summary["recipe"] == "tiny" && summary["finished"] == true && summary["step"] == 60 && summary["best"]["step"] > 0));
  CHECK((summary["parameters"] > 0 && summary["seconds"] > 0 && summary["data"]["splits"]["train"] == 200));
  CHECK(contains(summary["device"].get<std::string>(), "cpu, "));

  // The same numbers side by side.
  const Outcome table = scratch.run({"compare", "a", "c"});
  REQUIRE(table.code == 0);
  CHECK(contains(table.out, "run             split  accuracy"));
  CHECK(contains(table.out, "\nseed  0  1\n"));
  const Outcome compared = scratch.run({"compare", "a", "b", "c", "--json"});
  REQUIRE(compared.code == 0);
  const Json runs = Json::parse(compared.out);
  CHECK(runs["runs"].size() == 3);
  CHECK(runs["runs"][0]["score"] == Json::parse(read_file(scratch.file("a/eval-test.json")))["accuracy"]);
  CHECK(runs["runs"][0]["parameters"] == summary["parameters"]);
  CHECK(runs["differences"] == Json({{"seed", {0, 0, 1}}}));
  CHECK(contains(scratch.run({"compare", "a", "b"}).out, "the configurations are the same"));
  check_failure(scratch.run({"compare", "a", "nowhere"}), 2, {"nowhere: is not a run folder"});
  check_failure(scratch.run({"compare"}), 2, {"runs"});
  fs::remove(scratch.file("a/report.html"));
  CHECK(scratch.run({"report", "a"}).out == "a/report.html\n");
  CHECK(contains(read_file(scratch.file("a/report.html")), "recipe tiny"));
  CHECK(scratch.run({"report", "a", "c", "--out", "ac.html"}).out == "ac.html\n");
  CHECK(contains(read_file(scratch.file("ac.html")), "Comparison of 2 runs"));
  CHECK(scratch.run({"report", "a", "c"}).out == "report.html\n");
  check_failure(scratch.run({"report", "a", "data"}), 2, {"data: is not a run folder"});
  check_failure(scratch.run({"report", "a", "--out", "no/such/folder.html"}), 3, {"no/such"});

  // The trained weights give the same result from the command line.
  const Json trained = Json::parse(read_file(scratch.file("a/eval-test.json")));
  const Outcome eval = scratch.run({"eval", "a", "--json", "--device", "cpu"});
  REQUIRE(eval.code == 0);
  CHECK(Json::parse(eval.out)["accuracy"] == trained["accuracy"]);
  CHECK(Json::parse(eval.out)["loss"] == trained["loss"]);
  CHECK(contains(scratch.run({"eval", "a", "--split", "val", "--device", "cpu"}).out, "val"));
  check_failure(scratch.run({"eval", "a", "--split", "dev", "--device", "cpu"}), 3, {"dev"});
  check_failure(scratch.run({"eval", "tiny.json"}), 2, {"--weights"});

  // Logits do not depend on how many rows come together, nor on padding.
  write_npy(scratch.file("x.npy"), Tensor::from<int64_t>({12, 3, 4, 15, 0, 0, 11, 9, 8, 7, 15, 0}, {2, 6}));
  write_npy(scratch.file("x1.npy"), Tensor::from<int64_t>({12, 3, 4, 15}, {1, 4}));
  REQUIRE(scratch.run({"predict", "a", "--input", "x.npy", "--output", "y.npy", "--device", "cpu"}).code == 0);
  REQUIRE(scratch.run({"predict", "a", "--input", "x1.npy", "--output", "y1.npy", "--device", "cpu"}).code == 0);
  const Tensor y = read_npy(scratch.file("y.npy")), y1 = read_npy(scratch.file("y1.npy"));
  REQUIRE(y.shape() == Shape{2, 10});
  REQUIRE(y1.shape() == Shape{1, 10});
  for (int64_t k = 0; k < 10; ++k) CHECK(y.item(k) == doctest::Approx(y1.item(k)).epsilon(1e-4));

  write_npy(scratch.file("bad.npy"), Tensor::from<int64_t>({12, 3, 99, 15}, {1, 4}));
  check_failure(scratch.run({"predict", "a", "--input", "bad.npy", "--output", "z.npy", "--device", "cpu"}), 3,
                {"token 99", "vocabulary [0,16)"});
  write_npy(scratch.file("bad.npy"), Tensor::from<float>({1, 2}, {1, 2}));
  check_failure(scratch.run({"predict", "a", "--input", "bad.npy", "--output", "z.npy", "--device", "cpu"}), 3, {"integer tokens"});
  write_npy(scratch.file("bad.npy"), Tensor::full({1, 500}, 3, DType::i64));
  check_failure(scratch.run({"predict", "a", "--input", "bad.npy", "--output", "z.npy", "--device", "cpu"}), 3, {"500 tokens"});
  scratch.write("bad.npy", "not an array");
  check_failure(scratch.run({"predict", "a", "--input", "bad.npy", "--output", "z.npy", "--device", "cpu"}), 3, {"bad.npy"});
  CHECK(!fs::exists(scratch.file("z.npy")));

  // An occupied run folder, and resuming under another configuration.
  check_failure(scratch.run(training("a")), 2, {"already holds a run; add --resume"});
  check_failure(scratch.run(training("a", {"--resume", "--set", "train.steps=80"})), 2, {"train.steps is 60 there and 80 here"});
  REQUIRE(scratch.run(training("b", {"--resume"})).code == 0);  // a finished run: tests again, changes nothing
  check_same_run(scratch, "a", "b");

  // Damaged checkpoints.
  scratch.write("w.safetensors", std::string("\xff\xff\xff\xff\xff\xff\xff\x7f{}", 10));
  check_failure(scratch.run({"eval", "a", "--weights", "w.safetensors"}), 3, {"w.safetensors"});
  write_safetensors(scratch.file("w.safetensors"), {{"other", Tensor::zeros({2}, DType::f32)}});
  check_failure(scratch.run({"eval", "a", "--weights", "w.safetensors"}), 3, {"w.safetensors: the weights do not fit this model"});
  fs::resize_file(scratch.file("b/checkpoints/last/trainer.safetensors"), 100);
  check_failure(scratch.run(training("b", {"--resume"})), 3, {"trainer.safetensors"});
}

TEST_CASE("cli: killed at arbitrary steps and resumed, a run ends as the uninterrupted one") {
  const Scratch scratch;
  make_data(scratch);
  REQUIRE(scratch.run(training("whole")).code == 0);
  pid_t child = scratch.start(training("killed"));
  for (const size_t lines : {1, 4, 9}) {
    wait_for_lines(scratch.file("killed"), lines);
    kill(child, SIGKILL);
    const Outcome o = scratch.wait(child);
    CHECK((o.code == 128 + SIGKILL || o.code == 0));
    child = scratch.start(training("killed", {"--resume"}));
  }
  const Outcome last = scratch.wait(child);
  INFO(last.err);
  REQUIRE(last.code == 0);
  check_same_run(scratch, "whole", "killed");
}

TEST_CASE("cli: SIGINT and SIGTERM save and exit 130, and the run goes on from there") {
  const Scratch scratch;
  make_data(scratch);
  REQUIRE(scratch.run(training("whole", {"--set", "train.steps=400"})).code == 0);
  int n_interrupted = 0;
  for (const int signal : {SIGINT, SIGTERM}) {
    const std::string run = signal == SIGINT ? "int" : "term";
    const pid_t child = scratch.start(training(run, {"--set", "train.steps=400"}));
    wait_for_lines(scratch.file(run), 3);
    kill(child, signal);
    const Outcome o = scratch.wait(child);
    INFO(o.err);
    CHECK((o.code == 130 || o.code == 0));
    n_interrupted += o.code == 130;
    CHECK(fs::exists(scratch.file(run) + "/checkpoints/last/trainer.safetensors"));
    const Json stopped = Json::parse(read_file(scratch.file(run) + "/summary.json"));
    CHECK(stopped["finished"] == (o.code == 0));
    CHECK(contains(read_file(scratch.file(run) + "/report.html"), "of 400"));
    REQUIRE(scratch.run(training(run, {"--set", "train.steps=400", "--resume"})).code == 0);
    const Json whole = Json::parse(read_file(scratch.file(run) + "/summary.json"));
    CHECK((whole["finished"] == true && whole["step"] == 400));
    CHECK(whole["seconds"].get<double>() > stopped["seconds"].get<double>());  // of both processes
    check_same_run(scratch, "whole", run);
  }
  CHECK(n_interrupted > 0);
}

TEST_CASE("cli: a checkpoint that cannot be written exits 3 and the old one stands") {
  const Scratch scratch;
  make_data(scratch);
  REQUIRE(scratch.run(training("whole")).code == 0);
  const pid_t child = scratch.start(training("full"));
  wait_for_lines(scratch.file("full"), 3);
  kill(child, SIGKILL);
  scratch.wait(child);
  const std::string before = sha256_of_file(scratch.file("full/checkpoints/last/model.safetensors"));
  check_failure(scratch.run(training("full", {"--resume"}), 12000), 3, {"checkpoints/", "intact"});
  CHECK(sha256_of_file(scratch.file("full/checkpoints/last/model.safetensors")) == before);
  REQUIRE(scratch.run(training("full", {"--resume"})).code == 0);
  check_same_run(scratch, "whole", "full");
}

TEST_CASE("cli: a loss that is not finite exits 4 and names step, lr and the first bad tensor") {
  const Scratch scratch;
  make_data(scratch);
  check_failure(scratch.run(training(
                    "nan", {"--set", "optim.lr=1e38", "--set", "optim.schedule.name=constant", "--set", "train.clip_norm=0"})),
                4, {"step ", "lr 1e+38", "first bad tensor: "});
}

TEST_CASE("cli: info and bench ops print what machines can read") {
  const Scratch scratch;
  const Outcome info = scratch.run({"info", "--json"});
  REQUIRE(info.code == 0);
  const Json parsed = Json::parse(info.out);
  CHECK(parsed["ops"].get<int>() > 0);
  CHECK(!parsed["commit"].get<std::string>().empty());
  CHECK(contains(parsed["libraries"]["openblas"].get<std::string>(), "OpenBLAS"));
  const Outcome bench = scratch.run({"bench", "ops", "--filter", "softmax", "--device", "cpu", "--repeats", "1", "--json"});
  REQUIRE(bench.code == 0);
  CHECK(Json::parse(bench.out.substr(0, bench.out.find('\n')))["forward_us"].get<double>() > 0);
  check_failure(scratch.run({"bench", "ops", "--filter", "no such op"}), 2, {"no such op"});
}

TEST_CASE("cli: bench mixer and sdpa measure a shape and print one object a line") {
  const Scratch scratch;
  for (const std::string name : {"mixer", "sdpa"}) {
    const Outcome o = scratch.run({"bench", name, "--device", "cpu", "--shapes", "1,2,8,4,50", "--dtype", "f32,tf32,bf16",
                                   "--repeats", "2", "--mask", "0.3", "--score-range", "20", "--json"});
    INFO(o.err);
    REQUIRE(o.code == 0);
    CHECK(std::count(o.out.begin(), o.out.end(), '\n') == 2);  // the CPU has no tf32
    const Json line = Json::parse(o.out.substr(0, o.out.find('\n')));
    CHECK(line["bench"] == name);
    CHECK(line["shape"] == "1x2x8x4x50");
    CHECK((line["B"] == 1 && line["H"] == 2 && line["D"] == 8 && line["M"] == 4 && line["N"] == 50));
    CHECK(line["dtype"] == "f32");
    CHECK((line["graph"] == false && line["device"] == "cpu"));
    for (const char* key : {"forward_ms", "both_ms", "forward_share", "both_share", "copy_bytes_per_s"}) CHECK(line[key] > 0);
    // Of the mixer y is 50*2*8 floats, of attention 4*2*8; the gradients of k and v are 50*2*8 each.
    CHECK(line["forward_peak_bytes"] >= (name == "mixer" ? 3200 : 256));
    CHECK(line["both_peak_bytes"] >= 2 * 3200);
  }
  const Json line = Json::parse(
      scratch.run({"bench", "mixer", "--device", "cpu", "--shapes", "1,2,8,4,50", "--dtype", "bf16", "--repeats", "1", "--json"})
          .out);
  CHECK(line["forward_bytes"] == 4 * 50 * 16 * 2);
  CHECK(line["both_bytes"] == 11 * 50 * 16 * 2);
  CHECK(line["forward_exps"] == 2 * 2 * 4 * 50);
  CHECK(line["both_exps"] == 5 * 2 * 4 * 50);
  const Outcome final =
      scratch.run({"bench", "mixer", "--device", "cpu", "--shapes", "1,2,8,4,50", "--kernel", "final", "--repeats", "1"});
  CHECK(final.code == 0);
  CHECK(contains(final.out, "1x2x8x4x50"));
  check_failure(scratch.run({"bench", "mixer", "--device", "cpu", "--shapes", "1,2,8"}), 2, {"five numbers B,H,D,M,N"});
  check_failure(scratch.run({"bench", "mixer", "--device", "cpu", "--shapes", "listop"}), 2, {"listops"});
  check_failure(scratch.run({"bench", "mixer", "--device", "cpu", "--dtype", "f16"}), 2, {"f16"});
  check_failure(scratch.run({"bench", "mixer", "--device", "cpu", "--shapes", "elasticity", "--graph", "on"}), 2, {"--graph on"});
  check_failure(scratch.run({"bench", "mixer", "--kernel", "nave"}), 2, {"naive, tiled, tensor-core, split-token or final"});
  check_failure(scratch.run({"bench", "mixer", "--device", "cpu", "--shapes", "elasticity", "--kernel", "naive"}), 4,
                {"use final"});
}

TEST_CASE("cli: bench step trains every setting for a few steps and prints one object a line") {
  const Scratch scratch;
  const Outcome all = scratch.run({"bench", "step", "all", "--device", "cpu", "--tokens", "12", "--set", "train.batch_size=2",
                                   "--set", "model.blocks=1", "--repeats", "1", "--json"});
  INFO(all.err);
  REQUIRE(all.code == 0);
  std::istringstream lines(all.out);
  int n = 0;
  for (std::string text; std::getline(lines, text); ++n) {
    const Json line = Json::parse(text);
    CAPTURE(text);
    CHECK((line["bench"] == "step" && line["mode"] == "cpu" && line["batch_size"] == 2));
    CHECK(line["tokens"] == (line["setting"] == "retrieval" ? 24 : 12));
    CHECK((line["median_ms"] > 0 && line["peak_bytes"] > 0 && line["samples"] == 5));
  }
  CHECK(n == 9);
  // The published count of parameters of this setting.
  const Outcome whole = scratch.run({"bench", "step", "elasticity", "--device", "cpu", "--tokens", "12", "--json"});
  REQUIRE(whole.code == 0);
  CHECK(Json::parse(whole.out)["parameters"] == 592641);
  const std::string recipe = std::string(kSourceDir) + "/tools/configs/lra/listops.json";
  const Outcome of_file = scratch.run(
      {"bench", "step", recipe, "--device", "cpu", "--tokens", "40", "--no-mask", "--no-graph", "--set", "train.batch_size=2"});
  REQUIRE(of_file.code == 0);
  CHECK(contains(of_file.out, "listops"));
  CHECK(contains(of_file.out, "mask: none"));
  check_failure(scratch.run({"bench", "step", "elastic"}), 2, {"elastic", "elasticity, darcy"});
  check_failure(scratch.run({"bench", "step", "image", "--set", "model.chanels=3"}), 2, {"model.chanels", "model.channels"});
}
