/// Reports and comparisons from run folders made by hand. What a browser makes of the pages: tests/browser.
#include <doctest/doctest.h>

#include <cmath>
#include <fstream>

#include "tests/file_fixtures.h"
#include "tools/report/chart.h"
#include "tools/report/comparison.h"
#include "tools/report/html.h"
#include "tools/report/report.h"
#include "tools/report/run_record.h"
#include "tools/report/sections.h"
#include "tools/train/config.h"

namespace {

constexpr size_t kMostBytes = 2'000'000;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }
size_t count_of(const std::string& text, const std::string& part) {
  size_t n = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + part.size())) ++n;
  return n;
}

/// What stands on the page for readers: neither the style nor the scripts.
std::string body_of(const std::string& page) {
  std::string body = page.substr(page.find("<main>"));
  for (size_t at; (at = body.find("<script")) != std::string::npos;) body.erase(at, body.find("</script>", at) + 9 - at);
  return body;
}

struct Folders : TemporaryFolder {
  std::string run(const std::string& name, const std::string& recipe, const std::string& metrics = "") const {
    const std::string folder = path + "/" + name;
    fs::create_directories(folder + "/panels");
    put(folder + "/config.json", recipe_json(parse_recipe(recipe, "test")).dump());
    put(folder + "/metrics.jsonl", metrics);
    return folder;
  }
  std::string report(const std::string& run) const {
    write_report(run);
    const std::string page = read_file(run + "/report.html");
    CHECK(page.size() < kMostBytes);
    CHECK(page.starts_with("<!doctype html>"));
    CHECK(page.ends_with("</html>\n"));
    return page;
  }
};

std::string train_line(int64_t step, double loss, const std::string& score = "accuracy") {
  return cat(R"({"step":)", step, R"(,"epoch":0,"split":"train","loss":)", loss, ",\"", score, "\":", 1 / (1 + loss),
             R"(,"lr":0.001,"grad_norm":0.5,"tokens_per_s":12000,"ms_per_step":)", 8 + step % 3, R"(,"peak_bytes":)", 3 << 20,
             "}\n");
}
std::string val_line(int64_t step, double loss, double value, const std::string& score = "accuracy") {
  return cat(R"({"step":)", step, R"(,"epoch":0,"split":"val","loss":)", loss, ",\"", score, "\":", value, "}\n");
}
std::string lra_metrics() {
  return train_line(10, 1.9) + train_line(20, 1.5) + val_line(20, 1.4, 0.40) + train_line(30, 1.3) + train_line(40, 1.2) +
         val_line(40, 1.25, 0.55);
}

constexpr const char* kRecipe = R"({"task": {"name": "listops-mini", "data": "nowhere"}, "train": {"steps": 40, "batch_size": 8}})";
constexpr const char* kEvaluation =
    R"({"split": "test", "score_name": "accuracy", "loss": 1.26, "accuracy": 0.5312, "n_samples": 32,
  "majority_class": 2, "majority_accuracy": 0.2187, "step": 40, "weights": "checkpoints/best/model.safetensors",
  "chosen_by": "step 40, chosen by accuracy 0.5500 on the val split",
  "by_length": [{"from": 4, "to": 9, "n_samples": 16, "accuracy": 0.75}, {"from": 10, "to": 24, "n_samples": 16, "accuracy": 0.3125}],
  "confusion": [[9, 1, 0], [2, 5, 3], [4, 5, 3]]})";
constexpr const char* kSummary =
    R"({"recipe": "listops-mini", "version": "0.1.0", "git": "0123006789ab", "device": "cpu, 2 threads",
  "data": {"name": "listops", "splits": {"test": 30, "train": 200, "val": 40}, "source": "made by flare", "licence": "MIT"},
  "parameters": 12300, "finished": true, "step": 40, "steps": 40, "seconds": 75.4, "score_name": "accuracy", "higher_is_better": true,
  "best": {"step": 40, "score": 0.55}})";

/// A PNG as far as its first bytes say.
std::string png(size_t n) { return "\x89PNG\r\n\x1a\n" + std::string(n, 'x'); }

}  // namespace

