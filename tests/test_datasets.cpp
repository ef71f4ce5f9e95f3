#include <algorithm>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <string>

#include <doctest/doctest.h>
#include <unistd.h>

#include "core/file.h"
#include "core/npy.h"
#include "datasets/loader.h"
#include "datasets/prepared.h"
#include "datasets/registry.h"

using namespace flare;
namespace fs = std::filesystem;

namespace {

/// A folder that disappears with the test case.
struct Folder {
  fs::path path = fs::temp_directory_path() / ("flare_datasets_" + std::to_string(getpid()) + "_" + std::to_string(counter()++));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const std::string& name) const { return (path / name).string(); }
  static int& counter() {
    static int n = 0;
    return n;
  }
};

template <class F>
std::string message_of(F&& f, int exit_code) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.exit_code() == exit_code);
    return e.what();
  }
  return "no error";
}
#define CHECK_SAYS(code, text, ...)                                  \
  do {                                                               \
    const std::string says = message_of([&] { __VA_ARGS__; }, code); \
    CHECK_MESSAGE(says.find(text) != std::string::npos, says);       \
  } while (0)

DatasetInfo small_info() {
  DatasetInfo info;
  info.name = "small";
  info.kind = "sequence_classification";
  info.vocabulary = 100;
  info.n_classes = 4;
  info.max_length = 12;
  info.tokens = {"<pad>", "a"};
  info.normalisation["x"] = {{0.5, -1}, {2, 3}};
  info.source = "a test";
  info.licence = "MIT";
  info.citation = "nobody";
  return info;
}

constexpr int64_t kSamples = 23;
int64_t length_of(int64_t i) { return 1 + i * 7 % 11; }
uint8_t token_of(int64_t i, int64_t n) { return static_cast<uint8_t>(1 + (i * 5 + n * 3) % 99); }

/// Ragged tokens and their labels, 23 samples of 1..11 tokens in split train and 3 in split test; sample i has label i % 4.
void write_small(const std::string& dir, DatasetInfo info = small_info()) {
  PreparedWriter writer(dir, std::move(info));
  for (const auto& [split, count] : {std::pair("train", kSamples), std::pair("test", int64_t{3})}) {
    std::vector<uint8_t> values;
    std::vector<int64_t> offsets = {0};
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t n = 0; n < length_of(i); ++n) values.push_back(token_of(i, n));
      offsets.push_back(static_cast<int64_t>(values.size()));
      labels.push_back(static_cast<int32_t>(i % 4));
    }
    writer.add_ragged(split, "tokens", Tensor::from(values, {static_cast<int64_t>(values.size())}),
                      Tensor::from(offsets, {count + 1}));
    writer.add(split, "labels", Tensor::from(labels, {count}));
  }
  writer.commit();
}

/// Overwrites bytes of a file at an offset counted from its end.
void poke(const std::string& path, int64_t from_end, const void* bytes, size_t n) {
  std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
  REQUIRE(f);
  f.seekp(-from_end, std::ios::end);
  f.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(n));
}

void replace_text(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = read_file(path);
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  std::ofstream(path, std::ios::binary) << text.replace(at, from.size(), to);
}

bool equal(const Tensor& a, const Tensor& b) {
  if (a.defined() != b.defined()) return false;
  return !a ||
         (a.shape() == b.shape() && a.dtype() == b.dtype() && std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}
bool equal(const Batch& a, const Batch& b) {
  return equal(a.tokens, b.tokens) && equal(a.mask, b.mask) && equal(a.labels, b.labels) && equal(a.x, b.x) && equal(a.y, b.y) &&
         a.n_samples == b.n_samples && a.n_tokens == b.n_tokens && a.epoch == b.epoch;
}

/// Which sample a row of a batch is: lengths and first tokens together tell them apart.
int64_t sample_of(const Batch& batch, int64_t row) {
  const int64_t n = batch.tokens.size(1);
  int64_t length = 0;
  while (length < n && batch.mask.data<uint8_t>()[row * n + length]) ++length;
  for (int64_t i = 0; i < kSamples; ++i)
    if (length_of(i) == length && token_of(i, 0) == batch.tokens.data<int64_t>()[row * n]) return i;
  return -1;
}

}  // namespace

