#include <algorithm>
#include <charconv>
#include <string>
#include <vector>

#include "core/check.h"
#include "core/file.h"
#include "core/job.h"
#include "core/parallel.h"
#include "datasets/lra/listops.h"
#include "datasets/lra/listops_write.h"

namespace flare {
namespace {

constexpr const char* kHeader = "Source\tTarget";

struct Split {
  std::vector<std::string> expressions;  // token ids
  std::vector<int32_t> labels;
};

uint8_t token_of(std::string_view word) {
  if (word == "X") return kListopsClose;  // the official loader writes it for ], lest a tokenizer drop the bracket
  const auto found = std::find(kListopsTokens.begin() + 1, kListopsTokens.end(), word);
  check<DataError>(found != kListopsTokens.end(), "unknown token ", quoted(word, 20));
  return static_cast<uint8_t>(found - kListopsTokens.begin());
}

/// "( ( [MAX 3 ) 5 ) ]" -> token ids; parentheses carry no information and are dropped.
std::string tokens_of(std::string_view source) {
  std::string tokens;
  for (size_t i = 0; i < source.size();) {
    if (source[i] == ' ') {
      ++i;
      continue;
    }
    const size_t end = std::min(source.find(' ', i), source.size());
    const std::string_view word = source.substr(i, end - i);
    if (word != "(" && word != ")") tokens += static_cast<char>(token_of(word));
    i = end;
  }
  return tokens;
}

void parse_line(std::string_view line, std::string& expression, int32_t& label) {
  const size_t tab = line.find('\t');
  check<DataError>(tab != std::string_view::npos, "has no tab between expression and label; is the file truncated?");
  expression = tokens_of(line.substr(0, tab));
  const std::string_view target = line.substr(tab + 1);
  const auto [end, error] = std::from_chars(target.data(), target.data() + target.size(), label);
  check<DataError>(error == std::errc{} && end == target.data() + target.size() && label >= 0 && label <= 9, "label ",
                   quoted(target, 20), " is not one of 0..9");
  const int value = evaluate_listops({reinterpret_cast<const uint8_t*>(expression.data()), expression.size()});
  check<DataError>(value == label, "label is ", label, ", but the expression evaluates to ", value);
}

Split read_split(const std::string& path) {
  check<DataError>(
      file_exists(path), path,
      ": not found; the source folder needs basic_train.tsv, basic_val.tsv and basic_test.tsv of the Long Range Arena release");
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.data()), file.size());
  std::vector<std::string_view> lines;
  for (size_t i = 0; i < text.size();) {
    const size_t end = std::min(text.find('\n', i), text.size());
    std::string_view line = text.substr(i, end - i);
    if (line.ends_with('\r')) line.remove_suffix(1);
    lines.push_back(line);
    i = end + 1;
  }
  check<DataError>(!lines.empty() && lines[0] == kHeader, path, ":1: expected the header Source<tab>Target, found ",
                   quoted(lines.empty() ? std::string_view() : lines[0], 40));
  const int64_t n = static_cast<int64_t>(lines.size()) - 1;
  check<DataError>(n > 0, path, ": has no samples");

  Split split;
  split.expressions.resize(static_cast<size_t>(n));
  split.labels.resize(static_cast<size_t>(n));
  constexpr int64_t kChunk = 64;
  std::vector<std::string> problems(static_cast<size_t>((n + kChunk - 1) / kChunk));
  Job job(path.substr(path.rfind('/') + 1), n, "lines");
  parallel_for(n, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const JobItem item(job);
      const size_t k = static_cast<size_t>(i);
      try {
        parse_line(lines[k + 1], split.expressions[k], split.labels[k]);
      } catch (const DataError& e) {
        problems[static_cast<size_t>(begin / kChunk)] = cat(path, ":", i + 2, ": ", e.what());
        return;
      }
    }
  });
  for (const std::string& problem : problems)
    check<DataError>(problem.empty(), problem);  // the first line, whatever the threads did
  return split;
}

}  // namespace

void import_listops_tsv(const std::string& source_dir, const std::string& out_dir) {
  check<DataError>(directory_exists(source_dir), source_dir, ": no such folder");
  const std::vector<std::string> names = {"train", "val", "test"};
  std::vector<Split> splits;
  size_t longest = 0;
  for (const std::string& name : names) {
    splits.push_back(read_split(source_dir + "/basic_" + name + ".tsv"));
    for (const std::string& e : splits.back().expressions) longest = std::max(longest, e.size());
  }
  DatasetInfo info = listops_info(static_cast<int64_t>(longest));
  info.source = "imported from basic_train.tsv, basic_val.tsv and basic_test.tsv of the Long Range Arena release";
  info.licence = "Apache-2.0 (google-research/long-range-arena)";
  PreparedWriter writer(out_dir, info);
  for (size_t s = 0; s < names.size(); ++s) {
    const std::vector<std::string_view> views(splits[s].expressions.begin(), splits[s].expressions.end());
    add_listops_split(writer, names[s], views, splits[s].labels);
  }
  writer.commit();
}

}  // namespace flare
