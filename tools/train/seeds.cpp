#include "tools/train/seeds.h"

#include <cmath>
#include <cstdio>
#include <filesystem>
#include <limits>

#include <unistd.h>

#include <fmt/format.h>

#include "core/file.h"
#include "core/log.h"
#include "core/text_table.h"

namespace flare {
namespace {

struct SeedRun {
  uint64_t seed = 0;
  std::string folder;
  bool is_kept = false;
  Json result;        // the evaluation of the test split, or null
  std::string error;  // of a run that failed
  int exit_code = 0;  // of it
};

/// The evaluation of a run that was trained to its last step and tested, else null.
Json finished_result(const std::string& folder, const Recipe& recipe) {
  bool is_tested = false;
  for (const Json& line : read_metrics(folder))
    is_tested = is_tested || (line.value("split", "") == "test" && line.value("step", int64_t{-1}) == recipe.train.steps);
  const std::string path = folder + "/eval-test.json";
  if (!is_tested || !file_exists(path)) return nullptr;
  Json result = Json::parse(read_file(path), nullptr, false);
  return result.is_object() && result.contains(result.value("score_name", "")) ? result : Json(nullptr);
}

/// Which runs there are already; ConfigError for one that must not be touched, before anything is trained.
std::vector<SeedRun> survey(const TrainOptions& options, int64_t n) {
  std::vector<SeedRun> runs;
  for (int64_t i = 0; i < n; ++i) {
    SeedRun run;
    run.seed = options.recipe.seed + static_cast<uint64_t>(i);
    run.folder = seed_folder(options.run, run.seed);
    if (is_run_folder(run.folder)) {
      Recipe recipe = options.recipe;
      recipe.seed = run.seed;
      const std::string config = run.folder + "/config.json";
      const std::string difference = first_difference(parse_recipe(read_file(config), config), recipe);
      check<ConfigError>(difference.empty(), "--seeds: ", config, " is of another configuration: ", difference,
                         "; give the same settings, or choose another folder with --run");
      run.result = finished_result(run.folder, recipe);
      run.is_kept = !run.result.is_null();
      check<ConfigError>(run.is_kept || options.resume, run.folder,
                         ": holds an unfinished run; add --resume to continue it, or choose another folder with --run");
    }
    runs.push_back(std::move(run));
  }
  return runs;
}

std::string json_text(const Json& json, int indent) { return json.dump(indent, ' ', false, Json::error_handler_t::replace) + "\n"; }

Json summarise(const TrainOptions& options, const std::vector<SeedRun>& runs) {
  Json summary = {{"run", options.run}, {"complete", true}, {"split", "test"}, {"score_name", nullptr}, {"n", 0},
                  {"mean", nullptr},    {"std", nullptr}};
  std::vector<double> scores;
  Json rows = Json::array();
  for (const SeedRun& run : runs) {
    Json row = {{"seed", run.seed}, {"run", run.folder}};
    if (!run.result.is_null()) {
      const std::string name = run.result.value("score_name", "accuracy");
      summary["score_name"] = name;
      scores.push_back(run.result[name].get<double>());
      row["status"] = "finished";
      for (const std::string& key :
           {name, std::string("loss"), std::string("n_samples"), std::string("step"), std::string("chosen_by")})
        if (run.result.contains(key)) row[key] = run.result[key];
      for (const char* key : {"majority_class", "majority_accuracy"})
        if (run.result.contains(key)) summary[key] = run.result[key];
    } else {
      summary["complete"] = false;
      row["status"] = run.error.empty() ? "unfinished" : "failed";
      if (!run.error.empty()) row.update({{"exit_code", run.exit_code}, {"error", run.error}});
    }
    rows.push_back(std::move(row));
  }
  const MeanDeviation of = mean_deviation(scores);
  summary["n"] = scores.size();
  if (!scores.empty()) summary["mean"] = of.mean;
  if (scores.size() > 1) summary["std"] = of.deviation;
  summary["runs"] = std::move(rows);
  return summary;
}

std::string number(const Json& object, const std::string& key) {
  const auto value = object.find(key);
  if (value == object.end() || !value->is_number()) return "-";
  const double x = value->get<double>();
  return std::abs(x) >= 0.1 || x == 0 ? fmt::format("{:.4f}", x) : fmt::format("{:.4g}", x);
}

std::string table_of(const Json& summary, const std::string& path) {
  const std::string score = summary["score_name"].is_string() ? summary["score_name"].get<std::string>() : "score";
  TextTable table("lrrl");
  table.row({"seed", cat("test ", score), "loss", "weights"});
  for (const Json& row : summary["runs"])
    table.row({row["seed"].dump(), number(row, score), number(row, "loss"),
               row["status"] == "finished" ? row.value("chosen_by", "")
               : row["status"] == "failed" ? cat("failed: ", row.value("error", ""))
                                           : "not finished"});
  table.row({"mean", number(summary, "mean"), "", fmt::format("of {} finished runs", summary["n"].get<int64_t>())});
  table.row({"std", number(summary, "std"), "", "over n - 1"});
  if (summary.contains("majority_accuracy"))
    table.row({"majority", number(summary, "majority_accuracy"), "",
               fmt::format("always answering class {}, the most frequent in train", summary["majority_class"].get<int64_t>())});
  return table.text(page_width(STDOUT_FILENO)) + fmt::format("summary  {}\n", path);
}

}  // namespace

MeanDeviation mean_deviation(const std::vector<double>& values) {
  const double n = static_cast<double>(values.size());
  MeanDeviation of;
  for (const double x : values) of.mean += x / n;
  for (const double x : values) of.deviation += (x - of.mean) * (x - of.mean) / (n - 1);
  of.deviation = values.size() < 2 ? std::numeric_limits<double>::quiet_NaN() : std::sqrt(of.deviation);
  return of;
}

int train_seeds(const TrainOptions& options, int64_t n) {
  check<ConfigError>(n >= 2, "--seeds ", n, ": at least 2 are needed; use --seed for a single run");
  check<ConfigError>(options.recipe.seed <= std::numeric_limits<uint64_t>::max() - static_cast<uint64_t>(n), "--seeds: seed ",
                     options.recipe.seed, " leaves no room for ", n, " seeds");
  const PreparedFolder folder = open_data(options.recipe);
  check<DataError>(folder.has_split("test") && folder.count("test") > 0, folder.path(),
                   ": has no test split, whose scores --seeds sums up");
  std::vector<SeedRun> runs = survey(options, n);
  const std::string path = options.run + "-seeds.json";
  const auto write_summary = [&] {
    const std::filesystem::path parent = std::filesystem::path(path).parent_path();
    if (!parent.empty()) make_directories(parent.string());
    write_file_atomically(path, json_text(summarise(options, runs), 2));
  };
  int exit_code = 0;
  for (SeedRun& run : runs) {
    if (run.is_kept) {
      if (!options.quiet && !options.dry_run) log_info(run.folder, ": finished, kept");
      continue;
    }
    TrainOptions one = options;
    one.run = run.folder;
    one.recipe.seed = run.seed;
    try {
      const TrainOutcome outcome = run_training(one);
      set_log_file("");
      if (options.dry_run) return 0;  // the others differ in seed and folder alone
      exit_code = outcome.exit_code;
      if (outcome.summary.contains("test")) run.result = outcome.summary["test"];
    } catch (const Error& error) {
      run.error = error.what();
      run.exit_code = error.exit_code();
    } catch (const std::exception& error) {
      run.error = error.what();
      run.exit_code = 4;
    }
    set_log_file("");
    if (options.dry_run) throw Error(run.exit_code, run.error);
    write_summary();
    if (exit_code != 0) break;  // interrupted
    if (!run.error.empty()) log_error("seed ", run.seed, ": ", run.error);
    if (!options.quiet && !run.result.is_null()) {
      const std::string score = run.result.value("score_name", "accuracy");
      log_info("seed ", run.seed, ": test ", score, " ", number(run.result, score));
    }
  }
  if (options.dry_run) return 0;
  write_summary();
  const Json summary = summarise(options, runs);
  std::printf("%s", options.json ? json_text(summary, -1).c_str() : table_of(summary, path).c_str());
  if (exit_code != 0) {
    log_info("interrupted; continue with --seeds ", n, " --resume");
    return exit_code;
  }
  for (const SeedRun& run : runs)
    if (!run.error.empty())
      throw Error(run.exit_code, cat("seed ", run.seed, " failed: ", run.error, "; the runs of ", summary["n"].get<int64_t>(),
                                     " of ", n, " seeds are finished, --resume tries the others again"));
  return 0;
}

}  // namespace flare