TEST_CASE("prepared folder: what is written is read back") {
  const Folder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small/");  // with a slash
  const DatasetInfo& info = folder.info();
  CHECK(info.name == "small");
  CHECK(info.kind == "sequence_classification");
  CHECK(info.splits == std::map<std::string, int64_t>{{"train", kSamples}, {"test", 3}});
  CHECK(info.vocabulary == 100);
  CHECK(info.n_classes == 4);
  CHECK(info.max_length == 12);
  CHECK(info.tokens == std::vector<std::string>{"<pad>", "a"});
  CHECK(info.normalisation.at("x").mean == std::vector<double>{0.5, -1});
  CHECK(info.normalisation.at("x").std == std::vector<double>{2, 3});
  CHECK(info.licence == "MIT");
  CHECK(info.citation == "nobody");
  REQUIRE(info.fields.size() == 2);
  CHECK(info.fields[0].ragged);
  CHECK(info.fields[0].dtype == DType::u8);
  CHECK_FALSE(info.fields[1].ragged);
  const Column& tokens = folder.column("train", "tokens");
  for (int64_t i = 0; i < kSamples; ++i) {
    REQUIRE(tokens.length(i) == length_of(i));
    for (int64_t n = 0; n < length_of(i); ++n) CHECK(tokens.integer(tokens.begin(i) + n) == token_of(i, n));
    CHECK(folder.column("train", "labels").integer(i) == i % 4);
  }
  CHECK(read_npy(tmp / "small/train.labels.npy").shape() == Shape{kSamples});  // plain NumPy files
  folder.validate("train");
  folder.verify_checksums();
  CHECK_SAYS(3, "there is no split \"dev\"; it has test, train", folder.count("dev"));
  CHECK_SAYS(3, "there is no field \"x\"", folder.column("train", "x"));
}

TEST_CASE("prepared folder: statistics") {
  const Folder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  const SplitStatistics s = statistics_of(folder, "train");
  CHECK(s.labels == std::vector<int64_t>{6, 6, 6, 5});
  CHECK(s.majority_class == 0);
  CHECK(s.majority_share == doctest::Approx(6.0 / 23));
  CHECK(s.min_length == 1);
  CHECK(s.max_length == 11);
  CHECK(s.median_length == 6);  // lengths 1..11 twice and 1 once more
  CHECK(s.mean_length == doctest::Approx((2 * 66 + 1) / 23.0));
  const std::string page = describe(folder);
  CHECK(page.find("23 samples") != std::string::npos);
  CHECK(page.find("always answering 0 is right for 26.09%") != std::string::npos);
}

TEST_CASE("prepared folder: writing is all or nothing") {
  const Folder tmp;
  {
    PreparedWriter writer(tmp / "x", small_info());
    writer.add("train", "labels", Tensor::zeros({3}, DType::i32));
    CHECK_FALSE(fs::exists(tmp / "x"));
  }
  CHECK(fs::is_empty(tmp.path));  // given up: nothing remains

  write_small(tmp / "x");
  DatasetInfo other = small_info();
  other.name = "other";
  write_small(tmp / "x", other);  // a prepared folder may be replaced
  CHECK(PreparedFolder(tmp / "x").info().name == "other");

  std::ofstream(tmp / "x/notes.txt") << "mine";
  CHECK_SAYS(2, "\"notes.txt\", which is no part of the data set", write_small(tmp / "x"));
  CHECK(read_file(tmp / "x/notes.txt") == "mine");

  fs::create_directories(tmp / "home");
  std::ofstream(tmp / "home/letter") << "dear";
  CHECK_SAYS(2, "not empty and not a prepared data set", write_small(tmp / "home"));
  CHECK(read_file(tmp / "home/letter") == "dear");
  CHECK_SAYS(2, "is a file, not a folder", write_small(tmp / "home/letter"));
  fs::create_directories(tmp / "empty");
  write_small(tmp / "empty");
  CHECK(PreparedFolder(tmp / "empty").count("test") == 3);
  int64_t n_entries = 0;
  for ([[maybe_unused]] const auto& entry : fs::directory_iterator(tmp.path)) ++n_entries;
  CHECK(n_entries == 3);  // x, home, empty: no temporary folder is left

  PreparedWriter writer(tmp / "y", small_info());
  writer.add("train", "labels", Tensor::zeros({3}, DType::i32));
  CHECK_SAYS(2, "field x of split train has 4 samples, the others have 3",
             writer.add("train", "x", Tensor::zeros({4, 2}, DType::f32)));
  CHECK_SAYS(2, "written twice", writer.add("train", "labels", Tensor::zeros({3}, DType::i32)));
  CHECK_SAYS(2, "\"../up\"", writer.add("../up", "labels", Tensor::zeros({3}, DType::i32)));
  CHECK_SAYS(2, "but i32 [] in another split", writer.add("val", "labels", Tensor::zeros({3}, DType::i64)));
}

