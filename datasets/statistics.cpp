#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "datasets/prepared.h"

namespace flare {

SplitStatistics statistics_of(const PreparedFolder& folder, const std::string& split) {
  SplitStatistics s;
  s.n_samples = folder.count(split);
  folder.validate(split);
  if (folder.has_field("labels") && folder.info().n_classes > 0) {
    const Column& labels = folder.column(split, "labels");
    s.labels.assign(static_cast<size_t>(folder.info().n_classes), 0);
    for (int64_t i = 0; i < s.n_samples; ++i) ++s.labels[static_cast<size_t>(labels.integer(i))];
    if (s.n_samples > 0) {
      const auto top = std::max_element(s.labels.begin(), s.labels.end());
      s.majority_class = top - s.labels.begin();
      s.majority_share = static_cast<double>(*top) / static_cast<double>(s.n_samples);
    }
  }
  for (const FieldInfo& f : folder.info().fields) {
    if (!f.ragged) continue;
    const Column& c = folder.column(split, f.name);
    std::vector<int64_t> lengths(static_cast<size_t>(s.n_samples));
    for (int64_t i = 0; i < s.n_samples; ++i) lengths[static_cast<size_t>(i)] = c.length(i);
    if (lengths.empty()) break;
    std::sort(lengths.begin(), lengths.end());
    const auto quantile = [&](double q) { return lengths[static_cast<size_t>(q * static_cast<double>(lengths.size() - 1) + 0.5)]; };
    s.has_lengths = true;
    s.mean_length =
        static_cast<double>(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})) / static_cast<double>(lengths.size());
    s.min_length = lengths.front();
    s.q25_length = quantile(0.25);
    s.median_length = quantile(0.5);
    s.q75_length = quantile(0.75);
    s.max_length = lengths.back();
    break;  // of the first field with lengths
  }
  return s;
}

std::string describe(const PreparedFolder& folder) {
  const DatasetInfo& info = folder.info();
  std::string out = fmt::format("{}  ({})\n", info.name, info.kind);
  const auto line = [&out](const char* what, const std::string& text) {
    if (!text.empty()) out += fmt::format("  {:<12}{}\n", what, text);
  };
  line("folder", folder.path());
  line("source", info.source);
  line("licence", info.licence);
  line("citation", info.citation);
  if (info.vocabulary) line("vocabulary", std::to_string(info.vocabulary));
  if (info.n_classes) line("classes", std::to_string(info.n_classes));
  if (info.max_length) line("max length", std::to_string(info.max_length));
  for (const FieldInfo& f : info.fields)
    line("field", cat(f.name, " ", f.dtype, " ", f.shape, f.ragged ? ", variable length" : ""));
  for (const auto& [field, n] : info.normalisation)
    line("scaled by", fmt::format("{}: mean {:.5g}, deviation {:.5g}", field, fmt::join(n.mean, " "), fmt::join(n.std, " ")));
  if (!info.grid.empty()) line("grid", fmt::format("{}", fmt::join(info.grid, " x ")));
  if (info.coordinates) line("coordinates", cat("the first ", info.coordinates, " channels of x"));
  for (const auto& [split, count] : info.splits) {
    const SplitStatistics s = statistics_of(folder, split);
    out += fmt::format("  {:<12}{} samples\n", split, s.n_samples);
    if (s.has_lengths)
      out += fmt::format("    length    mean {:.1f}, min {}, quartiles {} / {} / {}, max {}\n", s.mean_length, s.min_length,
                         s.q25_length, s.median_length, s.q75_length, s.max_length);
    if (s.labels.empty() || s.n_samples == 0) continue;
    out += "    labels   ";
    for (size_t c = 0; c < s.labels.size(); ++c)
      out += fmt::format(" {}: {:.1f}%", c, 100.0 * static_cast<double>(s.labels[c]) / static_cast<double>(s.n_samples));
    out += fmt::format("\n    majority  always answering {} is right for {:.2f}%\n", s.majority_class, 100 * s.majority_share);
  }
  return out;
}

}  // namespace flare
