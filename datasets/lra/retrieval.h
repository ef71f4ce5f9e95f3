#pragma once
#include <cstdint>
#include <string>

#include "datasets/prepared.h"

namespace flare {

/// Imports new_aan_pairs.train.tsv, .eval.tsv and .test.tsv of the Long Range Arena release (lines of label, two paper IDs and two
/// texts, separated by tabs) as pairs of byte sequences: tokens and tokens_b u8 (byte + 1, the first 4000 bytes), labels u8 (1: one
/// cites the other). The text may not be redistributed, so whoever has it imports it. DataError for missing files (all are listed)
/// and, naming file and line, for a line that breaks off, a label other than 0 and 1, one pair with both labels, an empty or
/// oversized text, two equal files, and a file in which more than 1 % of the pairs are repeated (a few are: they are kept).
void import_aan(const std::string& source_dir, const std::string& out_dir);

/// Rules of `excerpts`, a stand-in for Retrieval that can be made from any text: do two excerpts come from the same document?
struct ExcerptsOptions {
  std::string source;  // folder of documents, searched with its subfolders
  uint64_t seed = 0;
  int64_t train = 20000, val = 2000, test = 2000;
  int64_t length = 1000;  // bytes of an excerpt
};

/// Writes pairs like import_aan's, half of them positive (one more negative if the count is odd). Documents are the text files of
/// at least twice the length, equal ones once; by the order of their SHA-256 with the seed a tenth serves val, a tenth test, the
/// rest train, so no document serves two splits. Two excerpts never overlap, and no pair comes twice. The result depends on options
/// and documents alone. ConfigError when there are too few documents.
void generate_excerpts(const ExcerptsOptions& options, const std::string& out_dir);

}  // namespace flare
