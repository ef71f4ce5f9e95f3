#pragma once
#include <functional>
#include <string>

#include "core/job.h"
#include "tools/train/progress.h"

namespace flare {

/// Shows the jobs of the library (core/job.h) on stderr for as long as it lives, and stops them when a signal was caught: on a
/// terminal one line redrawn in place, with a bar, the rate and the time left; elsewhere a plain line about every tenth of the
/// work, a second or more apart, or every ten seconds. Jobs that end at once leave no trace.
class JobDisplay : public JobWatcher {
 public:
  explicit JobDisplay(bool quiet);
  /// For tests: where the lines go, how wide they may be, and what time it is in seconds.
  struct Surroundings {
    ProgressStyle style;
    std::function<void(const std::string&)> put;
    std::function<int()> columns;
    std::function<double()> clock;
  };
  explicit JobDisplay(Surroundings surroundings);
  ~JobDisplay() override;
  JobDisplay(const JobDisplay&) = delete;
  JobDisplay& operator=(const JobDisplay&) = delete;

  void show(const JobState& state) override;
  bool stop_requested() override;

 private:
  std::string line(const JobState& state, double seconds) const;
  bool quiet_ = false, is_open_ = false, dirty_ = false;
  Surroundings with_;
  double start_ = 0, shown_ = 0;
  int64_t tenth_ = 0;
  bool said_ = false;  // a plain line of this job
};

}  // namespace flare
