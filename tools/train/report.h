#pragma once
#include <string>

namespace flare {

/// Writes <run>/report.html from config.json, metrics.jsonl and eval-<split>.json: one file without scripts or network, with curves
/// of loss, score, learning rate and gradient norm, the results beside the majority-class row, and the configuration.
void write_report(const std::string& run);

}  // namespace flare