TEST_CASE("report: a classification run shows scores, cost, origin, curves, lengths and confusion") {
  const Folders folders;
  const std::string run = folders.run("mini", kRecipe, lra_metrics());
  put(run + "/eval-test.json", kEvaluation);
  put(run + "/summary.json", kSummary);
  const std::string page = folders.report(run), body = body_of(page);
  for (const std::string part : {"<h1>mini</h1>", "flare · listops-mini", "recipe listops-mini", "finished, step 40 of 40",
                                 "0.5312", "0.2187", "1:15", "12.3k", "3 MiB", "made by flare", "train 200, val 40, test 30",
                                 "cpu, 2 threads", "commit 0123006789ab", "chosen by accuracy 0.5500"})
    CHECK_MESSAGE(contains(body, part), part);
  CHECK(contains(body, "9 ms"));                    // the median of 8, 9, 10
  CHECK(contains(body, "888.9 <small>samples/s"));  // 8 samples in 9 ms
  CHECK(contains(body, "10–24"));                   // lengths
  CHECK(contains(body, "--share:0.90"));            // 9 of 10 of class 0
  CHECK(count_of(body, "<figure class=\"chart\"") == 6);
  CHECK(contains(body, "aria-label=\"loss, training 1.9 to 1.2; validation 1.4 to 1.25, best 1.25 at step 40\""));
  CHECK(contains(body, "aria-label=\"accuracy, training 0.344828 to") == false);  // four digits are enough to hear
  CHECK(contains(body, "validation 0.4 to 0.55, best 0.55 at step 40"));
  CHECK(contains(body, "optim.schedule.name"));
  // Nothing from elsewhere, and one script, named by its hash.
  for (const std::string part : {"http:", "https:", "src=\"/", "<link", "@import", "url("})
    CHECK_MESSAGE(!contains(page, part), part);
  CHECK(contains(page, "default-src 'none'"));
  CHECK(count_of(page, "<script>") == 1);
}

TEST_CASE("report: a run without evaluation, steps or metrics says so") {
  const Folders folders;
  const std::string half = folders.report(folders.run("half", kRecipe, train_line(10, 1.9)));
  CHECK(contains(half, "stopped or still running, step 10 of 40"));
  CHECK(contains(half, "Not evaluated yet"));
  CHECK(contains(half, "id=\"loss\""));
  const std::string empty = folders.run("empty", kRecipe);
  fs::remove(empty + "/metrics.jsonl");
  CHECK(contains(folders.report(empty), "Nothing was logged yet"));
}

TEST_CASE("report: damaged files are left out with a word, the rest is shown") {
  const Folders folders;
  const std::string broken = "{\"step\": 15, \"spl\n[1,2]\n{\"step\":\"x\",\"split\":\"train\"}\n\xff\xfe\n";
  const std::string run = folders.run("r", kRecipe,
                                      train_line(10, 1.9) + broken + R"({"step":20,"split":7,"loss":{"a":1},"accuracy":null})" +
                                          "\n" + train_line(30, 1.5) + "{\"step\":4");
  put(run + "/eval-test.json", "{]");
  put(run + "/eval-val.json",
      R"({"accuracy": "high", "confusion": [[1], [2, 3]], "by_length": [7], "errors": ["x"], "n_samples": {}})");
  put(run + "/summary.json", "[]");
  put(run + "/spectrum.json",
      R"({"layers": [{"block": "x", "heads": [{"head": 0, "eigenvalues": ["a"], "effective_rank": null}]}, 3]})");
  const std::string body = body_of(folders.report(run));
  CHECK(contains(body, "4 damaged lines of metrics.jsonl were left out"));
  CHECK(contains(body, "eval-test.json is not a JSON object"));
  CHECK(contains(body, "summary.json is not a JSON object"));
  CHECK(contains(body, "training 1.9 to 1.5"));
  data_error(
      [&] {
        put(run + "/config.json", "{");
        write_report(run);
      },
      "config.json: is damaged");
  CHECK_THROWS_AS(write_report(folders.path), ConfigError);
}

