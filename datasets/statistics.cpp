#include <algorithm>
#include <numeric>

#include <fmt/format.h>

#include "core/text_table.h"
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

std::vector<std::string> split_names(const PreparedFolder& folder) {
  std::vector<std::string> names;
  for (const char* usual : {"train", "val", "test"})
    if (folder.has_split(usual)) names.emplace_back(usual);
  for (const auto& [split, count] : folder.info().splits)
    if (std::find(names.begin(), names.end(), split) == names.end()) names.push_back(split);
  return names;
}

std::string describe(const PreparedFolder& folder, int width) {
  const DatasetInfo& info = folder.info();
  constexpr int kIndent = 2;
  TextTable about("ll");
  const auto line = [&about](const char* what, const std::string& text) {
    if (!text.empty()) about.row({what, text});
  };
  line("folder", folder.path());
  line("source", info.source);
  line("licence", info.licence);
  line("citation", info.citation);
  if (info.vocabulary) line("vocabulary", std::to_string(info.vocabulary));
  if (info.n_classes) line("classes", std::to_string(info.n_classes));
  if (info.max_length) line("max length", std::to_string(info.max_length));
  if (!info.grid.empty()) line("grid", fmt::format("{}", fmt::join(info.grid, " x ")));
  if (info.coordinates) line("coordinates", cat("the first ", info.coordinates, " channels of x"));
  if (info.times > 1) line("times", cat(info.times, " in the channels of y, one after the other"));
  for (const auto& [field, n] : info.normalisation)
    line("scaled by", fmt::format("{}: mean {:.5g}, deviation {:.5g}", field, fmt::join(n.mean, " "), fmt::join(n.std, " ")));
  std::string out = fmt::format("{}  ({})\n", info.name, info.kind) + about.text(width, kIndent);

  TextTable fields("llll");
  fields.row({"field", "type", "shape", ""});
  for (const FieldInfo& f : info.fields) fields.row({f.name, cat(f.dtype), cat(f.shape), f.ragged ? "variable length" : ""});
  out.append("\n").append(fields.text(width, kIndent));

  std::vector<std::pair<std::string, SplitStatistics>> splits;
  bool has_lengths = false, has_labels = false;
  for (const std::string& split : split_names(folder)) {
    splits.emplace_back(split, statistics_of(folder, split));
    has_lengths = has_lengths || splits.back().second.has_lengths;
    has_labels = has_labels || (!splits.back().second.labels.empty() && splits.back().second.n_samples > 0);
  }
  TextTable table(has_lengths ? "lrrrrrrr" : "lr");
  table.row({"split", "samples", "mean length", "min", "25 %", "50 %", "75 %", "max"});
  for (const auto& [split, s] : splits) {
    std::vector<std::string> cells = {split, std::to_string(s.n_samples)};
    if (s.has_lengths) {
      cells.push_back(fmt::format("{:.1f}", s.mean_length));
      for (const int64_t length : {s.min_length, s.q25_length, s.median_length, s.q75_length, s.max_length})
        cells.push_back(std::to_string(length));
    }
    table.row(std::move(cells));
  }
  out.append("\n").append(table.text(width, kIndent));
  if (!has_labels) return out;

  TextTable labels("ll");
  labels.row({"split", "share of each label"});
  for (const auto& [split, s] : splits) {
    if (s.labels.empty() || s.n_samples == 0) continue;
    std::string shares;
    for (size_t c = 0; c < s.labels.size(); ++c)
      shares += fmt::format("{}{}: {:.1f}%", c ? ", " : "", c,
                            100.0 * static_cast<double>(s.labels[c]) / static_cast<double>(s.n_samples));
    labels.row({split, shares});
    labels.row({"", fmt::format("of {} samples always answering {} is right for {:.2f}%", s.n_samples, s.majority_class,
                                100 * s.majority_share)});
  }
  return out.append("\n").append(labels.text(width, kIndent));
}

}  // namespace flare
