#include "datasets/lra/text.h"

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <map>
#include <unordered_set>
#include <vector>

#include "core/check.h"
#include "core/file.h"
#include "core/job.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "datasets/lra/bytes.h"
#include "datasets/registry.h"

namespace flare {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxLength = 4096;                // bytes a sample is cut to
constexpr int64_t kLargestReview = 1 << 16;         // the longest has 13,704 bytes
constexpr const char* kClasses[] = {"neg", "pos"};  // the position is the label

struct Review {
  std::string text, hash;
  int label = 0;
};

/// "12_9.txt" -> 12 and 9; false for another form.
bool parse_name(const std::string& name, int64_t& id, int& rating) {
  const char* end = name.data() + name.size();
  const auto [bar, bad_id] = std::from_chars(name.data(), end, id);
  if (bad_id != std::errc{} || bar == end || *bar != '_') return false;
  const auto [dot, bad_rating] = std::from_chars(bar + 1, end, rating);
  return bad_rating == std::errc{} && std::string_view(dot, static_cast<size_t>(end - dot)) == ".txt";
}

/// Paths of the reviews of one folder by ID, after every check that needs no reading.
std::vector<std::string> list_reviews(const std::string& dir, int label, int64_t expected) {
  std::map<int64_t, std::string> by_id;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string(), path = dir + "/" + name;
    int64_t id = 0;
    int rating = 0;
    check<DataError>(entry.is_regular_file() && parse_name(name, id, rating), path, ": is no review: expected files ID_RATING.txt");
    const bool fits = label ? rating >= 7 && rating <= 10 : rating >= 1 && rating <= 4;
    check<DataError>(fits, path, ": mislabelled: a rating of ", rating, " does not belong in ", kClasses[label], " (",
                     label ? "7..10" : "1..4", ")");
    const auto [place, is_new] = by_id.emplace(id, path);
    check<DataError>(is_new, path, ": duplicated: ", place->second, " has the same ID");
  }
  int64_t next = 0;
  for (const auto& [id, path] : by_id) {
    check<DataError>(id == next, dir, ": the review with ID ", next, " is missing; unpack it again");
    ++next;
  }
  check<DataError>(next == expected, dir, ": has ", next, " reviews, expected ", expected, "; unpack it again");
  std::vector<std::string> paths;
  for (auto& [id, path] : by_id) paths.push_back(std::move(path));
  return paths;
}

std::vector<Review> read_split(const std::string& dir, int64_t per_folder, Job& job) {
  std::vector<Review> reviews;
  for (const int label : {0, 1}) {
    const std::vector<std::string> paths = list_reviews(dir + "/" + kClasses[label], label, per_folder);
    const size_t first = reviews.size();
    reviews.resize(first + paths.size());
    constexpr int64_t kChunk = 64;
    const int64_t n = static_cast<int64_t>(paths.size());
    std::vector<std::string> problems(static_cast<size_t>((n + kChunk - 1) / kChunk));
    parallel_for(n, kChunk, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const JobItem item(job);
        Review& r = reviews[first + static_cast<size_t>(i)];
        try {
          r.text = read_text(paths[static_cast<size_t>(i)], kLargestReview);
        } catch (const DataError& e) {
          problems[static_cast<size_t>(begin / kChunk)] = e.what();
          return;
        }
        r.hash = sha256_hex(r.text);
        r.label = label;
      }
    });
    for (const std::string& problem : problems) check<DataError>(problem.empty(), problem);
  }
  return reviews;
}

