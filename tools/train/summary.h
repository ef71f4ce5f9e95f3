#pragma once
#include <string>

namespace flare {

/// "seconds" of <run>/summary.json: the wall time of the processes that trained the run so far, up to their last evaluation,
/// interruption or end; 0 without the file.
double recorded_seconds(const std::string& run);

}  // namespace flare
