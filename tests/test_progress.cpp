#include <chrono>
#include <sstream>
#include <thread>

#include "core/job.h"
#include "core/parallel.h"
#include "core/text_table.h"
#include "datasets/prepared.h"
#include "datasets/registry.h"
#include "tests/terminal_fixtures.h"
#include "tools/train/job_display.h"

namespace {

/// Keeps what it is shown.
struct Recorder : JobWatcher {
  Recorder() { watch_jobs(this); }
  ~Recorder() override { watch_jobs(nullptr); }
  void show(const JobState& state) override { states.push_back(state); }
  bool stop_requested() override { return stop; }
  /// The last state of the job whose name begins so.
  JobState last(const std::string& what) const {
    for (auto at = states.rbegin(); at != states.rend(); ++at)
      if (at->what.starts_with(what)) return *at;
    FAIL("no job ", what);
    return {};
  }
  std::vector<JobState> states;
  std::atomic<bool> stop{false};
};

/// A display without a terminal or a clock.
struct FakeDisplay {
  explicit FakeDisplay(ProgressStyle style, int columns = 80)
      : display(
            {style, [this](const std::string& text) { shown += text; }, [columns] { return columns; }, [this] { return now; }}) {}
  void at(double seconds, int64_t done, bool ended = false) {
    now = seconds;
    display.show({"work", "samples", done, 200, ended});
  }
  std::string shown;
  double now = 0;
  JobDisplay display;
};

std::vector<std::string> generate_listops(const std::string& out, std::vector<std::string> more = {}) {
  std::vector<std::string> args = {"data",   "generate", "listops", "--out",        out,     "--train",      "300", "--val", "20",
                                   "--test", "20",       "--set",   "min_length=4", "--set", "max_length=24"};
  args.insert(args.end(), more.begin(), more.end());
  return args;
}

/// Files and folders in a folder, hidden ones too, but for what the test itself writes.
std::vector<std::string> content(const Scratch& scratch) {
  std::vector<std::string> names;
  for (const fs::directory_entry& entry : fs::directory_iterator(scratch.file("")))
    if (const std::string name = entry.path().filename().string(); name != "out.txt" && name != "err.txt") names.push_back(name);
  std::sort(names.begin(), names.end());
  return names;
}

void wait_for_partial(const Scratch& scratch) {
  for (int i = 0; i < 12000; ++i) {
    for (const std::string& name : content(scratch))
      if (contains(name, ".partial-")) return;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  FAIL("the generator never began");
}

}  // namespace

TEST_CASE("job: counts from every thread, shows its start and its end, and only the outermost") {
  Recorder recorder;
  {
    Job job("outer", 1000, "items");
    parallel_for(1000, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) const JobItem item(job);
    });
    CHECK(job.done() == 1000);
    Job inner("inner", 3, "items");
    inner.advance(3);
  }
  REQUIRE(recorder.states.size() >= 2);
  CHECK(recorder.states.front().done == 0);
  CHECK_FALSE(recorder.states.front().ended);
  CHECK(recorder.states.back().done == 1000);
  CHECK(recorder.states.back().ended);
  for (const JobState& state : recorder.states) CHECK(state.what == "outer");
  { Job next("next", 1, "items"); }
  CHECK(recorder.states.back().what == "next");
}

TEST_CASE("job: a stop is thrown out of a parallel loop with exit code 130 and few items more") {
  Recorder recorder;
  Job job("work", 1000, "items");
  std::atomic<int> n{0};
  try {
    parallel_for(1000, 1, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const JobItem item(job);
        if (++n == 10) recorder.stop = true;
      }
    });
    FAIL("not stopped");
  } catch (const Interrupted& stop) {
    CHECK(stop.exit_code() == 130);
    CHECK(contains(stop.what(), "work: interrupted after "));
    CHECK(contains(stop.what(), " of 1000 items"));
  }
  CHECK(n < 10 + 2 * thread_count());
}

TEST_CASE("job: without a watcher nothing is asked or shown") {
  Job job("work", 2, "items");
  { const JobItem item(job); }
  CHECK(job.done() == 1);
}

TEST_CASE("job display: plain lines a tenth of the work and a second apart, or after ten seconds") {
  FakeDisplay f({});
  f.at(0, 0);
  CHECK(f.shown.empty());
  f.at(0.5, 40);  // a tenth and more, but too early
  CHECK(f.shown.empty());
  f.at(2, 50);
  CHECK(f.shown == "work  25 % (50 of 200 samples), 25/s, 0:06 left\n");
  f.shown.clear();
  f.at(3, 55);  // no further tenth
  CHECK(f.shown.empty());
  f.at(12.5, 56);  // ten seconds of silence
  CHECK(contains(f.shown, "work  28 % (56 of 200 samples)"));
  f.shown.clear();
  f.at(20, 200, true);
  CHECK(f.shown == "work: 200 samples in 0:20\n");
  f.shown.clear();
  f.at(30, 0);  // the next job ends at once, and says nothing
  f.at(30.1, 200, true);
  CHECK(f.shown.empty());
}

