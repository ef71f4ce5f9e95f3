/// Pairs of texts: the importer of the AAN files, and the excerpts made from any documents.
#include <map>
#include <set>

#include "datasets/lra/retrieval.h"
#include "datasets/registry.h"
#include "tests/lra_fixtures.h"

namespace {

std::string text_of(const PreparedFolder& folder, const std::string& split, const std::string& field, int64_t i) {
  const Column& c = folder.column(split, field);
  std::string out;
  for (int64_t e = c.begin(i); e < c.end(i); ++e) out += static_cast<char>(c.integer(e) - 1);
  return out;
}

/// Documents whose every stretch of 4 characters names the document: "017.".
void write_documents(const std::string& dir, int n, int repeats) {
  for (int d = 0; d < n; ++d) {
    std::string text, name = std::to_string(1000 + d).substr(1) + ".";
    for (int i = 0; i < repeats + d % 3; ++i) text += name;
    write_bytes(cat(dir, "/", d % 2 ? "deep/er/" : "", d, ".txt"), text);
  }
}

}  // namespace

TEST_CASE("retrieval: the AAN files become pairs of byte sequences") {
  const TemporaryFolder tmp;
  write_aan(tmp.path, 20);
  std::string lines = aan_lines("test", 20) + "1\tlong\tshort\t" + std::string(4000, 'x') + "y\tends here \xc3\xa9\r\n";
  write_bytes(tmp / "new_aan_pairs.test.tsv", lines);
  prepare_dataset("retrieval", tmp.path, tmp / "out");
  const PreparedFolder folder(tmp / "out");
  CHECK(folder.info().kind == "pair_classification");
  CHECK(folder.info().vocabulary == 257);
  CHECK(folder.info().max_length == 4000);
  CHECK(folder.count("train") == 20);
  CHECK(folder.count("val") == 20);
  CHECK(folder.count("test") == 21);
  CHECK(text_of(folder, "test", "tokens", 20) == std::string(4000, 'x'));
  CHECK(text_of(folder, "test", "tokens_b", 20) == "ends here \xc3\xa9");
  CHECK(text_of(folder, "train", "tokens", 3) == "speech " + words(6, 7));
  CHECK(text_of(folder, "train", "tokens_b", 3) == "speech " + words(8, 7));
  for (int64_t i = 0; i < 20; ++i) CHECK(folder.column("val", "labels").integer(i) == i % 2);
}

TEST_CASE("retrieval: missing, truncated, mislabelled, duplicated and oversized input is refused") {
  const TemporaryFolder tmp;
  write_aan(tmp.path, 200);
  const std::string eval = tmp / "new_aan_pairs.eval.tsv", good = read_file(eval);
  const auto import_with = [&](const std::string& lines) {
    write_bytes(eval, lines);
    import_aan(tmp.path, tmp / "out");
  };
  CHECK_SAYS(3, "eval.tsv: is empty", import_with(""));
  CHECK_SAYS(3, "eval.tsv: truncated: the last line has no end", import_with(good.substr(0, good.size() - 3)));
  CHECK_SAYS(3, "eval.tsv:201: has 3 columns, expected label, two IDs and two texts (5); is the file truncated?",
             import_with(good + "1\ta\tb\n"));
  CHECK_SAYS(3, "eval.tsv:201: has 6 columns", import_with(good + "1\ta\tb\tc\td\te\n"));
  CHECK_SAYS(3, "eval.tsv:201: mislabelled: \"2.0\" is neither 0 nor 1", import_with(good + "2.0\ta\tb\tc\td\n"));
  CHECK_SAYS(3, "mislabelled: \"eval0-A\" and \"eval0-B\" have the other label at",
             import_with(good + "1\teval0-A\teval0-B\tc\td\n"));
  CHECK_SAYS(3, "eval.tsv:201: text 2 is empty", import_with(good + "1\ta\tb\tc\t\n"));
  CHECK_SAYS(3, "eval.tsv:201: text 1 holds the byte 255", import_with(good + "1\ta\tb\tc\xff\td\n"));
  CHECK_SAYS(3, "eval.tsv: duplicated: 200 of 400 pairs occur earlier", import_with(good + good));
  CHECK_SAYS(3, "eval.tsv: duplicated: 200 of 200 pairs occur earlier", import_with(aan_lines("train", 200)));
  CHECK_SAYS(3, "oversized: text 1 has 17000000 bytes", import_with(good + "1\ta\tb\t" + std::string(17000000, 'c') + "\td\n"));
  CHECK_FALSE(fs::exists(tmp / "out"));
  import_with(good + "0.0\teval0-A\teval0-B\tc\td\n");  // a few repeated pairs are kept
  CHECK(PreparedFolder(tmp / "out").info().source.find(", 1 repeated pairs kept") != std::string::npos);
  fs::remove(eval);
  fs::remove(tmp / "new_aan_pairs.test.tsv");
  CHECK_SAYS(3, "not found: new_aan_pairs.eval.tsv, new_aan_pairs.test.tsv; needed are new_aan_pairs.train.tsv (147,086 pairs)",
             import_aan(tmp.path, tmp / "x"));
  CHECK_SAYS(2, "retrieval: cannot be generated", generate_dataset("retrieval", {}, tmp / "x"));
}

