#include <cerrno>
#include <csignal>
#include <filesystem>

#include <unistd.h>

#include "core/file.h"
#include "core/job.h"
#include "datasets/format.h"
#include "datasets/prepared.h"

namespace flare {
namespace {

namespace fs = std::filesystem;

/// Absolute path without a trailing slash, symbolic links resolved, so that the rename replaces the folder and not a link to it.
fs::path resolved(const std::string& out_dir) {
  check<ConfigError>(!out_dir.empty(), "the output folder has no name");
  std::error_code error;
  fs::path path = fs::weakly_canonical(fs::absolute(out_dir, error), error);
  check<ConfigError>(!error, out_dir, ": ", error.message());
  if (!path.has_filename()) path = path.parent_path();
  check<ConfigError>(path.has_filename(), out_dir, ": cannot be an output folder");
  return path;
}

/// Only an absent or empty folder, or a prepared data set without foreign files, may be replaced.
void check_target(const fs::path& dir) {
  std::error_code error;
  if (!fs::exists(dir, error)) return;
  check<ConfigError>(fs::is_directory(dir, error), dir.string(), ": is a file, not a folder; choose another output folder");
  if (fs::is_empty(dir, error) && !error) return;
  check<ConfigError>(!error, dir.string(), ": ", error.message());
  check<ConfigError>(is_prepared_folder(dir.string()), dir.string(),
                     ": is not empty and not a prepared data set, so it is left alone; choose another output folder");
  DatasetInfo info;
  std::map<std::string, FileRecord> files;
  read_dataset_json((dir / "dataset.json").string(), info, files);
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    check<ConfigError>(name == "dataset.json" || files.contains(name), dir.string(), ": holds ", quoted(name),
                       ", which is no part of the data set there, so it is left alone; move it or choose another output folder");
  }
}

/// Removes temporary folders of writers that were killed.
void remove_abandoned(const fs::path& parent, const std::string& prefix) {
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(parent, error)) {
    const std::string name = entry.path().filename().string();
    if (!name.starts_with(prefix)) continue;
    const long pid = std::strtol(name.c_str() + prefix.size(), nullptr, 10);
    if (pid > 0 && kill(static_cast<pid_t>(pid), 0) != 0 && errno == ESRCH) fs::remove_all(entry.path(), error);
  }
}

}  // namespace

PreparedWriter::PreparedWriter(const std::string& out_dir, DatasetInfo info) : info_(std::move(info)) {
  const fs::path target = resolved(out_dir);
  recover_directory(target.string());
  check_target(target);
  out_dir_ = target.string();
  make_directories(target.parent_path().string());
  const std::string prefix = cat(".", target.filename().string(), ".partial-");
  remove_abandoned(target.parent_path(), prefix);
  static int n_writers = 0;  // two writers of one process never share a folder
  temporary_ = (target.parent_path() / cat(prefix, getpid(), "-", n_writers++)).string();
  std::error_code error;
  fs::remove_all(temporary_, error);
  make_directories(temporary_);
}

PreparedWriter::~PreparedWriter() {
  std::error_code error;
  if (!temporary_.empty()) fs::remove_all(temporary_, error);
}

void PreparedWriter::add_field(const std::string& split, FieldInfo field, int64_t count) {
  check_name("split", split);
  check_name("field", field.name);
  check<ConfigError>(!field.name.ends_with("_offsets"), "field name ", field.name, ": names ending in _offsets are taken");
  check<ConfigError>(written_.insert({split, field.name}).second, "field ", field.name, " of split ", split, " was written twice");
  const auto [place, is_new_split] = info_.splits.insert({split, count});
  check<ConfigError>(is_new_split || place->second == count, "field ", field.name, " of split ", split, " has ", count,
                     " samples, the others have ", place->second);
  for (const FieldInfo& f : info_.fields) {
    if (f.name != field.name) continue;
    check<ConfigError>(f.dtype == field.dtype && f.shape == field.shape && f.ragged == field.ragged, "field ", field.name,
                       " of split ", split, " is ", field.dtype, " ", field.shape, ", but ", f.dtype, " ", f.shape,
                       " in another split");
    return;
  }
  info_.fields.push_back(std::move(field));
}

void PreparedWriter::write(const std::string& file, const Tensor& values) {
  check<ConfigError>(values.dtype() != DType::bf16, file, ": bf16 has no place in a .npy file; store f32");
  write_npy(temporary_ + "/" + file, values);
  files_.push_back(file);
}

void PreparedWriter::add(const std::string& split, const std::string& field, const Tensor& values) {
  check<ConfigError>(values.ndim() >= 1, "field ", field, ": values need a first axis of samples");
  add_field(split, {field, values.dtype(), values.shape().without(0), false}, values.size(0));
  write(values_file_name(split, field), values);
}

void PreparedWriter::add_ragged(const std::string& split, const std::string& field, const Tensor& values, const Tensor& offsets) {
  check<ConfigError>(values.ndim() >= 1 && offsets.ndim() == 1 && offsets.numel() >= 1 && offsets.dtype() == DType::i64, "field ",
                     field, ": needs values [total, ...] and offsets i64 [n+1], got ", values.shape(), " and ", offsets.dtype(),
                     " ", offsets.shape());
  add_field(split, {field, values.dtype(), values.shape().without(0), true}, offsets.numel() - 1);
  write(values_file_name(split, field), values);
  write(offsets_file_name(split, field), offsets);
}

void PreparedWriter::commit() {
  for (const auto& [split, count] : info_.splits)
    for (const FieldInfo& f : info_.fields)
      check<ConfigError>(written_.contains({split, f.name}), "split ", split, " has no field ", f.name, ", but another split does");
  std::map<std::string, FileRecord> files;
  int64_t n_bytes = 0;
  for (const std::string& file : files_)
    n_bytes += files[file].bytes = static_cast<int64_t>(fs::file_size(temporary_ + "/" + file));
  {
    Job job("checksums", n_bytes, "bytes");
    for (auto& [file, record] : files) record.sha256 = sha256_of_file(temporary_ + "/" + file, job);
  }
  write_dataset_json(temporary_ + "/dataset.json", info_, files);
  const PreparedFolder reread(temporary_);  // what is wrong must show here, not when someone trains
  check_target(out_dir_);
  replace_directory(temporary_, out_dir_);
  temporary_.clear();
}

}  // namespace flare
