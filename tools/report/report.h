#pragma once
#include <string>
#include <vector>

namespace flare {

/// Writes <run>/report.html from what the run folder holds: config.json, metrics.jsonl and, where there are any, summary.json,
/// eval-<split>.json, panels/*.png, spectrum.json. One file below 2 MB that loads nothing from elsewhere and is complete without
/// scripts. ConfigError when `run` is no run folder, DataError when its config.json is damaged or the page cannot be written.
void write_report(const std::string& run);
/// The same into `out`; several runs are compared. ConfigError for more than 64 runs.
void write_report(const std::vector<std::string>& runs, const std::string& out);

}  // namespace flare