TEST_CASE("report: names cannot become markup") {
  const Folders folders;
  const std::string evil = R"(</script><script>alert(1)</script><img src=x onerror='alert(2)'>"&)";
  const std::string run =
      folders.run("<b>evil' onclick='x", Json({{"task", {{"name", evil}, {"data", evil}}}}).dump(), lra_metrics());
  Json evaluation = Json::parse(kEvaluation), summary = Json::parse(kSummary);
  evaluation["chosen_by"] = evaluation["score_name"] = evil;
  evaluation[evil] = 0.5;
  summary["recipe"] = summary["device"] = summary["score_name"] = summary["data"]["source"] = summary["data"]["name"] = evil;
  summary["data"]["splits"] = {{evil, evil}};
  put(run + "/eval-test.json", evaluation.dump());
  put(run + "/summary.json", summary.dump());
  put(run + "/spectrum.json",
      Json({{"weights", evil}, {"split", evil}, {"layers", {{{"heads", {{{"eigenvalues", {1, 0.5}}}}}}}}}).dump());
  put(run + "/metrics.jsonl", Json({{"step", 1}, {"split", "train"}, {"loss", 1}, {evil, 2}}).dump() + "\n");
  folders.report(run);
  const std::string several = folders.path + "/several.html", plain = folders.run("plain", kRecipe, lra_metrics());
  write_report({run, plain}, several);
  for (const std::string& page : {read_file(run + "/report.html"), read_file(several)}) {
    CHECK(count_of(page, "<script>") == 1);
    for (const std::string part : {"<script>alert", "<img src=x", "<b>evil"}) CHECK_MESSAGE(!contains(page, part), part);
    CHECK(!contains(body_of(page), "onclick='x"));
    CHECK(contains(page, "&lt;b&gt;evil&#39; onclick=&#39;x"));
  }
  CHECK(contains(read_file(run + "/report.html"), "&lt;/script&gt;&lt;script&gt;alert(1)"));
  CHECK(html_escape("a\x01\xff\xe2\x82z\xe2\x82\xac") == "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbdz\xe2\x82\xac");
}

TEST_CASE("report: a field run embeds its panels, with the errors in words, as far as there is room") {
  const Folders folders;
  const std::string recipe = R"({"task": {"name": "darcy", "data": "nowhere"}, "train": {"steps": 20}})";
  const std::string run = folders.run("darcy", recipe,
                                      train_line(10, 0.9, "relative_l2") + train_line(20, 0.4, "relative_l2") +
                                          val_line(10, 0.6, 0.55, "relative_l2") + val_line(20, 0.5, 0.45, "relative_l2"));
  put(run + "/eval-test.json", R"({"score_name": "relative_l2", "loss": 0.5, "relative_l2": 0.4321, "n_samples": 5,
    "best": {"sample": 3, "relative_l2": 0.0123456}, "median": {"sample": 1, "relative_l2": 0.4}, "worst": {"sample": 4, "relative_l2": 0.9},
    "errors": [0.0123456, 0.3, 0.4, 0.5, 0.9]})");
  put(run + "/panels/test-best.png", png(1000));
  put(run + "/panels/test-worst.png", png(1'300'000));
  put(run + "/panels/val-best.png", png(1'300'000));
  put(run + "/panels/val-worst.png", "no picture");
  put(run + "/panels/other.png", png(10));
  const std::string page = folders.report(run), body = body_of(page);
  CHECK(count_of(page, "data:image/png;base64,iVBORw0KGgp4eHh4") == 2);
  CHECK(contains(body, "alt=\"Field, prediction and error: test split, best sample: number 3, relative L2 0.01235\""));
  CHECK(contains(body, "test split, worst sample: number 4, relative L2 0.9"));
  CHECK(contains(body, "is no PNG: panels/val-best.png panels/val-worst.png<"));
  CHECK(contains(body, "histogram of the relative L2 of 5 samples of the test split: 0.01235 to 0.9, median 0.4"));
  CHECK(contains(body, "<th scope=\"row\">75 %</th><td class=\"n\">0.5</td>"));
  CHECK(contains(body, "best 0.45 at step 20"));  // lower is better here
  CHECK(base64("") == "");
  CHECK(base64("f") == "Zg==");
  CHECK(base64("fo") == "Zm8=");
  CHECK(base64("foo") == "Zm9v");
  CHECK(base64("\xff\xfe\xfd\xfc") == "//79/A==");
}