TEST_CASE("prepared folder: an abandoned temporary folder is cleared, a living writer's is not") {
  const Folder tmp;
  fs::create_directories(tmp / ".x.partial-999999999-0");
  fs::create_directories(tmp / (".x.partial-" + std::to_string(getpid()) + "-77"));
  write_small(tmp / "x");
  CHECK_FALSE(fs::exists(tmp / ".x.partial-999999999-0"));
  CHECK(fs::exists(tmp / (".x.partial-" + std::to_string(getpid()) + "-77")));
}

TEST_CASE("prepared folder: unusable data is named exactly") {
  const Folder tmp;
  const std::string dir = tmp / "small", json = dir + "/dataset.json", tokens = dir + "/train.tokens.npy",
                    offsets = dir + "/train.tokens_offsets.npy", labels = dir + "/train.labels.npy";
  const auto open = [&] { PreparedFolder(dir).validate("train"); };
  CHECK_SAYS(3, "small: no such folder", open());
  fs::create_directories(dir);
  CHECK_SAYS(3, "small/dataset.json: not found", open());
  write_small(dir);
  CHECK_NOTHROW(open());

  SUBCASE("missing files") {
    fs::remove(tokens);
    CHECK_SAYS(3, "small/train.tokens.npy: not found", open());
    write_small(tmp / "b");
    fs::remove(tmp / "b/test.tokens_offsets.npy");
    CHECK_SAYS(3, "b/test.tokens_offsets.npy: not found", PreparedFolder(tmp / "b"));
  }
  SUBCASE("truncated file") {
    fs::resize_file(tokens, fs::file_size(tokens) - 5);
    CHECK_SAYS(3, "small/train.tokens.npy", open());
  }
  SUBCASE("truncated header") {
    fs::resize_file(tokens, 7);
    CHECK_SAYS(3, "small/train.tokens.npy", open());
  }
  SUBCASE("token outside the vocabulary") {
    const uint8_t bad = 100;  // the last token of the last sample: position 0 of sample 22 (length 1)
    poke(tokens, 1, &bad, 1);
    CHECK_SAYS(3,
               "small/train.tokens.npy: split train, sample 22: token 100 at position 0 is outside the 100 tokens of the "
               "vocabulary (0..99)",
               open());
    CHECK_SAYS(3, "sample 22: token 100", Loader(PreparedFolder(dir), "train", {.batch_size = 4}));
    const uint8_t worse = 200;  // an earlier sample is reported first: the last token of sample 21 (length 5)
    poke(tokens, 2, &worse, 1);
    CHECK_SAYS(3, "sample 21: token 200 at position 4", open());
  }
  SUBCASE("label outside the classes") {
    const int32_t bad = -1;
    poke(labels, 8, &bad, 4);
    CHECK_SAYS(3, "small/train.labels.npy: split train, sample 21: label -1 is outside the 4 classes (0..3)", open());
  }
  SUBCASE("offsets not monotone") {
    const int64_t bad = 3;
    poke(offsets, 16, &bad, 8);  // offset 22
    CHECK_SAYS(3, "small/train.tokens_offsets.npy: offsets are not monotone: sample 21 of split train runs from 127 to 3", open());
  }
  SUBCASE("offsets beyond the values") {
    const int64_t bad = 1000;
    poke(offsets, 8, &bad, 8);
    CHECK_SAYS(3, "small/train.tokens.npy: has shape [133], expected [1000]", open());
  }
  SUBCASE("empty sample") {
    const int64_t same = 132;
    const int64_t before = 132;
    poke(offsets, 16, &before, 8);
    poke(offsets, 8, &same, 8);
    write_npy(tokens, Tensor::full({132}, 1, DType::u8));
    CHECK_SAYS(3, "split train, sample 22: is empty", open());
  }
  SUBCASE("sample longer than max_length") {
    replace_text(json, "\"max_length\": 12", "\"max_length\": 10");
    CHECK_SAYS(3, "sample 3: has length 11, more than the max_length 10", open());
  }
  SUBCASE("wrong counts, dtypes, shapes") {
    replace_text(json, "\"train\": 23", "\"train\": 24");
    CHECK_SAYS(3, "expected i64 [25] for 24 samples", open());
    write_small(tmp / "b");
    write_npy(tmp / "b/train.labels.npy", Tensor::zeros({kSamples}, DType::f32));
    CHECK_SAYS(3, "b/train.labels.npy: holds f32, dataset.json says i32", PreparedFolder(tmp / "b"));
    write_npy(tmp / "b/train.labels.npy", Tensor::zeros({kSamples, 2}, DType::i32));
    CHECK_SAYS(3, "b/train.labels.npy: has shape [23,2], expected [23]", PreparedFolder(tmp / "b"));
  }
  SUBCASE("a changed file fails its checksum") {
    const uint8_t other = 42;
    poke(tokens, 9, &other, 1);
    CHECK_NOTHROW(open());
    CHECK_SAYS(3, "small/train.tokens.npy: SHA-256 is", PreparedFolder(dir).verify_checksums());
  }
  SUBCASE("broken dataset.json") {
    replace_text(json, "\"train\": 23", "\"../train\": 23");
    CHECK_SAYS(3, "\"../train\" is no name for a split", open());
    std::ofstream(json) << "{\"format\": \"flare-prepared\", ";
    CHECK_SAYS(3, "dataset.json: cannot be read", open());
    std::ofstream(json) << "{\"format\": \"flare-prepared\", \"version\": 1}";
    CHECK_SAYS(3, "dataset.json: cannot be read", open());
    std::ofstream(json) << "[]";
    CHECK_SAYS(3, "not the description of a prepared data set", open());
    std::ofstream(json) << "{\"format\": \"flare-prepared\", \"version\": 7}";
    CHECK_SAYS(3, "has format version 7", open());
  }
}