TEST_CASE("job display: on a terminal one line that fits, with a bar, erased at the end") {
  for (const int columns : {40, 60, 80, 130}) {
    CAPTURE(columns);
    FakeDisplay f({true, false}, columns);
    f.at(0, 0);
    f.at(5, 100);
    CHECK(contains(f.shown, "\r\033[K"));
    CHECK(contains(f.shown, "50 %"));
    CHECK(contains(f.shown, "█") == (columns >= 60));
    for (const std::string& line : shown_lines(f.shown)) CHECK(text_width(line) < static_cast<size_t>(columns));
    f.shown.clear();
    f.at(6, 120, true);  // given up: erased, without a word
    CHECK(f.shown == "\r\033[K");
  }
  FakeDisplay colourful({true, true});
  colourful.at(0, 0);
  CHECK(contains(colourful.shown, "\033[36m"));
}

TEST_CASE("job display: work of unknown length counts, bytes are sizes") {
  FakeDisplay f({true, false});
  f.display.show({"excerpts", "documents", 12, 0, false});
  CHECK(contains(f.shown, "excerpts (12 documents)"));
  f.display.show({"checksums", "bytes", 1 << 20, 1 << 22, false});
  CHECK(contains(f.shown, "checksums  25 % (1 MiB of 4 MiB)"));
}

TEST_CASE("progress: a report leaves out what matters least until it fits") {
  StepReport r;
  r.step = 600, r.steps = 10000, r.loss = 1.8312, r.score = 0.352, r.grad_norm = 0.42, r.lr = 4.8e-4, r.ms_per_step = 3.1;
  r.tokens_per_s = 1.2e6, r.peak_bytes = int64_t{3} << 30, r.seconds_left = 761;
  const std::string whole = format_report(r, "accuracy");
  CHECK(format_report(r, "accuracy", 200) == whole);
  size_t before = whole.size() + 1;
  for (int width = 140; width >= 20; --width) {
    const std::string line = format_report(r, "accuracy", width);
    CHECK(text_width(line) <= static_cast<size_t>(width));
    CHECK(line.size() <= before);
    before = line.size();
    if (width >= 64)
      for (const char* part : {"step 600/10000", "loss 1.8312", "accuracy 0.3520", "12:41 left"}) CHECK(contains(line, part));
  }
}

TEST_CASE("progress: the generators and the checksums are counted to the end, and bits do not depend on the watcher") {
  const Scratch scratch;
  fs::create_directories(scratch.file("texts"));
  for (int i = 0; i < 20; ++i) {
    std::string text;
    for (int k = 0; k < 200; ++k) text += "word" + std::to_string(i * 200 + k) + " ";
    scratch.write("texts/" + std::to_string(i), text);
  }
  const struct {
    const char* name;
    std::map<std::string, std::string> extra;
  } cases[] = {{"listops", {{"min_length", "4"}, {"max_length", "24"}}},
               {"pathfinder", {}},
               {"excerpts", {{"source", scratch.file("texts")}, {"length", "64"}}},
               {"darcy-gen", {{"resolution", "17"}, {"stride", "4"}}},
               {"elasticity-gen", {{"refine", "1"}}},
               {"navier-stokes-gen", {{"resolution", "16"}, {"steps", "30"}, {"times", "2"}}}};
  for (const auto& c : cases) {
    CAPTURE(c.name);
    GenerateOptions options;
    options.train = 6, options.val = 2, options.test = 2;
    options.extra = c.extra;
    generate_dataset(c.name, options, scratch.file("silent"));
    {
      Recorder recorder;
      generate_dataset(c.name, options, scratch.file("watched"));
      const JobState work = recorder.last(c.name), sums = recorder.last("checksums");
      CHECK(work.ended);
      CHECK(work.done == work.total);
      CHECK(sums.ended);
      CHECK(sums.done == sums.total);
      CHECK(sums.total > 0);
      PreparedFolder(scratch.file("watched")).verify_checksums();
      CHECK(recorder.states.back().done == sums.total);
      recorder.stop = true;
      CHECK_THROWS_AS(generate_dataset(c.name, options, scratch.file("stopped")), Interrupted);
      CHECK_THROWS_AS(PreparedFolder(scratch.file("watched")).verify_checksums(), Interrupted);
    }
    CHECK(content(scratch) == std::vector<std::string>{"silent", "texts", "watched"});
    CHECK(read_file(scratch.file("silent/dataset.json")) ==
          read_file(scratch.file("watched/dataset.json")));  // holds the checksums
  }
}

