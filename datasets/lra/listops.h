#pragma once
#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "datasets/registry.h"

namespace flare {

/// The token table of ListOps. It is part of the file format and never changes: the published code numbers its tokens in the
/// order of a Python set, so its ids differ from run to run.
///   0 padding   1..10 digits 0..9   11 [MIN   12 [MAX   13 [MED   14 [SM   15 ]
inline constexpr int kListopsVocabulary = 16;
inline constexpr std::array<std::string_view, kListopsVocabulary> kListopsTokens = {
    "<pad>", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MIN", "[MAX", "[MED", "[SM", "]"};
inline constexpr uint8_t kListopsDigit0 = 1, kListopsMin = 11, kListopsMax = 12, kListopsMed = 13, kListopsSm = 14,
                         kListopsClose = 15;

/// Value 0..9 of one expression. MIN, MAX: smallest and largest argument; MED: median, the mean of the middle two rounded down
/// for an even count; SM: sum modulo 10. DataError saying what is wrong, and at which token, unless it is well formed.
int evaluate_listops(std::span<const uint8_t> tokens);

/// Rules of the generator (Nangia and Bowman, arXiv 1804.06028, as set by Long Range Arena, arXiv 2011.04006): a node above
/// max_depth is a digit with probability 3/4 and else an operator with 2..max_args arguments, a node at max_depth is a digit;
/// an expression is kept when min_length < length < max_length, counting digits, operators and closing brackets, when it is at
/// least min_depth deep (a lone digit: 1), and when no earlier one equals it. The defaults are those of Long Range Arena.
struct ListopsOptions {
  uint64_t seed = 0;
  int64_t train = 96000, val = 2000, test = 2000;
  int64_t min_length = 500, max_length = 2000;  // both exclusive
  int64_t min_depth = 1, max_depth = 10, max_args = 10;
};

/// Writes a prepared folder with splits train, val and test: tokens u8 (variable length), labels i32. The result depends on the
/// options alone, not on the number of threads; test is drawn first, then val, then train, so a larger train split keeps the
/// others. ConfigError for impossible options, or when too few distinct expressions fit them.
void generate_listops(const ListopsOptions& options, const std::string& out_dir);

/// Imports basic_train.tsv, basic_val.tsv and basic_test.tsv of the Long Range Arena release ("Source<tab>Target", with or
/// without parentheses, `X` accepted for `]`). DataError naming file and line for a missing file or tab, an unknown token, a
/// malformed expression, and a label that is not 0..9 or disagrees with the expression.
void import_listops_tsv(const std::string& source_dir, const std::string& out_dir);

}  // namespace flare
