#include "tools/report/report.h"

#include <fmt/format.h>

#include "core/check.h"
#include "core/file.h"
#include "tools/report/html.h"
#include "tools/report/page.h"
#include "tools/report/run_record.h"
#include "tools/report/sections.h"

namespace flare {
namespace {

constexpr size_t kMostRuns = 64;
constexpr size_t kMostBytes = 1'900'000;  // of a page with pictures

std::string page_of(const RunRecord& run) {
  const std::string before = header_section(run) + results_section(run);
  const std::string after = training_section(run) + spectrum_section(run) + configuration_section(run);
  const size_t used = html_page(run.name, before + after).size();
  return html_page(run.name, before + panels_section(run, used < kMostBytes ? kMostBytes - used : 0) + after);
}

}  // namespace

void write_report(const std::string& run) { write_file_atomically(run + "/report.html", page_of(load_run(run))); }

void write_report(const std::vector<std::string>& runs, const std::string& out) {
  check<ConfigError>(!runs.empty() && runs.size() <= kMostRuns, "report: takes 1 to ", kMostRuns, " runs, got ", runs.size());
  std::vector<RunRecord> records;
  for (const std::string& run : runs) records.push_back(load_run(run));
  write_file_atomically(out, records.size() == 1 ? page_of(records[0]) : html_page("Comparison", comparison_sections(records)));
}

}  // namespace flare