TEST_CASE("loader: every sample once an epoch, in an order of the epoch's own") {
  const Folder tmp;
  write_small(tmp / "small");
  Loader loader(PreparedFolder(tmp / "small"), "train", {.batch_size = 4, .seed = 7, .drop_last = false});
  REQUIRE(loader.batches_per_epoch() == 6);
  std::vector<std::vector<int64_t>> orders;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    std::vector<int64_t> order;
    for (int64_t b = 0; b < 6; ++b) {
      CHECK(loader.position() == epoch * 6 + b);
      const Batch batch = loader.next();
      CHECK(batch.epoch == epoch);
      CHECK(batch.n_samples == (b == 5 ? 3 : 4));
      REQUIRE(batch.tokens.shape() == batch.mask.shape());
      for (int64_t row = 0; row < batch.n_samples; ++row) {
        order.push_back(sample_of(batch, row));
        CHECK(batch.labels.data<int64_t>()[row] == order.back() % 4);
      }
    }
    std::vector<int64_t> sorted = order;
    std::sort(sorted.begin(), sorted.end());
    for (int64_t i = 0; i < kSamples; ++i) CHECK(sorted[static_cast<size_t>(i)] == i);
    CHECK(sorted != order);
    orders.push_back(order);
  }
  CHECK(orders[0] != orders[1]);
  CHECK(orders[1] != orders[2]);
  Loader other(PreparedFolder(tmp / "small"), "train", {.batch_size = 4, .seed = 8, .drop_last = false});
  loader.seek(0);
  CHECK_FALSE(equal(loader.next(), other.next()));
}

TEST_CASE("loader: evaluation keeps the order and the last batch; training drops it") {
  const Folder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  Loader eval(folder, "train", {.batch_size = 5, .shuffle = false, .drop_last = false});
  REQUIRE(eval.batches_per_epoch() == 5);
  int64_t i = 0;
  for (int64_t b = 0; b < 5; ++b) {
    const Batch batch = eval.next();
    for (int64_t row = 0; row < batch.n_samples; ++row) CHECK(sample_of(batch, row) == i++);
  }
  CHECK(i == kSamples);
  Loader train(folder, "train", {.batch_size = 5});
  CHECK(train.batches_per_epoch() == 4);
  for (int64_t b = 0; b < 8; ++b) CHECK(train.next().n_samples == 5);
  CHECK_SAYS(3, "split train has 23 samples, too few for one batch of 24", Loader(folder, "train", {.batch_size = 24}));
  CHECK_SAYS(2, "batch size 0 is below 1", Loader(folder, "train", {.batch_size = 0}));
}