TEST_CASE("excerpts: half from one document, none shared by two splits, no overlap, no pair twice") {
  const TemporaryFolder tmp;
  write_documents(tmp / "docs", 60, 40);
  write_bytes(tmp / "docs/copy.txt", read_file(tmp / "docs/0.txt"));
  write_bytes(tmp / "docs/short.txt", "too short");
  write_bytes(tmp / "docs/binary.txt", std::string(500, '\0'));
  const ExcerptsOptions o{.source = tmp / "docs", .seed = 3, .train = 400, .val = 40, .test = 41, .length = 40};
  generate_excerpts(o, tmp / "a");
  const PreparedFolder folder(tmp / "a");
  CHECK(folder.info().name == "excerpts");
  CHECK(folder.info().source.find("from 60 documents (2 files too short or not text left out)") != std::string::npos);
  CHECK(statistics_of(folder, "train").labels == std::vector<int64_t>{200, 200});
  CHECK(statistics_of(folder, "test").labels == std::vector<int64_t>{21, 20});
  const auto document_of = [](const std::string& excerpt) {
    const size_t dot = excerpt.find('.');
    return excerpt.substr(dot + 1, 3);
  };
  std::map<std::string, std::set<std::string>> documents;
  for (const auto& [split, n] : folder.info().splits) {
    std::set<std::pair<std::string, std::string>> pairs;
    for (int64_t i = 0; i < n; ++i) {
      const std::string a = text_of(folder, split, "tokens", i), b = text_of(folder, split, "tokens_b", i);
      CHECK((a.size() == 40 && b.size() == 40));
      CHECK((document_of(a) == document_of(b)) == (folder.column(split, "labels").integer(i) == 1));
      documents[split].insert({document_of(a), document_of(b)});
    }
  }
  CHECK(documents["val"].size() <= 6);
  for (const std::string& d : documents["train"]) CHECK((!documents["val"].contains(d) && !documents["test"].contains(d)));
  for (const std::string& d : documents["val"]) CHECK(!documents["test"].contains(d));

  generate_dataset("excerpts", {.seed = 3, .train = 400, .val = 40, .test = 41, .extra = {{"source", o.source}, {"length", "40"}}},
                   tmp / "b");
  CHECK(sha256_of_file(tmp / "a/dataset.json") == sha256_of_file(tmp / "b/dataset.json"));
  CHECK(sha256_of_file(tmp / "a/train.tokens_b.npy") == sha256_of_file(tmp / "b/train.tokens_b.npy"));
}

TEST_CASE("excerpts: two excerpts of a document never overlap, and no pair comes twice") {
  const TemporaryFolder tmp;
  for (int d = 0; d < 20; ++d) {  // counting up, so that an excerpt says where it begins
    std::string text;
    for (int i = 0; i < 40; ++i) text += std::to_string(10000 + 1000 * d + i) + ",";
    write_bytes(cat(tmp / "docs/", d, ".txt"), text);
  }
  generate_excerpts({.source = tmp / "docs", .seed = 1, .train = 300, .val = 4, .test = 4, .length = 60}, tmp / "out");
  const PreparedFolder folder(tmp / "out");
  std::set<std::pair<std::string, std::string>> pairs;
  for (int64_t i = 0; i < 300; ++i) {
    const std::string a = text_of(folder, "train", "tokens", i), b = text_of(folder, "train", "tokens_b", i);
    CHECK(pairs.insert({a, b}).second);
    if (folder.column("train", "labels").integer(i) == 0) continue;
    for (size_t k = 0; k + 12 <= a.size(); k += 6) {  // holds a whole number, which occurs once
      CHECK(b.find(a.substr(k, 12)) == std::string::npos);
    }
  }
}

TEST_CASE("excerpts: too little text, and mistakes in the options") {
  const TemporaryFolder tmp;
  write_documents(tmp / "docs", 12, 40);
  CHECK_SAYS(2, "option source: \"\" is no folder; name a folder of text documents with --set source=DIR",
             generate_dataset("excerpts", {}, tmp / "x"));
  CHECK_SAYS(2, "has 12 different text documents of at least 80 bytes; 20 are needed",
             generate_excerpts({.source = tmp / "docs", .length = 40}, tmp / "x"));
  CHECK_SAYS(2, "length is 3; 8 to", generate_excerpts({.source = tmp / "docs", .length = 3}, tmp / "x"));
  write_documents(tmp / "docs", 30, 40);
  CHECK_SAYS(2, "different pairs from 24 documents; bring more or longer documents",
             generate_excerpts({.source = tmp / "docs", .train = 100000, .val = 4, .test = 4, .length = 40}, tmp / "x"));
  CHECK_FALSE(fs::exists(tmp / "x"));
}