TEST_CASE("report: spectra are drawn per block, with the effective ranks") {
  const Folders folders;
  const std::string run = folders.run("s", kRecipe, lra_metrics());
  put(run + "/spectrum.json", R"({"weights": "checkpoints/best/ema.safetensors", "split": "test", "samples": 4, "layers": [
    {"block": 0, "heads": [{"head": 0, "eigenvalues": [1, 0.5, 0.01, 0], "effective_rank": 2.25},
                           {"head": 1, "eigenvalues": [1, 0.1], "effective_rank": 1.5}]},
    {"block": 1, "heads": [{"head": 0, "eigenvalues": [1], "effective_rank": 1}]}]})");
  const std::string body = body_of(folders.report(run));
  CHECK(contains(body, "4 samples of the test split, weights checkpoints/best/ema.safetensors"));
  CHECK(contains(body, "aria-label=\"eigenvalues, block 0, head 0 1 to 0.01; head 1 1 to 0.1\""));
  CHECK(contains(body, "<tr><th scope=\"row\">0</th><td class=\"n\">2.25</td><td class=\"n\">1.5</td></tr>"));
  CHECK(contains(body, "<tr><th scope=\"row\">1</th><td class=\"n\">1</td><td class=\"n\"></td></tr>"));
  // Many and long: still a small page.
  Json layers = Json::array();
  for (int b = 0; b < 40; ++b) {
    Json heads = Json::array();
    for (int h = 0; h < 70; ++h)
      heads.push_back({{"head", h}, {"eigenvalues", std::vector<double>(300, 0.123006)}, {"effective_rank", h}});
    layers.push_back({{"block", b}, {"heads", heads}});
  }
  put(run + "/spectrum.json", Json({{"layers", layers}}).dump());
  CHECK(contains(body_of(folders.report(run)), "The first 24 of 40 blocks"));
}

TEST_CASE("report: 100 000 lines of metrics, pictures and 64 runs stay below 2 MB") {
  const Folders folders;
  std::string metrics;
  for (int64_t step = 1; step <= 100000; ++step) {
    metrics += train_line(step, 1 + 1.0 / static_cast<double>(step) + 0.123006 * std::sin(static_cast<double>(step)));
    if (step % 100 == 0) metrics += val_line(step, 1.0987654 + 1.0 / static_cast<double>(step), 0.54321);
  }
  const std::string run = folders.run("long", kRecipe, metrics);
  for (const char* split : {"test", "val", "train"})
    for (const char* which : {"best", "median", "worst"}) put(cat(run, "/panels/", split, "-", which, ".png"), png(300'000));
  const std::string page = folders.report(run);
  CHECK(count_of(page, "data:image/png") >= 3);
  CHECK(contains(page, "would grow too large"));

  std::vector<std::string> runs;
  std::string shorter = metrics.substr(0, metrics.find("{\"step\":2000,"));
  for (int i = 0; i < 64; ++i) runs.push_back(folders.run(cat("run-with-a-rather-long-name-", i), kRecipe, shorter));
  write_report(runs, folders.path + "/all.html");
  CHECK(fs::file_size(folders.path + "/all.html") < kMostBytes);
  runs.push_back(run);
  CHECK_THROWS_AS(write_report(runs, folders.path + "/all.html"), ConfigError);
}

TEST_CASE("report: several runs share charts and are compared key by key") {
  const Folders folders;
  const std::string a = folders.run("a", kRecipe, lra_metrics());
  fs::create_directories(folders.path + "/other");
  const std::string b = folders.run("other/a", R"({"task": {"name": "listops-mini", "data": "nowhere"}, "optim": {"lr": 0.25},
    "train": {"steps": 40, "batch_size": 8}, "seed": 3})",
                                    val_line(20, 1.1, 0.61) + val_line(40, 1.2, 0.6));
  put(a + "/eval-test.json", kEvaluation);
  put(a + "/summary.json", kSummary);
  write_report({a, b + "/"}, folders.path + "/both.html");
  const std::string body = body_of(read_file(folders.path + "/both.html"));
  CHECK(contains(body, "Comparison of 2 runs"));
  CHECK(contains(body, "aria-label=\"validation accuracy, " + a + " 0.4 to 0.55, best 0.55 at step 40; " + b +
                           " 0.61 to 0.6, best 0.61 at "
                           "step 20\""));
  CHECK(contains(body, "class=\"s0 d0\""));
  CHECK(contains(body, "class=\"s1 d1\""));
  CHECK(contains(body, "<th scope=\"row\">optim.lr</th>"));
  CHECK(contains(body, "<th scope=\"row\">seed</th>"));
  CHECK(!contains(body, "<th scope=\"row\">train.steps</th>"));
  CHECK(contains(body, "always class 2"));

  const std::vector<RunRecord> runs = {load_run(a), load_run(b)};
  const Json json = comparison_json(runs);
  CHECK(json["runs"][0]["split"] == "test");
  CHECK(json["runs"][0]["score"] == 0.5312);
  CHECK(json["runs"][0]["parameters"] == 12300);
  CHECK(json["runs"][0]["peak_bytes"] == 3 << 20);
  CHECK(json["runs"][1]["split"] == "val");
  CHECK(json["runs"][1]["score"] == 0.61);
  CHECK(json["runs"][1]["loss"] == 1.1);
  CHECK(json["runs"][1]["best_step"] == 20);
  CHECK(json["runs"][1]["parameters"].is_null());
  CHECK(json["differences"].size() == 2);
  CHECK(json["differences"]["seed"] == Json({0, 3}));
}