TEST_CASE("loader: masks, padding and truncation") {
  const Folder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  for (const int64_t pad_to : {int64_t{0}, int64_t{16}, int64_t{6}}) {
    Loader loader(folder, "train", {.batch_size = 4, .shuffle = false, .drop_last = false, .pad_to = pad_to});
    for (int64_t b = 0; b < loader.batches_per_epoch(); ++b) {
      const Batch batch = loader.next();
      int64_t longest = 0, n_tokens = 0;
      for (int64_t row = 0; row < batch.n_samples; ++row) longest = std::max(longest, length_of(4 * b + row));
      const int64_t n = pad_to ? pad_to : longest;
      REQUIRE(batch.tokens.shape() == Shape{batch.n_samples, n});
      CHECK(batch.mask.dtype() == DType::u8);
      CHECK(batch.tokens.dtype() == DType::i64);
      for (int64_t row = 0; row < batch.n_samples; ++row)
        for (int64_t k = 0; k < n; ++k) {
          const bool is_real = k < length_of(4 * b + row);
          n_tokens += is_real;
          CHECK(batch.mask.data<uint8_t>()[row * n + k] == (is_real ? 1 : 0));
          CHECK(batch.tokens.data<int64_t>()[row * n + k] == (is_real ? token_of(4 * b + row, k) : 0));
        }
      CHECK(batch.n_tokens == n_tokens);
    }
  }
}

TEST_CASE("loader: going on at a position equals never having stopped") {
  const Folder tmp;
  write_small(tmp / "small");
  const PreparedFolder folder(tmp / "small");
  const LoaderOptions options{.batch_size = 4, .seed = 3};
  std::vector<Batch> all;
  Loader whole(folder, "train", options);
  for (int i = 0; i < 20; ++i) all.push_back(whole.next());
  for (const int64_t start : {int64_t{0}, int64_t{1}, int64_t{4}, int64_t{5}, int64_t{13}}) {
    LoaderOptions resumed = options;
    for (const bool prefetch : {true, false}) {
      resumed.prefetch = prefetch;
      Loader loader(PreparedFolder(tmp / "small"), "train", resumed);
      loader.next();
      loader.seek(start);
      for (int64_t i = start; i < 20; ++i) {
        CHECK(loader.position() == i);
        CHECK(equal(loader.next(), all[static_cast<size_t>(i)]));
      }
    }
  }
  int64_t n_wrong = 0;
  for (int i = 0; i < 2000; ++i) {  // the second seek comes while the background thread builds for the first, at changing moments
    whole.seek(i % 7);
    const auto until = std::chrono::steady_clock::now() + std::chrono::microseconds(i % 100);
    while (std::chrono::steady_clock::now() < until) {}
    whole.seek(i % 19);
    n_wrong += !equal(whole.next(), all[static_cast<size_t>(i % 19)]) || !equal(whole.next(), all[static_cast<size_t>(i % 19 + 1)]);
  }
  CHECK(n_wrong == 0);
}

TEST_CASE("loader: a file that changes under the mapping fails in next(), not in a kernel") {
  const Folder tmp;
  write_small(tmp / "small");
  for (const bool prefetch : {true, false}) {
    const PreparedFolder folder(tmp / "small");
    folder.validate("train");
    const uint8_t bad = 255, good = token_of(kSamples - 1, 0);
    poke(tmp / "small/train.tokens.npy", 1, &bad, 1);
    Loader loader(folder, "train", {.batch_size = kSamples, .prefetch = prefetch});
    CHECK_SAYS(3, "sample 22: token 255", loader.next());
    CHECK_SAYS(3, "sample 22: token 255", loader.next());
    CHECK(loader.position() == 0);
    poke(tmp / "small/train.tokens.npy", 1, &good, 1);
    loader.seek(1);
    CHECK(loader.next().epoch == 1);
  }
}

