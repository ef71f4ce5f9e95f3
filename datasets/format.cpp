#include "datasets/format.h"

#include <algorithm>
#include <optional>

#include <nlohmann/json.hpp>

#include "core/file.h"

namespace flare {
namespace {

using json = nlohmann::ordered_json;

constexpr const char* kFormat = "flare-prepared";
constexpr int64_t kFormatVersion = 1;

bool is_fit_name(const std::string& name) {
  return !name.empty() &&
         std::all_of(name.begin(), name.end(), [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_'; });
}

std::optional<DType> stored_dtype(const std::string& name) {
  for (DType t : {DType::f64, DType::f32, DType::i64, DType::i32, DType::u8})
    if (name == name_of(t)) return t;
  return std::nullopt;
}

FieldInfo field_from(const json& j, const std::string& path) {
  FieldInfo f;
  f.name = j.at("name").get<std::string>();
  check<DataError>(is_fit_name(f.name) && !f.name.ends_with("_offsets"), path, ": ", quoted(f.name), " is no name for a field");
  const std::string dtype = j.at("dtype").get<std::string>();
  const std::optional<DType> known = stored_dtype(dtype);
  check<DataError>(known.has_value(), path, ": field ", f.name, " has the unknown dtype ", quoted(dtype));
  f.dtype = *known;
  f.ragged = j.at("ragged").get<bool>();
  const auto shape = j.at("shape").get<std::vector<int64_t>>();
  check<DataError>(shape.size() < static_cast<size_t>(kMaxDims), path, ": field ", f.name, " has ", shape.size(), " axes, at most ",
                   kMaxDims - 1, " are allowed");
  for (int64_t d : shape) {
    check<DataError>(d > 0, path, ": field ", f.name, " has the extent ", d);
    f.shape.push_back(d);
  }
  if (is_token_field(f.name) || f.name == "labels")
    check<DataError>(!is_float(f.dtype), path, ": field ", f.name, " must hold integers, not ", f.dtype);
  if (f.name == "labels") check<DataError>(!f.ragged && f.shape.ndim() == 0, path, ": field labels must hold one integer a sample");
  return f;
}

/// What is stated of y must fit its channels.
void check_outputs(const DatasetInfo& info, const std::string& path) {
  int64_t channels = 0;
  for (const FieldInfo& f : info.fields)
    if (f.name == "y" && f.shape.ndim() > 0) channels = f.shape[-1];
  check<DataError>(info.times == 1 || (channels > 0 && channels % info.times == 0), path, ": times is ", info.times,
                   ", which does not divide the ", channels, " channels of y");
  const Normalisation& w = info.warp;
  const auto fits = [&](size_t n) { return n == 1 || static_cast<int64_t>(n) == channels; };
  check<DataError>((w.mean.empty() && w.std.empty()) || (channels > 0 && fits(w.mean.size()) && fits(w.std.size())), path,
                   ": warp has ", w.mean.size(), " means and ", w.std.size(), " deviations for the ", channels, " channels of y");
}

}  // namespace

void check_name(const std::string& what, const std::string& name) {
  check<ConfigError>(is_fit_name(name), what, " name ", quoted(name), ": use lower-case letters, digits and _");
}

void read_dataset_json(const std::string& path, DatasetInfo& info, std::map<std::string, FileRecord>& files) {
  const std::string text = read_file(path);
  try {
    const json j = json::parse(text);
    check<DataError>(j.is_object() && j.value("format", "") == kFormat, path,
                     ": is not the description of a prepared data set (no \"format\": \"", kFormat, "\")");
    check<DataError>(j.at("version").get<int64_t>() == kFormatVersion, path, ": has format version ",
                     j.at("version").get<int64_t>(), ", this program reads ", kFormatVersion);
    info.name = j.at("name").get<std::string>();
    info.kind = j.at("kind").get<std::string>();
    for (const auto& [split, count] : j.at("splits").items()) {
      check<DataError>(is_fit_name(split), path, ": ", quoted(split), " is no name for a split");
      const int64_t n = count.get<int64_t>();
      check<DataError>(n >= 0 && n < (int64_t{1} << 48), path, ": split ", split, " has ", n, " samples");
      info.splits[split] = n;
    }
    for (const json& field : j.at("fields")) info.fields.push_back(field_from(field, path));
    info.vocabulary = j.value("vocabulary", int64_t{0});
    info.n_classes = j.value("n_classes", int64_t{0});
    info.max_length = j.value("max_length", int64_t{0});
    check<DataError>(info.vocabulary >= 0 && info.n_classes >= 0 && info.max_length >= 0, path,
                     ": vocabulary, n_classes and max_length must not be negative");
    info.tokens = j.value("tokens", std::vector<std::string>{});
    const json normalisation = j.value("normalisation", json::object());
    for (const auto& [field, n] : normalisation.items())
      info.normalisation[field] = {n.at("mean").get<std::vector<double>>(), n.at("std").get<std::vector<double>>()};
    info.grid = j.value("grid", std::vector<int64_t>{});
    info.coordinates = j.value("coordinates", int64_t{0});
    check<DataError>(info.coordinates >= 0 && info.coordinates <= 3, path, ": coordinates is ", info.coordinates,
                     ", the number of channels of x that are a position: 1, 2 or 3");
    const json times = j.value("times", json(1));
    info.times = times.is_number_integer() ? times.get<int64_t>() : 0;
    check<DataError>(info.times >= 1, path, ": times is ", times.dump(), ", the number of recorded times in y: 1 or more");
    if (j.contains("warp"))
      info.warp = {j["warp"].at("mean").get<std::vector<double>>(), j["warp"].at("std").get<std::vector<double>>()};
    info.source = j.value("source", "");
    info.licence = j.value("licence", "");
    info.citation = j.value("citation", "");
    for (const auto& [file, record] : j.at("files").items())
      files[file] = {record.at("bytes").get<int64_t>(), record.at("sha256").get<std::string>()};
  } catch (const nlohmann::json::exception& e) { throw DataError(cat(path, ": cannot be read: ", quoted(e.what(), 160))); }
  for (const FieldInfo& f : info.fields)
    check<DataError>(!is_token_field(f.name) || info.vocabulary > 0, path, ": has field ", f.name, " but no vocabulary");
  check_outputs(info, path);
}

void write_dataset_json(const std::string& path, const DatasetInfo& info, const std::map<std::string, FileRecord>& files) {
  json j;
  j["format"] = kFormat;
  j["version"] = kFormatVersion;
  j["name"] = info.name;
  j["kind"] = info.kind;
  j["splits"] = json::object();
  for (const auto& [split, count] : info.splits) j["splits"][split] = count;
  j["fields"] = json::array();
  for (const FieldInfo& f : info.fields)
    j["fields"].push_back({{"name", f.name},
                           {"dtype", name_of(f.dtype)},
                           {"shape", std::vector<int64_t>(f.shape.begin(), f.shape.end())},
                           {"ragged", f.ragged}});
  if (info.vocabulary) j["vocabulary"] = info.vocabulary;
  if (!info.tokens.empty()) j["tokens"] = info.tokens;
  if (info.n_classes) j["n_classes"] = info.n_classes;
  if (info.max_length) j["max_length"] = info.max_length;
  j["normalisation"] = json::object();
  for (const auto& [field, n] : info.normalisation) j["normalisation"][field] = {{"mean", n.mean}, {"std", n.std}};
  if (!info.grid.empty()) j["grid"] = info.grid;
  if (info.coordinates) j["coordinates"] = info.coordinates;
  if (info.times != 1) j["times"] = info.times;
  if (!info.warp.mean.empty()) j["warp"] = {{"mean", info.warp.mean}, {"std", info.warp.std}};
  j["source"] = info.source;
  j["licence"] = info.licence;
  j["citation"] = info.citation;
  j["files"] = json::object();
  for (const auto& [file, record] : files) j["files"][file] = {{"bytes", record.bytes}, {"sha256", record.sha256}};
  write_file_atomically(path, j.dump(2) + "\n");
}

bool is_prepared_folder(const std::string& dir) {
  const std::string path = dir + "/dataset.json";
  if (!file_exists(path)) return false;
  const json j = json::parse(read_file(path), nullptr, false);
  return j.is_object() && j.contains("format") && j["format"] == kFormat;
}

}  // namespace flare