TEST_CASE("charts: curves without finite points draw nothing, one point is a dot, text is escaped") {
  CHECK(html_chart({"c", "t", "", "step", {{"a", {}, false}}}) == "");
  CHECK(html_chart({"c", "t", "", "step", {{"a", {{0, -1}, {1, NAN}}, false}}, true}) == "");
  const std::string chart = html_chart({"c", "a<b", "", "step", {{"train", {{0, 1}, {1, 2}, {2, INFINITY}}, false}}});
  CHECK(contains(chart, "a&lt;b"));
  CHECK(contains(chart, "train 1 to 2"));
  CHECK(!contains(chart, "inf"));
  CHECK(!contains(chart, "nan"));
  CHECK(contains(html_chart({"c", "one", "", "step", {{"x", {{5, 1}}, true}}}), "h0\""));
  CHECK(html_histogram("h", {0, 0}, {3}, "") == "");
  // A curve keeps its colour and dashes where another has no points.
  const std::string second = html_chart({"c", "t", "", "step", {{"a", {}, false}, {"b", {{0, 1}}, false}}});
  CHECK(contains(second, "<g class=\"s1 d1\">"));
  CHECK(!contains(second, "s0 d0"));
}

TEST_CASE("charts: thinning keeps the ends and every peak that was logged") {
  std::vector<std::pair<double, double>> points;
  for (int i = 0; i < 10000; ++i) points.emplace_back(i, i == 5001 ? 9.0 : i == 7003 ? -9.0 : std::sin(i));
  const auto kept = thinned(points, 100);
  CHECK(kept.size() <= 100);
  CHECK(kept.front() == points.front());
  CHECK(kept.back() == points.back());
  for (const auto& p : {points[5001], points[7003]}) CHECK(std::find(kept.begin(), kept.end(), p) != kept.end());
  CHECK(std::is_sorted(kept.begin(), kept.end(), [](const auto& a, const auto& b) { return a.first < b.first; }));
  for (const auto& p : kept) CHECK(points[static_cast<size_t>(p.first)] == p);
  CHECK(thinned(points, 10000) == points);
}

TEST_CASE("charts: ticks are round and inside, on both kinds of axis") {
  CHECK(axis_ticks(0, 100, false) == std::vector<double>{0, 20, 40, 60, 80, 100});
  CHECK(axis_ticks(0.5, 200, true) == std::vector<double>{1, 10, 100});
  const std::vector<double> decade = axis_ticks(0.9, 6, true);
  REQUIRE(decade.size() == 3);
  CHECK(decade[1] == 2);
  CHECK(axis_ticks(1e-12, 1e12, true).size() <= 7);
  CHECK(axis_ticks(1.90, 2.05, true).size() >= 3);  // between powers: as on a linear axis
  for (const auto& [lo, hi] : {std::pair{1e-9, 1.1e-9}, std::pair{-3.0, 5e7}, std::pair{1.0, 1.0 + 1e-9}})
    for (const double t : axis_ticks(lo, hi, false)) CHECK((t >= lo - 1e-9 * (hi - lo) && t <= hi + 1e-9 * (hi - lo)));
  CHECK(short_number(20000) == "20k");
  CHECK(short_number(5e-4) == "5e-4");
  CHECK(short_number(1.5e-7) == "1.5e-7");
  CHECK(short_number(0) == "0");
  CHECK(short_number(-1.25) == "-1.25");
  CHECK(short_number(3.25e6) == "3.25M");
  CHECK(short_number(NAN) == "–");
}

TEST_CASE("tables: columns are aligned, control characters do not reach the terminal") {
  const Table table{"t", {"run", "loss"}, {{"a", "1.5"}, {"né\x1b[2J", "12.25"}}, 1};
  CHECK(text_table(table) == "run      loss\na         1.5\nné?[2J  12.25\n");
}
