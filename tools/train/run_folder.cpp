#include "tools/train/run_folder.h"

#include <cerrno>
#include <cstring>
#include <filesystem>

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include "core/file.h"

namespace fs = std::filesystem;

namespace flare {

std::string seed_folder(const std::string& run, uint64_t seed) { return cat(run, "-seed", seed); }

bool is_run_folder(const std::string& path) { return file_exists(path + "/config.json"); }

RunFolder::RunFolder(const std::string& path) : path_(path) {
  make_directories(path);
  const std::string lock_path = file("lock");
  lock_ = open(lock_path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  check<DataError>(lock_ >= 0, lock_path, ": cannot be created: ", std::strerror(errno));
  if (flock(lock_, LOCK_EX | LOCK_NB) != 0) {
    // Some network file systems have no locks; there the user's care must do.
    const bool is_taken = errno == EWOULDBLOCK;
    close(lock_);
    lock_ = -1;
    check<ConfigError>(!is_taken, path, ": another process is training in this run folder; wait for it or choose another --run");
  }
}

RunFolder::~RunFolder() {
  if (lock_ >= 0) close(lock_);
}

RunFolder RunFolder::create(const std::string& path, const Recipe& recipe) {
  check<ConfigError>(!is_run_folder(path) && !file_exists(path + "/metrics.jsonl"), path,
                     ": already holds a run; add --resume to continue it, or choose another folder with --run");
  check<ConfigError>(!file_exists(path), path, ": is a file, not a folder; choose another folder with --run");
  RunFolder run(path);
  write_file_atomically(run.file("config.json"), recipe_json(recipe).dump(2) + "\n");
  return run;
}

RunFolder RunFolder::resume(const std::string& path, const Recipe& recipe) {
  if (!is_run_folder(path)) return create(path, recipe);
  const std::string config = path + "/config.json";
  const std::string difference = first_difference(parse_recipe(read_file(config), config), recipe);
  check<ConfigError>(difference.empty(), "--resume: ", config, " is of another configuration: ", difference,
                     "; give the same settings, or choose another folder with --run");
  return RunFolder(path);
}

void RunFolder::append_metrics(const Json& line) const {
  const std::string path = file("metrics.jsonl");
  const std::string text = line.dump() + "\n";
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  check<DataError>(fd >= 0, path, ": cannot be opened: ", std::strerror(errno));
  const ssize_t written = write(fd, text.data(), text.size());
  const int error = written < 0 ? errno : ENOSPC;
  close(fd);
  check<DataError>(written == static_cast<ssize_t>(text.size()), path, ": cannot be written: ", std::strerror(error));
}

void RunFolder::truncate_metrics(int64_t step, bool keep_evaluation) const {
  std::string text;
  for (const Json& line : read_metrics(path_)) {
    const int64_t at = line.value("step", int64_t{0});
    const std::string split = line.value("split", "");
    if (split == "test") continue;  // written after the last step, and again by the run that resumes
    if (at < step || (at == step && (keep_evaluation || split == "train"))) text += line.dump() + "\n";
  }
  write_file_atomically(file("metrics.jsonl"), text);
}

void RunFolder::save_checkpoint(const std::string& name, const CheckpointFiles& files) const {
  const std::string final_dir = file("checkpoints/" + name), temporary = file("checkpoints/" + name + ".writing");
  make_directories(file("checkpoints"));
  recover_directory(final_dir);
  std::error_code ignored;
  fs::remove_all(temporary, ignored);  // left by a kill
  try {
    make_directories(temporary);
    write_safetensors(temporary + "/model.safetensors", files.model, files.metadata);
    if (!files.ema.empty()) write_safetensors(temporary + "/ema.safetensors", files.ema, files.metadata);
    if (!files.trainer.empty()) write_safetensors(temporary + "/trainer.safetensors", files.trainer, files.metadata);
    replace_directory(temporary, final_dir);
  } catch (const DataError& error) {
    fs::remove_all(temporary, ignored);
    throw DataError(cat(error.what(), "; the checkpoint before it is intact, --resume continues from there"));
  }
}

std::optional<CheckpointFiles> RunFolder::load_checkpoint(const std::string& name) const {
  const std::string folder = file("checkpoints/" + name);
  recover_directory(folder);
  if (!directory_exists(folder)) return std::nullopt;
  CheckpointFiles files;
  SafeTensors model = read_safetensors(folder + "/model.safetensors");
  files.model = std::move(model.tensors);
  files.metadata = std::move(model.metadata);
  if (file_exists(folder + "/ema.safetensors")) files.ema = read_safetensors(folder + "/ema.safetensors").tensors;
  if (file_exists(folder + "/trainer.safetensors")) files.trainer = read_safetensors(folder + "/trainer.safetensors").tensors;
  return files;
}

Recipe recipe_of(const std::string& run_or_recipe, const std::vector<std::string>& assignments) {
  if (directory_exists(run_or_recipe)) {
    check<ConfigError>(is_run_folder(run_or_recipe), run_or_recipe, ": is not a run folder (no config.json)");
    return read_recipe(run_or_recipe + "/config.json", assignments);
  }
  check<ConfigError>(file_exists(run_or_recipe), run_or_recipe, ": neither a run folder nor a recipe file");
  return read_recipe(run_or_recipe, assignments);
}

std::string weights_of_run(const std::string& run) {
  for (const char* name : {"best", "last"}) {
    const std::string folder = run + "/checkpoints/" + name;
    recover_directory(folder);
    for (const char* file : {"/ema.safetensors", "/model.safetensors"})
      if (file_exists(folder + file)) return folder + file;
  }
  throw DataError(cat(run, ": has no checkpoint yet; train first, or give --weights"));
}

std::vector<Json> read_metrics(const std::string& run) {
  std::vector<Json> lines;
  const std::string path = run + "/metrics.jsonl";
  if (!file_exists(path)) return lines;
  const std::string text = read_file(path);
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;
    Json line = Json::parse(text.begin() + static_cast<std::ptrdiff_t>(begin), text.begin() + static_cast<std::ptrdiff_t>(end),
                            nullptr, false);
    if (!line.is_object()) break;
    lines.push_back(std::move(line));
    begin = end + 1;
  }
  return lines;
}

}  // namespace flare
