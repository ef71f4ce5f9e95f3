#pragma once
/// The parts of a report, each as HTML; "" where the run has nothing to show.
#include <cstddef>
#include <string>
#include <vector>

#include "tools/report/run_record.h"

namespace flare {

/// Title, key figures, where the numbers come from (data, device, versions), warnings.
std::string header_section(const RunRecord& run);
/// Curves over the steps.
std::string training_section(const RunRecord& run);
/// Every configuration key with its meaning, folded.
std::string configuration_section(const RunRecord& run);

/// Scores of every evaluated split beside the majority row; accuracy by length, confusion, distribution of errors.
std::string results_section(const RunRecord& run);
/// The pictures of panels/ as data URIs, as many as `budget` bytes of HTML hold; those left out are named.
std::string panels_section(const RunRecord& run, size_t budget);
/// Eigenvalues of every layer and head, and effective ranks.
std::string spectrum_section(const RunRecord& run);

/// Several runs: results, configuration keys that differ, overlaid curves.
std::string comparison_sections(const std::vector<RunRecord>& runs);

/// Points each curve keeps when a page has `n_curves`: the page stays small however many there are.
size_t points_per_curve(size_t n_curves);

}  // namespace flare
