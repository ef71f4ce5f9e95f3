#include "datasets/lra/listops.h"

#include <algorithm>
#include <iterator>
#include <string>
#include <unordered_set>
#include <vector>

#include "core/check.h"
#include "core/job.h"
#include "core/parallel.h"
#include "core/rng.h"
#include "datasets/lra/listops_write.h"
#include "datasets/prepared.h"

namespace flare {
namespace {

constexpr double kDigitProbability = 0.75;
constexpr uint64_t kStream = uint64_t{0x4c4f} << 48;  // keeps these random numbers apart from the loader's
constexpr int64_t kTriesPerChunk = 256, kChunksPerRound = 64;
constexpr int64_t kLargestDepth = 1000;  // bounds the recursion

bool is_operator(uint8_t t) { return t >= kListopsMin && t <= kListopsSm; }
bool is_digit(uint8_t t) { return t >= kListopsDigit0 && t < kListopsDigit0 + 10; }

/// An operator whose closing bracket has not come yet: how often each digit was an argument is all that its value needs.
struct Open {
  uint8_t op;
  int64_t n = 0;
  int64_t counts[10] = {};

  int nth(int64_t k) const {  // k-th smallest argument
    int d = 0;
    while (k >= counts[d]) k -= counts[d++];
    return d;
  }
  int value() const {
    switch (op) {
      case kListopsMin: return nth(0);
      case kListopsMax: return nth(n - 1);
      case kListopsMed: return (nth((n - 1) / 2) + nth(n / 2)) / 2;
      default: {
        int64_t sum = 0;
        for (int64_t d = 0; d < 10; ++d) sum += d * counts[d];
        return static_cast<int>(sum % 10);
      }
    }
  }
};

/// Draws one expression by the published rules; empty when it gets too long (it would be rejected, so stopping early changes
/// nothing). Token counts include a node's closing bracket.
class Draw {
 public:
  Draw(const ListopsOptions& options, uint64_t attempt) : o_(options), rng_(options.seed, kStream + attempt) {}

  /// True when the expression in `tokens` is to be kept, duplicates aside.
  bool run(std::string& tokens) {
    tokens.clear();
    depth_ = 0;
    if (!node(1, tokens)) return false;
    return static_cast<int64_t>(tokens.size()) > o_.min_length && static_cast<int64_t>(tokens.size()) < o_.max_length &&
           depth_ >= o_.min_depth;
  }

 private:
  bool node(int64_t depth, std::string& tokens) {
    if (static_cast<int64_t>(tokens.size()) >= o_.max_length) return false;
    depth_ = std::max(depth_, depth);
    if (depth >= o_.max_depth || rng_.uniform() >= 1 - kDigitProbability) {
      tokens += static_cast<char>(kListopsDigit0 + rng_.below(10));
      return true;
    }
    tokens += static_cast<char>(kListopsMin + rng_.below(4));
    for (uint64_t n = 2 + rng_.below(static_cast<uint64_t>(o_.max_args - 1)); n > 0; --n)
      if (!node(depth + 1, tokens)) return false;
    tokens += static_cast<char>(kListopsClose);
    return true;
  }

  const ListopsOptions& o_;
  Rng rng_;
  int64_t depth_ = 0;
};

void check_options(const ListopsOptions& o) {
  check_counts("listops", o);
  check<ConfigError>(o.min_length >= 0 && o.max_length >= o.min_length + 2, "listops: no length lies strictly between min_length ",
                     o.min_length, " and max_length ", o.max_length);
  check<ConfigError>(o.max_args >= 2, "listops: max_args is ", o.max_args, "; operators have at least 2 arguments");
  check<ConfigError>(o.min_depth >= 1 && o.max_depth >= o.min_depth && o.max_depth <= kLargestDepth,
                     "listops: needs 1 <= min_depth <= max_depth <= ", kLargestDepth, ", got ", o.min_depth, " and ", o.max_depth);
}

/// The first `n` distinct expressions, in the order of their attempts.
std::vector<const std::string*> draw_expressions(const ListopsOptions& o, int64_t n, std::unordered_set<std::string>& seen) {
  Job job("listops", n, "expressions");
  std::vector<const std::string*> kept;
  std::vector<std::vector<std::string>> found(kChunksPerRound);
  for (int64_t round = 0; static_cast<int64_t>(kept.size()) < n; ++round) {
    parallel_for(kChunksPerRound, 1, [&](int64_t begin, int64_t end) {
      std::string tokens;
      for (int64_t c = begin; c < end; ++c) {
        job.check_stop();
        found[static_cast<size_t>(c)].clear();
        for (int64_t t = 0; t < kTriesPerChunk; ++t)
          if (Draw(o, static_cast<uint64_t>((round * kChunksPerRound + c) * kTriesPerChunk + t)).run(tokens))
            found[static_cast<size_t>(c)].push_back(tokens);
      }
    });
    const int64_t n_before = static_cast<int64_t>(kept.size());
    for (std::vector<std::string>& chunk : found)
      for (std::string& tokens : chunk) {
        if (static_cast<int64_t>(kept.size()) == n) {
          job.advance(n - n_before);
          return kept;
        }
        if (const auto [place, is_new] = seen.insert(std::move(tokens)); is_new) kept.push_back(&*place);
      }
    job.advance(static_cast<int64_t>(kept.size()) - n_before);
    const int64_t tries = (round + 1) * kChunksPerRound * kTriesPerChunk;
    check<ConfigError>(tries < 2'000'000 || static_cast<int64_t>(kept.size()) * 10'000 > tries, "listops: only ", kept.size(),
                       " of ", n, " distinct expressions after ", tries, " tries with length in (", o.min_length, ", ",
                       o.max_length, "), depth ", o.min_depth, " to ", o.max_depth, " and at most ", o.max_args,
                       " arguments; widen these ranges or ask for fewer samples");
  }
  return kept;
}

}  // namespace

int evaluate_listops(std::span<const uint8_t> tokens) {
  std::vector<Open> open;
  int result = -1;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const uint8_t t = tokens[i];
    check<DataError>(result < 0, "expression goes on at token ", i, " after it is complete");
    int value = -1;
    if (is_operator(t)) {
      open.push_back({t});
    } else if (is_digit(t)) {
      value = t - kListopsDigit0;
    } else {
      check<DataError>(t == kListopsClose, "token ", i, " has the id ", static_cast<int>(t), ", which no expression contains");
      check<DataError>(!open.empty(), "token ", i, " is a ] without an open operator");
      check<DataError>(open.back().n > 0, "token ", i, " closes an operator without arguments");
      value = open.back().value();
      open.pop_back();
    }
    if (value < 0) continue;
    if (open.empty()) {
      result = value;
    } else {
      ++open.back().counts[value];
      ++open.back().n;
    }
  }
  check<DataError>(result >= 0,
                   tokens.empty() ? "expression is empty" : cat("expression ends before its closing ] (", open.size(), " open)"));
  return result;
}

