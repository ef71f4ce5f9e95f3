/// Byte-level text: the importer of aclImdb, its splits, and what it refuses.
#include <set>

#include "datasets/lra/text.h"
#include "datasets/registry.h"
#include "tests/lra_fixtures.h"

namespace {

constexpr int kReviews = 30;

std::string text_of(const PreparedFolder& folder, const std::string& split, int64_t i) {
  const Column& c = folder.column(split, "tokens");
  std::string out;
  for (int64_t e = c.begin(i); e < c.end(i); ++e) out += static_cast<char>(c.integer(e) - 1);
  return out;
}
std::multiset<std::string> texts_of(const PreparedFolder& folder, const std::string& split) {
  std::multiset<std::string> out;
  for (int64_t i = 0; i < folder.count(split); ++i) out.insert(text_of(folder, split, i));
  return out;
}

}  // namespace

TEST_CASE("text: aclImdb is imported byte by byte, with a validation part of train") {
  const TemporaryFolder tmp;
  write_imdb(tmp.path, kReviews);
  const std::string copied = "bad copy", in_test = "good in both";
  write_bytes(tmp / "aclImdb/train/neg/3_4.txt", copied);
  write_bytes(tmp / "aclImdb/train/neg/7_4.txt", copied);
  write_bytes(tmp / "aclImdb/train/pos/0_7.txt", in_test);
  write_bytes(tmp / "aclImdb/test/pos/5_8.txt", in_test);
  write_bytes(tmp / "aclImdb/train/pos/1_8.txt", std::string(5000, 'a') + "\xc3\xa9");
  import_imdb(tmp.path, tmp / "out", kReviews);
  const PreparedFolder folder(tmp / "out");
  CHECK(folder.info().vocabulary == 257);
  CHECK(folder.info().max_length == 4096);
  CHECK(folder.count("test") == 2 * kReviews);
  CHECK(folder.count("train") + folder.count("val") == 2 * kReviews);
  CHECK(folder.count("val") >= 2 * kReviews / 10);
  CHECK(folder.count("val") <= 2 * kReviews / 10 + 1);  // one more when a text with a copy is chosen
  CHECK(statistics_of(folder, "test").labels == std::vector<int64_t>{kReviews, kReviews});

  const std::multiset<std::string> train = texts_of(folder, "train"), val = texts_of(folder, "val"),
                                   test = texts_of(folder, "test");
  for (const std::string& text : val) CHECK((!train.contains(text) && !test.contains(text)));
  CHECK((train.count(copied) == 2 || val.count(copied) == 2));
  CHECK(train.contains(in_test));
  CHECK(train.count(std::string(4096, 'a')) + val.count(std::string(4096, 'a')) == 1);
  for (const char* split : {"train", "val", "test"})
    for (int64_t i = 0; i < folder.count(split); ++i) {
      const std::string text = text_of(folder, split, i);
      if (text[0] != 'a') CHECK((text[0] == 'g') == (folder.column(split, "labels").integer(i) == 1));
    }
  CHECK(test.contains("good " + words(1004, 3 + 4)));

  import_imdb(tmp / "aclImdb", tmp / "again", kReviews);  // the folder itself will do
  CHECK(sha256_of_file(tmp / "out/val.tokens.npy") == sha256_of_file(tmp / "again/val.tokens.npy"));
}

TEST_CASE("text: missing, truncated, mislabelled, duplicated and oversized files are refused") {
  const TemporaryFolder tmp;
  write_imdb(tmp.path, 3);
  const auto import = [&] { import_imdb(tmp.path, tmp / "out", 3); };
  const auto with = [&](const std::string& file, const std::string& text) {
    write_bytes(tmp / ("aclImdb/" + file), text);
    const std::string says = message_of(import, 3);
    fs::remove(tmp / ("aclImdb/" + file));
    CHECK_FALSE(fs::exists(tmp / "out"));
    CHECK(says.find('\n') == std::string::npos);
    return says;
  };
  const auto contains = [](const std::string& text, const std::string& part) {
    CHECK_MESSAGE(text.find(part) != std::string::npos, text);
  };
  contains(with("train/pos/3_2.txt", "x"), "3_2.txt: mislabelled: a rating of 2 does not belong in pos (7..10)");
  contains(with("train/neg/2_1.txt", "x"), "has the same ID");
  contains(with("train/neg/3_1.txt", "x"), "train/neg: has 4 reviews, expected 3");
  contains(with("train/neg/4_1.txt", "x"), "train/neg: the review with ID 3 is missing");
  contains(with("test/pos/notes.doc", "x"), "notes.doc: is no review");
  const std::string first = read_file(tmp / "aclImdb/test/neg/0_1.txt");
  const auto replaced = [&](const std::string& text) {
    const std::string says = with("test/neg/0_1.txt", text);
    write_bytes(tmp / "aclImdb/test/neg/0_1.txt", first);
    return says;
  };
  contains(replaced(""), "0_1.txt: is empty; is the file truncated?");
  contains(replaced(std::string(70000, 'x')), "0_1.txt: has 70000 bytes, more than the 65536 allowed");
  contains(replaced(std::string("bad \0 text", 10)), "0_1.txt: holds the byte 0 at position 4");
  contains(replaced(read_file(tmp / "aclImdb/train/pos/0_7.txt")), "mislabelled: one review is both in pos and in neg");
  import();  // a good folder survives a failed import into it
  const std::string before = sha256_of_file(tmp / "out/dataset.json");
  write_bytes(tmp / "aclImdb/test/neg/0_1.txt", "");
  CHECK_SAYS(3, "0_1.txt: is empty", import());
  CHECK(sha256_of_file(tmp / "out/dataset.json") == before);
  CHECK_SAYS(3, "train/neg: has 3 reviews, expected 12500", prepare_dataset("text", tmp.path, tmp / "out"));
  fs::remove_all(tmp / "aclImdb/test/neg");
  CHECK_SAYS(3, "not found: test/neg; needed are train/pos, train/neg, test/pos and test/neg", import());
  PreparedFolder(tmp / "out").verify_checksums();
}
