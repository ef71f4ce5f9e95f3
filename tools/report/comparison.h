#pragma once
#include <string>
#include <vector>

#include "tools/report/html.h"
#include "tools/report/run_record.h"

namespace flare {

/// The last parts of the paths, or the whole paths where two would be the same.
std::vector<std::string> labels_of(const std::vector<RunRecord>& runs);

/// One row a run: score, loss, steps, time, speed, memory, parameters, seed. `with_majority` adds a row for each majority class
/// that the runs were measured against.
Table results_table(const std::vector<RunRecord>& runs, bool with_majority);
/// One row for each configuration key whose value is not the same in all runs, one column a run.
Table differences_table(const std::vector<RunRecord>& runs);
/// {"runs": [{"run", "split", "score_name", "score", ...}], "differences": {key: [value of each run, null where it has none]}}.
Json comparison_json(const std::vector<RunRecord>& runs);

}  // namespace flare