TEST_CASE("loader: fields, fixed and of variable length, and pairs") {
  const Folder tmp;
  DatasetInfo info;
  info.name = "fields";
  info.kind = "field_regression";
  std::vector<double> x, y;
  for (int i = 0; i < 24; ++i) {
    x.push_back(i * 0.5);
    y.push_back(-i);
  }
  {
    PreparedWriter writer(tmp / "fixed", info);
    writer.add("train", "x", cast_to(Tensor::from(x, {4, 3, 2}), DType::f32));
    writer.add("train", "y", Tensor::from(std::vector<double>(y.begin(), y.begin() + 12), {4, 3, 1}));  // f64 on disk
    writer.commit();
  }
  Loader fixed(PreparedFolder(tmp / "fixed"), "train", {.batch_size = 2, .shuffle = false});
  Batch batch = fixed.next();
  CHECK(batch.x.shape() == Shape{2, 3, 2});
  CHECK(batch.y.shape() == Shape{2, 3, 1});
  CHECK(batch.y.dtype() == DType::f32);
  CHECK_FALSE(batch.mask.defined());
  CHECK(batch.n_tokens == 6);
  batch = fixed.next();
  CHECK(batch.x.item(0) == 6.0);
  CHECK(batch.y.item(5) == -11.0);

  const auto write_ragged = [&](const std::string& dir, const std::vector<int64_t>& y_offsets, double value) {
    PreparedWriter writer(dir, info);
    const Tensor values = Tensor::from(x, {12, 2});
    values.data<double>()[7] = value;
    writer.add_ragged("train", "x", values, Tensor::from(std::vector<int64_t>{0, 5, 12}, {3}));
    writer.add_ragged("train", "y", Tensor::from(std::vector<double>(y.begin(), y.begin() + 12), {12}),
                      Tensor::from(y_offsets, {3}));
    writer.commit();
  };
  write_ragged(tmp / "ragged", {0, 5, 12}, 3.5);
  batch = Loader(PreparedFolder(tmp / "ragged"), "train", {.batch_size = 2, .shuffle = false}).next();
  CHECK(batch.x.shape() == Shape{2, 7, 2});
  CHECK(batch.y.shape() == Shape{2, 7});
  CHECK(batch.mask.to_vector() == std::vector<double>{1, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1, 1, 1});
  CHECK(batch.x.item(2 * 5) == 0.0);
  CHECK(batch.x.item(2 * 7) == 5.0);
  CHECK(batch.n_tokens == 12);
  write_ragged(tmp / "uneven", {0, 4, 12}, 3.5);
  CHECK_SAYS(3, "sample 0: y has 4 points and x has 5", PreparedFolder(tmp / "uneven").validate("train"));
  write_ragged(tmp / "nan", {0, 5, 12}, std::numeric_limits<double>::quiet_NaN());
  CHECK_SAYS(3, "nan/train.x.npy: split train, sample 0: value at element 7 is not finite",
             PreparedFolder(tmp / "nan").validate("train"));

  DatasetInfo pairs = small_info();
  {
    PreparedWriter writer(tmp / "pairs", pairs);
    writer.add("train", "tokens", Tensor::from(std::vector<uint8_t>{1, 2, 3, 4}, {2, 2}));
    writer.add_ragged("train", "tokens_b", Tensor::from(std::vector<int32_t>{5, 6, 7, 8, 9}, {5}),
                      Tensor::from(std::vector<int64_t>{0, 1, 5}, {3}));
    writer.add("train", "labels", Tensor::from(std::vector<uint8_t>{0, 3}, {2}));
    writer.commit();
  }
  batch = Loader(PreparedFolder(tmp / "pairs"), "train", {.batch_size = 2, .shuffle = false}).next();
  CHECK_FALSE(batch.mask.defined());
  CHECK(batch.tokens.to_vector() == std::vector<double>{1, 2, 3, 4});
  CHECK(batch.tokens_b.to_vector() == std::vector<double>{5, 0, 0, 0, 6, 7, 8, 9});
  CHECK(batch.mask_b.to_vector() == std::vector<double>{1, 0, 0, 0, 1, 1, 1, 1});
  CHECK(batch.labels.to_vector() == std::vector<double>{0, 3});
  CHECK(batch.n_tokens == 9);
}
