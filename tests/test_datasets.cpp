/// Prepared folders: writing, reading, statistics, and what is said of unusable data. The loader: test_loader.cpp.
#include <map>

#include "datasets/loader.h"
#include "tests/dataset_fixtures.h"

namespace {

void replace_text(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = read_file(path);
  const size_t at = text.find(from);
  REQUIRE(at != std::string::npos);
  std::ofstream(path, std::ios::binary) << text.replace(at, from.size(), to);
}

}  // namespace

TEST_CASE("prepared folder: what is written is read back") {
  const TemporaryFolder tmp;
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
  const TemporaryFolder tmp;
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
  const TemporaryFolder tmp;
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
  const TemporaryFolder tmp;
  fs::create_directories(tmp / ".x.partial-999999999-0");
  fs::create_directories(tmp / (".x.partial-" + std::to_string(getpid()) + "-77"));
  write_small(tmp / "x");
  CHECK_FALSE(fs::exists(tmp / ".x.partial-999999999-0"));
  CHECK(fs::exists(tmp / (".x.partial-" + std::to_string(getpid()) + "-77")));
}

TEST_CASE("prepared folder: unusable data is named exactly") {
  const TemporaryFolder tmp;
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