void generate_listops(const ListopsOptions& options, const std::string& out_dir) {
  check_options(options);
  const ListopsOptions& o = options;
  DatasetInfo info = listops_info(o.max_length);
  info.source = cat("generated by flare, seed ", o.seed, ": length between ", o.min_length, " and ", o.max_length,
                    " (exclusive), depth ", o.min_depth, " to ", o.max_depth, ", at most ", o.max_args, " arguments");
  info.licence = "generated; no licence applies";
  PreparedWriter writer(out_dir, info);  // first, so that a wrong folder shows before the work is done

  std::unordered_set<std::string> seen;
  const std::vector<const std::string*> all = draw_expressions(o, o.train + o.val + o.test, seen);
  int64_t first = 0;
  for (const auto& [split, count] : {std::pair("test", o.test), std::pair("val", o.val), std::pair("train", o.train)}) {
    std::vector<std::string_view> expressions;
    for (int64_t i = 0; i < count; ++i) expressions.push_back(*all[static_cast<size_t>(first + i)]);
    std::vector<int32_t> labels(expressions.size());
    parallel_for(count, 64, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const std::string_view e = expressions[static_cast<size_t>(i)];
        labels[static_cast<size_t>(i)] = evaluate_listops({reinterpret_cast<const uint8_t*>(e.data()), e.size()});
      }
    });
    add_listops_split(writer, split, expressions, labels);
    first += count;
  }
  writer.commit();
}

DatasetInfo listops_info(int64_t max_length) {
  DatasetInfo info;
  info.name = "listops";
  info.kind = "sequence_classification";
  info.vocabulary = kListopsVocabulary;
  info.tokens.assign(kListopsTokens.begin(), kListopsTokens.end());
  info.n_classes = 10;
  info.max_length = max_length;
  info.citation = "N. Nangia and S. Bowman, ListOps, arXiv 1804.06028; Y. Tay et al., Long Range Arena, arXiv 2011.04006";
  return info;
}

void add_listops_split(PreparedWriter& writer, const std::string& split, std::span<const std::string_view> expressions,
                       const std::vector<int32_t>& labels) {
  const int64_t n = static_cast<int64_t>(expressions.size());
  const Tensor offsets = Tensor::zeros({n + 1}, DType::i64);
  for (int64_t i = 0; i < n; ++i)
    offsets.data<int64_t>()[i + 1] = offsets.data<int64_t>()[i] + static_cast<int64_t>(expressions[static_cast<size_t>(i)].size());
  const Tensor tokens = Tensor::empty({offsets.data<int64_t>()[n]}, DType::u8);
  for (int64_t i = 0; i < n; ++i) {
    const std::string_view e = expressions[static_cast<size_t>(i)];
    std::copy(e.begin(), e.end(), tokens.data<uint8_t>() + offsets.data<int64_t>()[i]);
  }
  writer.add_ragged(split, "tokens", tokens, offsets);
  writer.add(split, "labels", Tensor::from(labels, {n}));
}

static DatasetEntry listops_entry() {
  DatasetEntry e;
  e.name = "listops";
  e.kind = "sequence_classification";
  e.description = "Long Range Arena ListOps: the value 0..9 of a nested list expression of 500 to 2000 tokens";
  e.licence = "generated data: none; importing the published files: Apache-2.0";
  e.citation = listops_info(0).citation;
  const ListopsOptions d;
  e.options = {{"min_length", std::to_string(d.min_length), "expressions are longer than this"},
               {"max_length", std::to_string(d.max_length), "expressions are shorter than this"},
               {"min_depth", std::to_string(d.min_depth), "smallest nesting depth (a lone digit: 1)"},
               {"max_depth", std::to_string(d.max_depth), "largest nesting depth"},
               {"max_args", std::to_string(d.max_args), "most arguments of an operator"}};
  e.generate = [](const GenerateOptions& g, const std::string& out_dir) {
    ListopsOptions o;
    take_counts(g, o);
    o.min_length = extra_int(g, "min_length", o.min_length);
    o.max_length = extra_int(g, "max_length", o.max_length);
    o.min_depth = extra_int(g, "min_depth", o.min_depth);
    o.max_depth = extra_int(g, "max_depth", o.max_depth);
    o.max_args = extra_int(g, "max_args", o.max_args);
    generate_listops(o, out_dir);
  };
  e.prepare = import_listops_tsv;
  return e;
}
FLARE_REGISTER_DATASET(listops_entry());

}  // namespace flare
