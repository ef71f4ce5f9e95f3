#include "datasets/lra/retrieval.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <vector>

#include "core/check.h"
#include "core/file.h"
#include "core/job.h"
#include "datasets/lra/bytes.h"
#include "datasets/registry.h"

namespace flare {
namespace {

constexpr int64_t kMaxLength = 4000;
constexpr size_t kLargestText = size_t{1} << 24;
constexpr size_t kColumns = 5;
constexpr std::pair<const char*, const char*> kFiles[] = {
    {"train", "new_aan_pairs.train.tsv"}, {"val", "new_aan_pairs.eval.tsv"}, {"test", "new_aan_pairs.test.tsv"}};

/// The pairs of one file; the texts lie in the file.
struct Pairs {
  MappedFile file;
  std::vector<std::string_view> a, b;
  std::vector<uint8_t> labels;
};

std::vector<std::string_view> columns_of(std::string_view line) {
  std::vector<std::string_view> out;
  for (size_t i = 0;;) {
    const size_t tab = line.find('\t', i);
    out.push_back(line.substr(i, tab == std::string_view::npos ? tab : tab - i));
    if (tab == std::string_view::npos) return out;
    i = tab + 1;
  }
}

/// Label and place of every pair of IDs met so far.
using Known = std::unordered_map<std::string, std::pair<uint8_t, std::string>>;

/// Adds one line; true when its pair is new.
bool parse_line(std::string_view line, const std::string& where, Known& known, Pairs& out) {
  const std::vector<std::string_view> columns = columns_of(line);
  check<DataError>(columns.size() == kColumns, where, ": has ", columns.size(), " columns, expected label, two IDs and two texts (",
                   kColumns, "); is the file truncated?");
  const std::string_view label = columns[0];
  const bool is_one = label == "1" || label == "1.0";
  check<DataError>(is_one || label == "0" || label == "0.0", where, ": mislabelled: ", quoted(label, 20), " is neither 0 nor 1");
  for (size_t c = 3; c < kColumns; ++c) {
    check<DataError>(columns[c].size() <= kLargestText, where, ": oversized: text ", c - 2, " has ", columns[c].size(),
                     " bytes, more than ", kLargestText);
    const std::string problem = text_problem(columns[c].substr(0, static_cast<size_t>(kMaxLength)));
    check<DataError>(problem.empty(), where, ": text ", c - 2, " ", problem);
  }
  const auto [place, is_new] = known.try_emplace(cat(columns[1], '\t', columns[2]), static_cast<uint8_t>(is_one), where);
  check<DataError>(is_new || place->second.first == static_cast<uint8_t>(is_one), where, ": mislabelled: ", quoted(columns[1], 30),
                   " and ", quoted(columns[2], 30), " have the other label at ", place->second.second);
  out.a.push_back(columns[3]);
  out.b.push_back(columns[4]);
  out.labels.push_back(static_cast<uint8_t>(is_one));
  return is_new;
}

/// Reads one file; the number of repeated pairs is added to n_repeated.
void read_pairs(const std::string& path, Known& known, Pairs& out, int64_t& n_repeated) {
  out.file = MappedFile(path);
  const std::string_view text(reinterpret_cast<const char*>(out.file.data()), out.file.size());
  check<DataError>(!text.empty(), path, ": is empty");
  check<DataError>(text.back() == '\n', path, ": truncated: the last line has no end (if it is complete, append a newline)");
  int64_t n_lines = 0, n_here = 0;
  Job job(path.substr(path.rfind('/') + 1), static_cast<int64_t>(text.size()), "bytes");
  for (size_t i = 0; i < text.size();) {
    job.check_stop();
    const size_t end = text.find('\n', i);
    std::string_view line = text.substr(i, end - i);
    if (line.ends_with('\r')) line.remove_suffix(1);
    n_here += !parse_line(line, cat(path, ":", ++n_lines), known, out);
    job.advance(static_cast<int64_t>(end + 1 - i));
    i = end + 1;
  }
  check<DataError>(n_here * 100 <= n_lines, path, ": duplicated: ", n_here, " of ", n_lines,
                   " pairs occur earlier, in this file or another split");
  n_repeated += n_here;
}

DatasetEntry retrieval_entry() {
  DatasetEntry e;
  e.name = "retrieval";
  e.kind = "pair_classification";
  e.description = "Long Range Arena Retrieval: does one paper cite the other? Two texts as bytes (AAN; bring the files)";
  e.licence = "the text of the ACL Anthology Network may not be redistributed";
  e.citation = "D. Radev et al., The ACL anthology network corpus, 2013; Y. Tay et al., Long Range Arena, arXiv 2011.04006";
  e.prepare = import_aan;
  return e;
}
FLARE_REGISTER_DATASET(retrieval_entry());

}  // namespace

void import_aan(const std::string& source_dir, const std::string& out_dir) {
  std::string missing;
  for (const auto& [split, name] : kFiles)
    if (!file_exists(source_dir + "/" + name)) missing += cat(missing.empty() ? "" : ", ", name);
  check<DataError>(
      missing.empty(), source_dir, ": not found: ", missing,
      "; needed are new_aan_pairs.train.tsv (147,086 pairs), .eval.tsv (18,090) and .test.tsv (17,437), from lra_release.gz (about "
      "8 GB) of github.com/google-research/long-range-arena");
  Known known;
  Pairs splits[std::size(kFiles)];
  int64_t n_repeated = 0;
  for (size_t s = 0; s < std::size(kFiles); ++s) read_pairs(source_dir + "/" + kFiles[s].second, known, splits[s], n_repeated);
  const DatasetEntry& entry = find_dataset("retrieval");
  DatasetInfo info;
  info.name = entry.name;
  info.kind = entry.kind;
  info.vocabulary = kByteVocabulary;
  info.n_classes = 2;
  info.max_length = kMaxLength;
  info.source = cat("imported from new_aan_pairs.{train,eval,test}.tsv of the Long Range Arena release, ", n_repeated,
                    " repeated pairs kept; bytes + 1, cut to ", kMaxLength);
  info.licence = entry.licence;
  info.citation = entry.citation;
  PreparedWriter writer(out_dir, info);
  for (size_t s = 0; s < std::size(kFiles); ++s) {
    Pairs& pairs = splits[s];
    add_texts(writer, kFiles[s].first, "tokens", pairs.a, kMaxLength);
    add_texts(writer, kFiles[s].first, "tokens_b", pairs.b, kMaxLength);
    writer.add(kFiles[s].first, "labels", Tensor::from(pairs.labels, {static_cast<int64_t>(pairs.labels.size())}));
  }
  writer.commit();
}

}  // namespace flare
