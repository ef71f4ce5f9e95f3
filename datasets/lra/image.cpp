#include "datasets/lra/image.h"

#include <array>
#include <cmath>
#include <cstring>
#include <map>
#include <vector>

#include "core/check.h"
#include "core/file.h"
#include "core/job.h"
#include "datasets/import/npz.h"
#include "datasets/prepared.h"
#include "datasets/registry.h"

namespace flare {
namespace {

constexpr int64_t kPixels = 1024, kRecord = 1 + 3 * kPixels, kClasses = 10;
constexpr int64_t kTrainBatches = 5;

struct Pictures {
  std::vector<uint8_t> grey, labels;
  int64_t count() const { return static_cast<int64_t>(labels.size()); }
};

void check_label(const std::string& path, int64_t i, uint8_t label) {
  check<DataError>(label < kClasses, path, ": mislabelled: picture ", i, " has the label ", static_cast<int>(label),
                   ", expected 0..9");
}

void read_batch(const std::string& path, int64_t per_batch, std::map<std::string, std::string>& seen, Pictures& out) {
  const MappedFile file(path);
  const int64_t size = static_cast<int64_t>(file.size());
  check<DataError>(size == per_batch * kRecord, path, ": ", size < per_batch * kRecord ? "truncated" : "oversized", ": has ", size,
                   " bytes, expected ", per_batch * kRecord, " (", per_batch, " records of ", kRecord, ")");
  const auto [place, is_new] = seen.emplace(sha256_of_file(path), path);
  check<DataError>(is_new, path, ": duplicated: it equals ", place->second);
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(file.data());
  for (int64_t i = 0; i < per_batch; ++i, bytes += kRecord) {
    check_label(path, i, bytes[0]);
    out.labels.push_back(bytes[0]);
    const uint8_t *red = bytes + 1, *green = red + kPixels, *blue = green + kPixels;
    for (int64_t p = 0; p < kPixels; ++p) out.grey.push_back(grey_of(red[p], green[p], blue[p]));
  }
}

void read_arrays(const NpzFile& file, const std::string& path, const std::string& split, int64_t expected, Pictures& out) {
  const Tensor x = file.read(split + "_x"), y = file.read(split + "_y");
  check<DataError>(
      x.dtype() == DType::u8 && y.dtype() == DType::u8 && x.shape() == Shape({expected, kPixels}) && y.shape() == Shape({expected}),
      path, ": ", split, "_x is ", x.dtype(), " ", x.shape(), " and ", split, "_y ", y.dtype(), " ", y.shape(), ", expected u8 [",
      expected, ",", kPixels, "] and u8 [", expected, "]");
  out.grey.assign(x.data<uint8_t>(), x.data<uint8_t>() + x.numel());
  out.labels.assign(y.data<uint8_t>(), y.data<uint8_t>() + y.numel());
  for (int64_t i = 0; i < expected; ++i) check_label(path, i, out.labels[static_cast<size_t>(i)]);
}

void check_balance(const std::string& where, const std::string& split, const Pictures& pictures) {
  std::array<int64_t, kClasses> counts{};
  for (uint8_t label : pictures.labels) ++counts[label];
  for (size_t c = 0; c < counts.size(); ++c)
    check<DataError>(counts[c] * kClasses == pictures.count(), where, ": mislabelled: ", split, " has ", counts[c],
                     " pictures of class ", c, ", expected ", pictures.count() / kClasses);
}

/// Mean and standard deviation of all grey values.
Normalisation statistics(const uint8_t* grey, int64_t n) {
  std::array<int64_t, 256> counts{};
  for (int64_t i = 0; i < n; ++i) ++counts[grey[i]];
  double mean = 0, square = 0;
  for (size_t v = 0; v < counts.size(); ++v)
    mean += static_cast<double>(v) * static_cast<double>(counts[v]) / static_cast<double>(n);
  for (size_t v = 0; v < counts.size(); ++v)
    square += std::pow(static_cast<double>(v) - mean, 2) * static_cast<double>(counts[v]) / static_cast<double>(n);
  return {{mean}, {std::sqrt(square)}};
}

DatasetInfo image_info(bool as_floats) {
  DatasetInfo info;
  info.name = as_floats ? "image-floats" : "image";
  info.kind = "sequence_classification";
  if (!as_floats) info.vocabulary = 256;
  info.n_classes = kClasses;
  info.max_length = kPixels;
  info.licence = "none stated; cite the report";
  info.citation =
      "A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009; Y. Tay et al., Long Range Arena, arXiv "
      "2011.04006";
  return info;
}

bool register_images() {
  for (const bool as_floats : {false, true}) {
    const DatasetInfo info = image_info(as_floats);
    DatasetEntry e;
    e.name = info.name;
    e.kind = info.kind;
    e.description = cat("Long Range Arena Image: CIFAR-10 as a sequence of 1024 grey pixels, ",
                        as_floats ? "as numbers (a variant: not comparable to published tokens)" : "each a token");
    e.licence = info.licence;
    e.citation = info.citation;
    e.prepare = [as_floats](const std::string& source_dir, const std::string& out_dir) {
      import_cifar(source_dir, out_dir, as_floats);
    };
    register_dataset(e);
  }
  return true;
}
[[maybe_unused]] const bool registered = register_images();

}  // namespace

void import_cifar(const std::string& source_dir, const std::string& out_dir, bool as_floats, int64_t per_batch) {
  std::string root = source_dir;
  if (directory_exists(root + "/cifar-10-batches-bin")) root += "/cifar-10-batches-bin";
  const std::string array = root + "/cifar10_gray.npz";
  std::vector<std::string> batches;
  std::string missing;
  for (int64_t i = 1; i <= kTrainBatches; ++i) batches.push_back(cat("data_batch_", i, ".bin"));
  batches.push_back("test_batch.bin");
  for (const std::string& name : batches)
    if (!file_exists(root + "/" + name)) missing += cat(missing.empty() ? "" : ", ", name);
  const bool from_array = file_exists(array);
  check<DataError>(from_array || missing.empty(), root, ": not found: ", missing, " (", per_batch * kRecord,
                   " bytes each, from cifar-10-binary.tar.gz, www.cs.toronto.edu/~kriz/cifar.html), nor cifar10_gray.npz",
                   file_exists(array + ".xz") ? "; unpack cifar10_gray.npz.xz with: xz -dk" : "");

  DatasetInfo info = image_info(as_floats);
  Pictures train, test;
  if (from_array) {
    Job job(info.name, 2, "splits");
    const NpzFile file(array);
    for (const bool is_train : {true, false}) {
      const JobItem item(job);
      read_arrays(file, array, is_train ? "train" : "test", (is_train ? kTrainBatches : 1) * per_batch, is_train ? train : test);
    }
  } else {
    Job job(info.name, static_cast<int64_t>(batches.size()), "files");
    std::map<std::string, std::string> seen;
    for (const std::string& name : batches) {
      const JobItem item(job);
      read_batch(root + "/" + name, per_batch, seen, name == batches.back() ? test : train);
    }
  }
  check_balance(root, "train", train);
  check_balance(root, "test", test);
  const int64_t n_train = train.count() * 9 / 10;
  info.source = cat("imported from ", from_array ? "cifar10_gray.npz" : "the binary version of CIFAR-10",
                    ": official test; val is the last 10 % of train, as in Long Range Arena");
  if (as_floats) info.normalisation["x"] = statistics(train.grey.data(), n_train * kPixels);
  PreparedWriter writer(out_dir, info);
  const auto add = [&](const std::string& split, const Pictures& p, int64_t first, int64_t n) {
    const Tensor grey = Tensor::empty(as_floats ? Shape{n, kPixels, 1} : Shape{n, kPixels}, DType::u8),
                 labels = Tensor::empty({n}, DType::u8);
    std::memcpy(grey.data<uint8_t>(), p.grey.data() + first * kPixels, static_cast<size_t>(n * kPixels));
    std::memcpy(labels.data<uint8_t>(), p.labels.data() + first, static_cast<size_t>(n));
    writer.add(split, as_floats ? "x" : "tokens", grey);
    writer.add(split, "labels", labels);
  };
  add("train", train, 0, n_train);
  add("val", train, n_train, train.count() - n_train);
  add("test", test, 0, test.count());
  writer.commit();
}

}  // namespace flare
