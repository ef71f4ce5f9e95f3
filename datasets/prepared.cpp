#include "datasets/prepared.h"

#include <cmath>
#include <mutex>

#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/job.h"
#include "core/parallel.h"
#include "datasets/format.h"

namespace flare {
namespace {

using nlohmann::json;

constexpr int64_t kSamplesPerChunk = 64;

Column open_column(const std::string& dir, const std::string& split, const FieldInfo& field, int64_t count) {
  const auto map = [&](const std::string& file) {
    const std::string path = dir + "/" + file;
    check<DataError>(file_exists(path), path, ": not found; ", dir, "/dataset.json lists it for split ", split,
                     "; restore it, or generate or prepare the data set again");
    return std::make_shared<const MappedNpy>(path);
  };
  Column c;
  c.field = field;
  c.count = count;
  c.file = dir + "/" + values_file_name(split, field.name);
  c.values_file = map(values_file_name(split, field.name));
  c.bytes = static_cast<const char*>(c.values_file->raw());
  check<DataError>(c.values_file->dtype() == field.dtype, c.file, ": holds ", c.values_file->dtype(), ", dataset.json says ",
                   field.dtype);

  int64_t rows = count;
  Shape row_shape = field.shape;
  if (field.ragged) {
    const std::string path = dir + "/" + offsets_file_name(split, field.name);
    c.offsets_file = map(offsets_file_name(split, field.name));
    check<DataError>(c.offsets_file->dtype() == DType::i64 && c.offsets_file->shape() == Shape({count + 1}), path, ": holds ",
                     c.offsets_file->dtype(), " ", c.offsets_file->shape(), ", expected i64 [", count + 1, "] for ", count,
                     " samples");
    c.offsets = c.offsets_file->data<int64_t>();
    check<DataError>(c.offsets[0] == 0, path, ": the first offset is ", c.offsets[0], ", expected 0");
    for (int64_t i = 0; i < count; ++i)
      check<DataError>(c.offsets[i + 1] >= c.offsets[i], path, ": offsets are not monotone: sample ", i, " of split ", split,
                       " runs from ", c.offsets[i], " to ", c.offsets[i + 1]);
    rows = c.offsets[count];
    c.row_elements = row_shape.numel();
  } else if (field.shape.ndim() > 0) {
    c.rows_per_sample = field.shape[0];
    c.row_elements = field.shape.without(0).numel();
  }
  Shape expected{rows};
  for (int64_t d : row_shape) expected.push_back(d);
  check<DataError>(c.values_file->shape() == expected, c.file, ": has shape ", c.values_file->shape(), ", expected ", expected,
                   " for ", count, " samples of split ", split, field.ragged ? " and their offsets" : "");
  return c;
}

/// First element of [begin, end) outside [0, limit), or -1. Branch-free inside a block, so that it runs at memory speed.
template <class T> int64_t first_outside(const T* values, int64_t begin, int64_t end, int64_t limit) {
  constexpr int64_t kBlock = 1024;
  for (int64_t b = begin; b < end; b += kBlock) {
    const int64_t e = std::min(end, b + kBlock);
    T low = values[b], high = values[b];
    for (int64_t i = b; i < e; ++i) {
      low = std::min(low, values[i]);
      high = std::max(high, values[i]);
    }
    if (low >= 0 && static_cast<int64_t>(high) < limit) continue;
    for (int64_t i = b; i < e; ++i)
      if (values[i] < 0 || static_cast<int64_t>(values[i]) >= limit) return i;
  }
  return -1;
}

int64_t first_outside(const Column& c, int64_t i, int64_t limit) {
  const int64_t b = c.begin(i) * c.row_elements, e = c.end(i) * c.row_elements;
  switch (c.field.dtype) {
    case DType::u8: return first_outside(reinterpret_cast<const uint8_t*>(c.bytes), b, e, limit);
    case DType::i32: return first_outside(reinterpret_cast<const int32_t*>(c.bytes), b, e, limit);
    default: return first_outside(reinterpret_cast<const int64_t*>(c.bytes), b, e, limit);
  }
}

template <class T> int64_t first_not_finite(const Column& c, int64_t i) {
  const T* values = reinterpret_cast<const T*>(c.bytes);
  for (int64_t e = c.begin(i) * c.row_elements; e < c.end(i) * c.row_elements; ++e)
    if (!std::isfinite(values[e])) return e;
  return -1;
}

}  // namespace

int64_t Column::integer(int64_t e) const {
  switch (field.dtype) {
    case DType::u8: return reinterpret_cast<const uint8_t*>(bytes)[e];
    case DType::i32: return reinterpret_cast<const int32_t*>(bytes)[e];
    case DType::i64: return reinterpret_cast<const int64_t*>(bytes)[e];
    default: throw ShapeError(cat(file, ": field ", field.name, " holds ", field.dtype, ", not integers"));
  }
}

/// What is wrong with sample i of a column; "" if nothing.
std::string sample_problem(const Column& c, const DatasetInfo& info, const std::string& split, int64_t i) {
  const auto where = [&] { return cat(c.file, ": split ", split, ", sample ", i, ": "); };
  const int64_t length = c.length(i);
  const bool is_label = c.field.name == "labels";
  if (c.field.ragged && length == 0) return where() + "is empty";
  if (c.field.ragged && info.max_length > 0 && length > info.max_length)
    return cat(where(), "has length ", length, ", more than the max_length ", info.max_length, " of dataset.json");
  if (is_label || is_token_field(c.field.name)) {
    const int64_t limit = is_label ? info.n_classes : info.vocabulary;
    if (is_label && limit == 0) return "";
    if (const int64_t e = first_outside(c, i, limit); e >= 0) {
      const std::string bounds = cat(limit, is_label ? " classes" : " tokens of the vocabulary", " (0..", limit - 1, ")");
      if (is_label) return cat(where(), "label ", c.integer(e), " is outside the ", bounds);
      return cat(where(), "token ", c.integer(e), " at position ", e - c.begin(i) * c.row_elements, " is outside the ", bounds);
    }
  } else if (is_float(c.field.dtype)) {
    const int64_t e = c.field.dtype == DType::f32 ? first_not_finite<float>(c, i) : first_not_finite<double>(c, i);
    if (e >= 0) return cat(where(), "value at element ", e - c.begin(i) * c.row_elements, " is not finite");
  }
  return "";
}

struct PreparedFolder::State {
  std::string dir;
  DatasetInfo info;
  std::map<std::string, FileRecord> files;
  std::map<std::pair<std::string, std::string>, Column> columns;
  std::mutex mutex;
  std::set<std::string> validated;
};

PreparedFolder::PreparedFolder(const std::string& dir) : state_(std::make_shared<State>()) {
  State& s = *state_;
  s.dir = dir.size() > 1 && dir.back() == '/' ? dir.substr(0, dir.size() - 1) : dir;
  recover_directory(s.dir);
  const std::string path = s.dir + "/dataset.json";
  check<DataError>(directory_exists(s.dir), s.dir,
                   ": no such folder; make the data set first with flare data generate or flare data prepare");
  check<DataError>(file_exists(path), path, ": not found, so ", s.dir,
                   " is not a prepared data set; make one with flare data generate or flare data prepare");
  read_dataset_json(path, s.info, s.files);
  for (const auto& [split, count] : s.info.splits)
    for (const FieldInfo& field : s.info.fields)
      s.columns.emplace(std::pair(split, field.name), open_column(s.dir, split, field, count));
}

const std::string& PreparedFolder::path() const { return state_->dir; }
const DatasetInfo& PreparedFolder::info() const { return state_->info; }
bool PreparedFolder::has_split(const std::string& split) const { return info().splits.contains(split); }

int64_t PreparedFolder::count(const std::string& split) const {
  const auto found = info().splits.find(split);
  if (found != info().splits.end()) return found->second;
  std::string known;
  for (const auto& [name, n] : info().splits) known += (known.empty() ? "" : ", ") + name;
  throw DataError(cat(path(), "/dataset.json: there is no split ", quoted(split), "; it has ", known));
}

bool PreparedFolder::has_field(const std::string& field) const {
  for (const FieldInfo& f : info().fields)
    if (f.name == field) return true;
  return false;
}

const Column& PreparedFolder::column(const std::string& split, const std::string& field) const {
  count(split);  // the error for an unknown split
  const auto found = state_->columns.find({split, field});
  check<DataError>(found != state_->columns.end(), path(), "/dataset.json: there is no field ", quoted(field));
  return found->second;
}

void PreparedFolder::validate(const std::string& split) const {
  const int64_t n = count(split);
  {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    if (state_->validated.contains(split)) return;
  }
  for (const FieldInfo& field : info().fields) {
    const Column& c = column(split, field.name);
    std::vector<std::string> problems(static_cast<size_t>((n + kSamplesPerChunk - 1) / kSamplesPerChunk));
    parallel_for(n, kSamplesPerChunk, [&](int64_t begin, int64_t end) {
      std::string& problem = problems[static_cast<size_t>(begin / kSamplesPerChunk)];
      for (int64_t i = begin; i < end && problem.empty(); ++i) problem = sample_problem(c, info(), split, i);
    });
    for (const std::string& problem : problems)
      check<DataError>(problem.empty(), problem);  // the first in order, whatever the threads did
  }
  if (has_field("x") && has_field("y") && column(split, "x").offsets && column(split, "y").offsets) {
    const Column &x = column(split, "x"), &y = column(split, "y");
    for (int64_t i = 0; i < n; ++i)
      check<DataError>(x.length(i) == y.length(i), y.file, ": split ", split, ", sample ", i, ": y has ", y.length(i),
                       " points and x has ", x.length(i));
  }
  const std::lock_guard<std::mutex> lock(state_->mutex);
  state_->validated.insert(split);
}

void PreparedFolder::verify_checksums() const {
  int64_t n_bytes = 0;
  for (const auto& [file, record] : state_->files) n_bytes += record.bytes;
  Job job("checksums", n_bytes, "bytes");
  for (const auto& [file, record] : state_->files) {
    const std::string path = state_->dir + "/" + file, actual = sha256_of_file(path, job);
    check<DataError>(actual == record.sha256, path, ": SHA-256 is ", actual, ", dataset.json says ", record.sha256,
                     "; the file has changed");
  }
}

}  // namespace flare