TEST_CASE("progress: importers are counted and stop") {
  const Scratch scratch;
  fs::create_directories(scratch.file("tsv"));
  for (const char* name : {"train", "val", "test"})
    scratch.write(std::string("tsv/basic_") + name + ".tsv", "Source\tTarget\n( ( ( [MAX 3 ) 5 ) ] )\t5\n");
  Recorder recorder;
  prepare_dataset("listops", scratch.file("tsv"), scratch.file("data"));
  CHECK(recorder.last("basic_test.tsv").done == 1);
  recorder.stop = true;
  CHECK_THROWS_AS(prepare_dataset("listops", scratch.file("tsv"), scratch.file("other")), Interrupted);
  CHECK(content(scratch) == std::vector<std::string>{"data", "tsv"});
}

TEST_CASE("progress: generating on a terminal redraws a line that fits; NO_COLOR, TERM=dumb and --quiet are obeyed") {
  const Scratch scratch;
  const Terminal drawn = run_on_terminal(scratch, generate_listops("data"), 72);
  INFO(drawn.shown);
  CHECK(drawn.code == 0);
  CHECK(contains(drawn.shown, "\r\033[K"));
  CHECK(contains(drawn.shown, "\033[36m"));
  CHECK(contains(drawn.shown, "listops   0 % (0 of 340 expressions)"));
  for (const std::string& line : shown_lines(drawn.shown)) CHECK(text_width(line) <= 72);
  const Terminal plain = run_on_terminal(scratch, generate_listops("data"), 72, {{"NO_COLOR", "1"}});
  CHECK(contains(plain.shown, "\r\033[K"));
  CHECK_FALSE(contains(plain.shown, "\033[36m"));
  CHECK_FALSE(contains(run_on_terminal(scratch, generate_listops("data"), 72, {{"TERM", "dumb"}}).shown, "\033"));
  CHECK_FALSE(contains(run_on_terminal(scratch, generate_listops("data", {"--quiet"}), 72).shown, "\033"));
  const Outcome file = scratch.run(generate_listops("data"));
  CHECK_FALSE(contains(file.err, "\033"));
  CHECK_FALSE(contains(file.err, "\r"));
}

TEST_CASE("progress: Ctrl-C while generating exits 130, leaves nothing behind and an old folder as it was") {
  const Scratch scratch;
  REQUIRE(scratch.run(generate_listops("data")).code == 0);
  const std::string before = read_file(scratch.file("data/dataset.json"));
  for (const int signal : {SIGINT, SIGTERM}) {
    const pid_t child = scratch.start({"data", "generate", "pathfinder", "--out", "data"});
    wait_for_partial(scratch);
    kill(child, signal);
    const Outcome o = scratch.wait(child);
    check_failure(o, 130, {"interrupted after ", " of 200000 pictures", "data is as it was before"});
    CHECK(content(scratch) == std::vector<std::string>{"data"});
    CHECK(read_file(scratch.file("data/dataset.json")) == before);
  }
}

TEST_CASE("progress: training on a terminal shows at once what it does, in lines that fit") {
  const Scratch scratch;
  REQUIRE(scratch.run(generate_listops("data", {"--set", "max_depth=3", "--set", "max_args=4"})).code == 0);
  scratch.write("tiny.json", R"({"task": {"data": "data"},
    "model": {"blocks": 1, "channels": 16, "heads": 2, "latents": 4, "kv_layers": 0, "ffn_layers": 0},
    "train": {"steps": 6, "batch_size": 8, "log_every": 2, "eval_every": 6, "checkpoint_every": 6}})");
  const Terminal t = run_on_terminal(scratch, {"train", "tiny.json", "--device", "cpu", "--run", "run"}, 64);
  INFO(t.shown);
  CHECK(t.code == 0);
  const size_t table = t.shown.find("\n  folder"), first = t.shown.find("first figures after step 2"),
               report = t.shown.find("step 2/6 | loss");
  CHECK(t.shown.find("reading the data") < table);
  CHECK(table < first);
  CHECK(first < report);
  CHECK(report != std::string::npos);
  for (const std::string& line : shown_lines(t.shown.substr(0, report))) CHECK(text_width(line) <= 64);
  for (const std::string& line : shown_lines(t.shown))
    if (contains(line, " | ")) CHECK(text_width(line) <= 64);
  const Terminal eval = run_on_terminal(scratch, {"eval", "run", "--device", "cpu"}, 64);
  CHECK(eval.code == 0);
  CHECK(contains(eval.shown, "evaluating test   0 % (0 of 20 samples)"));
  CHECK_FALSE(contains(run_on_terminal(scratch, {"eval", "run", "--device", "cpu", "--quiet"}, 64).shown, "\033"));
}
