#pragma once
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "core/check.h"

namespace flare {

/// What `flare data generate` passes on: -1 stands for the data set's own count.
struct GenerateOptions {
  uint64_t seed = 0;
  int64_t train = -1, val = -1, test = -1;
  std::map<std::string, std::string> extra = {};  // key=value pairs the data set declares in DatasetEntry::options
  std::string device = "auto";                    // parse_device's words; auto is the CPU for those without a version for GPUs
};

struct DatasetOption {
  std::string name, default_value, help;
};

/// A data set that can be generated or prepared. It enters the registry from its own file, so adding one edits no other.
struct DatasetEntry {
  std::string name, kind, description, licence, citation;
  std::vector<DatasetOption> options;                                                      // extras that generate understands
  std::function<void(const GenerateOptions&, const std::string& out_dir)> generate;        // empty: cannot be generated
  std::function<void(const std::string& source_dir, const std::string& out_dir)> prepare;  // empty: nothing to import
  bool has_gpu_version = false;                                                            // generate heeds the device
};

bool register_dataset(DatasetEntry entry);
/// All data sets, sorted by name.
const std::vector<DatasetEntry>& registered_datasets();
/// ConfigError listing the known names and the nearest one when there is no such data set.
const DatasetEntry& find_dataset(const std::string& name);

/// Generates or imports into the prepared folder out_dir. ConfigError when the data set cannot do that, or for an extra it does
/// not declare (naming the nearest that it does), a negative count, or a GPU it cannot use (naming the data sets that can).
void generate_dataset(const std::string& name, const GenerateOptions& options, const std::string& out_dir);
/// "a, b": the data sets that can be generated on a GPU.
std::string datasets_for_gpu();
void prepare_dataset(const std::string& name, const std::string& source_dir, const std::string& out_dir);

/// The value of an extra as an integer, `fallback` when absent. ConfigError naming the key when it is not an integer.
int64_t extra_int(const GenerateOptions& options, const std::string& key, int64_t fallback);

/// Seed and counts into a data set's own options, whose defaults stay where none is given.
template <class Options> void take_counts(const GenerateOptions& g, Options& o) {
  o.seed = g.seed;
  if (g.train >= 0) o.train = g.train;
  if (g.val >= 0) o.val = g.val;
  if (g.test >= 0) o.test = g.test;
}

/// ConfigError naming the data set when a count of its options is negative or all are zero.
template <class Options> void check_counts(const char* name, const Options& o) {
  check<ConfigError>(o.train >= 0 && o.val >= 0 && o.test >= 0 && o.train + o.val + o.test > 0, name, ": counts ", o.train, "/",
                     o.val, "/", o.test, " must not be negative, nor all zero");
}

/// Registers a data set at program start; the file must be part of the OBJECT library flare_datasets.
#define FLARE_REGISTER_DATASET(entry) [[maybe_unused]] static const bool flare_dataset_registered = ::flare::register_dataset(entry)

}  // namespace flare
