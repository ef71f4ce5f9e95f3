#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "core/dtype.h"
#include "core/npy.h"
#include "core/shape.h"
#include "core/tensor.h"

namespace flare {

/// One field of every sample. A ragged field has a first axis that differs from sample to sample.
struct FieldInfo {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;  // of one sample, without the ragged axis
  bool ragged = false;
};

/// (value - mean) / std, per channel or with one entry for all.
struct Normalisation {
  std::vector<double> mean, std;
};

/// What dataset.json says. Zero stands for "does not apply" in vocabulary, n_classes and max_length.
struct DatasetInfo {
  std::string name;
  std::string kind;                       // sequence_classification, pair_classification, field_regression
  std::map<std::string, int64_t> splits;  // samples; set by the writer
  std::vector<FieldInfo> fields;          // set by the writer
  int64_t vocabulary = 0, n_classes = 0, max_length = 0;
  std::vector<std::string> tokens;                     // names of the token ids, where they have any
  std::map<std::string, Normalisation> normalisation;  // by field
  std::vector<int64_t> grid;                           // extents when the points of every sample are a grid, row-major
  int64_t coordinates = 0;  // how many channels of x, the first ones, are the position of the point; 0: not stated
  int64_t times = 1;        // recorded times that y holds, time-major: y[..., t·c + k] is channel k of c at time t
  Normalisation warp;       // empty, or: report the relative L2 of y·std + mean too, since the published figures are of that
  std::string source, licence, citation;
};

/// One field of one split, memory-mapped. Sample i owns rows [begin(i), end(i)) of values; a row has field.shape elements.
struct Column {
  FieldInfo field;
  std::string file;  // path of the values, for messages
  int64_t count = 0, row_elements = 1;
  int64_t begin(int64_t i) const { return offsets ? offsets[i] : i * rows_per_sample; }
  int64_t end(int64_t i) const { return offsets ? offsets[i + 1] : (i + 1) * rows_per_sample; }
  int64_t length(int64_t i) const { return end(i) - begin(i); }
  /// Row r as stored bytes.
  const char* row(int64_t r) const { return bytes + r * row_elements * size_of(field.dtype); }
  /// Integer element e (i64, i32 or u8), ShapeError for a float field.
  int64_t integer(int64_t e) const;

  int64_t rows_per_sample = 1;  // of a field with fixed shape: its first extent, 1 for scalars
  const char* bytes = nullptr;
  const int64_t* offsets = nullptr;                            // [count+1] of a ragged field
  std::shared_ptr<const MappedNpy> values_file, offsets_file;  // keep the mapping alive
};

/// A folder of `dataset.json`, `<split>.<field>.npy` and, for ragged fields, `<split>.<field>_offsets.npy` (i64 [n+1]); a ragged
/// field's values of all samples follow each other along the first axis. A cheap handle, shared by copying.
class PreparedFolder {
 public:
  /// Maps every file. DataError naming the file when one is missing, truncated, or differs from dataset.json in shape, dtype or
  /// size, and when offsets are not monotone.
  explicit PreparedFolder(const std::string& dir);
  const std::string& path() const;
  const DatasetInfo& info() const;
  bool has_split(const std::string& split) const;
  /// Samples in a split; DataError naming the splits there are when there is no such split.
  int64_t count(const std::string& split) const;
  bool has_field(const std::string& field) const;
  const Column& column(const std::string& split, const std::string& field) const;
  /// Reads every sample of a split: tokens inside the vocabulary, labels inside the classes, no empty sample. DataError naming
  /// file, split, sample and value. The outcome is remembered, so further loaders of the split pay nothing.
  void validate(const std::string& split) const;
  /// DataError naming the first file whose SHA-256 is not the recorded one.
  void verify_checksums() const;

 private:
  struct State;
  std::shared_ptr<State> state_;
};

/// True when dir holds a dataset.json of this format.
bool is_prepared_folder(const std::string& dir);

/// Writes a prepared folder in a temporary folder beside the target; commit() renames it into place, so the target is either
/// the old data set or the complete new one. Without commit() nothing remains.
class PreparedWriter {
 public:
  /// ConfigError when out_dir is a file, or a folder that holds anything but a prepared data set.
  PreparedWriter(const std::string& out_dir, DatasetInfo info);
  ~PreparedWriter();
  PreparedWriter(const PreparedWriter&) = delete;
  PreparedWriter& operator=(const PreparedWriter&) = delete;
  /// values [n, ...]: one row a sample.
  void add(const std::string& split, const std::string& field, const Tensor& values);
  /// values [total, ...] and offsets i64 [n+1].
  void add_ragged(const std::string& split, const std::string& field, const Tensor& values, const Tensor& offsets);
  /// ConfigError when a split lacks a field another one has.
  void commit();

 private:
  void add_field(const std::string& split, FieldInfo field, int64_t count);
  void write(const std::string& file, const Tensor& values);
  std::string out_dir_, temporary_;
  DatasetInfo info_;
  std::set<std::pair<std::string, std::string>> written_;  // split, field
  std::vector<std::string> files_;
};

/// Label counts and lengths of one split, for `flare data show`.
struct SplitStatistics {
  int64_t n_samples = 0;
  std::vector<int64_t> labels;  // count by class; empty without labels
  int64_t majority_class = -1;
  double majority_share = 0;  // accuracy of always answering the majority class
  bool has_lengths = false;
  double mean_length = 0;
  int64_t min_length = 0, q25_length = 0, median_length = 0, q75_length = 0, max_length = 0;
};
SplitStatistics statistics_of(const PreparedFolder& folder, const std::string& split);
/// The names of the splits: train, val, test, then any others.
std::vector<std::string> split_names(const PreparedFolder& folder);
/// A text page of so many columns: what the data set is, tables of its fields and splits, shares of the labels.
std::string describe(const PreparedFolder& folder, int width = 100);

}  // namespace flare
