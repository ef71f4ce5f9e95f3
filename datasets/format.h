#pragma once
#include <cstdint>
#include <map>
#include <string>

#include "datasets/prepared.h"

namespace flare {

// Details of the prepared-folder format shared by its reader, writer and loader.

inline std::string values_file_name(const std::string& split, const std::string& field) { return split + "." + field + ".npy"; }
inline std::string offsets_file_name(const std::string& split, const std::string& field) {
  return split + "." + field + "_offsets.npy";
}
/// Fields whose values are ids of the vocabulary: tokens, and tokens_b of the second sequence of a pair.
inline bool is_token_field(const std::string& field) { return field == "tokens" || field == "tokens_b"; }

struct FileRecord {
  int64_t bytes = 0;
  std::string sha256;
};

/// Reads and checks dataset.json; DataError naming the file and the entry that is missing or wrong.
void read_dataset_json(const std::string& path, DatasetInfo& info, std::map<std::string, FileRecord>& files);
void write_dataset_json(const std::string& path, const DatasetInfo& info, const std::map<std::string, FileRecord>& files);
/// ConfigError unless the word is fit to be part of a file name: lower-case letters, digits and _.
void check_name(const std::string& what, const std::string& name);
/// What is wrong with sample i of a column (token or label out of range, empty, too long, not finite); "" if nothing.
std::string sample_problem(const Column& column, const DatasetInfo& info, const std::string& split, int64_t i);

}  // namespace flare
