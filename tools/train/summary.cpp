/// summary.json of a run: facts for people and for `flare compare`. Training reads back the wall time alone.
#include "tools/train/summary.h"

#include "core/file.h"
#include "tools/train/trainer.h"
#include "tools/train/version.h"

namespace flare {
namespace {

/// {} when there is none; a damaged one is replaced by the next.
Json read_summary(const std::string& run) {
  const std::string path = run + "/summary.json";
  if (!file_exists(path)) return Json::object();
  Json summary = Json::parse(read_file(path), nullptr, false);
  return summary.is_object() ? summary : Json::object();
}

}  // namespace

double recorded_seconds(const std::string& run) {
  const Json summary = read_summary(run);
  const auto seconds = summary.find("seconds");
  return seconds != summary.end() && seconds->is_number() ? seconds->get<double>() : 0;
}

void Trainer::write_summary(bool finished) const {
  std::string name = recipe_name_;
  if (name.empty()) {  // resumed from the run folder
    const Json before = read_summary(run_->path());
    const auto recipe = before.find("recipe");
    if (recipe != before.end() && recipe->is_string()) name = recipe->get<std::string>();
  }
  const DatasetInfo& data = folder_.info();
  Json splits = Json::object();
  for (const auto& [split, count] : data.splits) splits[split] = count;
  const double seconds = seconds_before_ + std::chrono::duration<double>(std::chrono::steady_clock::now() - started_).count();
  Json best = nullptr;
  if (best_step_ >= 0) best = {{"step", best_step_}, {"score", best_}};
  const Json summary = {
      {"recipe", name},
      {"version", recipe_.version},
      {"git", git_version()},
      {"device", device_text()},
      {"data", {{"name", data.name}, {"kind", data.kind}, {"splits", splits}, {"source", data.source}, {"licence", data.licence}}},
      {"parameters", count_elements(task_->parameters())},
      {"finished", finished},
      {"step", step_},
      {"steps", recipe_.train.steps},
      {"seconds", seconds},
      {"score_name", task_->score_name()},
      {"higher_is_better", task_->higher_is_better()},
      {"best", best}};
  write_file_atomically(run_->file("summary.json"), summary.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace flare