/// Moves the validation reviews out of train.
std::vector<Review> carve_validation(std::vector<Review>& train, const std::vector<Review>& test) {
  std::unordered_set<std::string> in_test, chosen;
  for (const Review& r : test) in_test.insert(r.hash);
  for (const int label : {0, 1}) {
    std::vector<std::string> hashes;
    int64_t n_class = 0;
    for (const Review& r : train) {
      if (r.label != label) continue;
      ++n_class;
      if (!in_test.contains(r.hash)) hashes.push_back(r.hash);
    }
    std::sort(hashes.begin(), hashes.end());
    const auto n = static_cast<std::ptrdiff_t>(std::min(hashes.size(), static_cast<size_t>(n_class / 10)));
    chosen.insert(hashes.begin(), hashes.begin() + n);  // by hash, so copies of a text move together
  }
  std::vector<Review> val, rest;
  for (Review& r : train) (chosen.contains(r.hash) ? val : rest).push_back(std::move(r));
  train = std::move(rest);
  return val;
}

void check_labels(const std::vector<Review>& train, const std::vector<Review>& test) {
  std::map<std::string_view, int> labels;
  for (const std::vector<Review>* split : {&train, &test})
    for (const Review& r : *split) {
      const auto [place, is_new] = labels.emplace(r.hash, r.label);
      check<DataError>(is_new || place->second == r.label, "aclImdb: mislabelled: one review is both in pos and in neg; it begins ",
                       quoted(r.text, 60));
    }
}

DatasetEntry text_entry() {
  DatasetEntry e;
  e.name = "text";
  e.kind = "sequence_classification";
  e.description = "Long Range Arena Text: sentiment of a film review, as a sequence of bytes (aclImdb)";
  e.licence = "none stated; cite the paper";
  e.citation =
      "A. Maas et al., Learning Word Vectors for Sentiment Analysis, ACL 2011; Y. Tay et al., Long Range Arena, arXiv 2011.04006";
  e.prepare = [](const std::string& source_dir, const std::string& out_dir) { import_imdb(source_dir, out_dir); };
  return e;
}
FLARE_REGISTER_DATASET(text_entry());

}  // namespace

void import_imdb(const std::string& source_dir, const std::string& out_dir, int64_t per_folder) {
  const std::string root = directory_exists(source_dir + "/aclImdb") ? source_dir + "/aclImdb" : source_dir;
  std::string missing;
  for (const char* split : {"train", "test"})
    for (const char* name : kClasses)
      if (!directory_exists(cat(root, "/", split, "/", name))) missing += cat(missing.empty() ? "" : ", ", split, "/", name);
  check<DataError>(missing.empty(), root, ": not found: ", missing, "; needed are train/pos, train/neg, test/pos and test/neg of ",
                   per_folder,
                   " files ID_RATING.txt each, from aclImdb_v1.tar.gz (84,125,825 bytes, ai.stanford.edu/~amaas/data/sentiment)");
  const DatasetEntry entry = find_dataset("text");
  DatasetInfo info;
  info.name = "text";
  info.kind = entry.kind;
  info.vocabulary = kByteVocabulary;
  info.n_classes = 2;
  info.max_length = kMaxLength;
  info.licence = entry.licence;
  info.citation = entry.citation;
  info.source = cat(
      "imported from aclImdb: official test; val is the tenth of each class of train with the smallest SHA-256; bytes + 1, cut to ",
      kMaxLength);
  PreparedWriter writer(out_dir, info);
  std::vector<Review> train, test;
  {
    Job job("text", 4 * per_folder, "reviews");
    train = read_split(root + "/train", per_folder, job);
    test = read_split(root + "/test", per_folder, job);
  }
  check_labels(train, test);
  const std::vector<Review> val = carve_validation(train, test);
  for (const auto& [split, reviews] :
       {std::pair("train", &std::as_const(train)), std::pair("val", &val), std::pair("test", &std::as_const(test))}) {
    std::vector<std::string_view> texts;
    std::vector<uint8_t> labels;
    for (const Review& r : *reviews) {
      texts.push_back(r.text);
      labels.push_back(static_cast<uint8_t>(r.label));
    }
    add_texts(writer, split, "tokens", texts, kMaxLength);
    writer.add(split, "labels", Tensor::from(labels, {static_cast<int64_t>(labels.size())}));
  }
  writer.commit();
}

}  // namespace flare
