#pragma once
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace flare {

/// What is known of a run at a log point.
struct StepReport {
  int64_t step = 0, steps = 0, epoch = 0;
  double loss = 0, score = 0, grad_norm = 0, lr = 0;
  double ms_per_step = 0, data_share = 0, tokens_per_s = 0, seconds_left = 0;
  int64_t peak_bytes = 0;
};

/// `epoch 3 step 600/10000 | loss 1.8312 | accuracy 0.352 | grad 0.42 | lr 4.8e-04 | 3.1 ms/step (data 2%) | 1.2M tok/s | 3.2 GiB |
/// 12:41 left`. With a width, what matters least is left out until the line fits; step, loss, score and time left stay.
std::string format_report(const StepReport& report, const std::string& score_name, int width = 0);
std::string format_bytes(int64_t bytes);      // "3.2 GiB"
std::string format_duration(double seconds);  // "1:02:05", "12:41"
std::string format_count(double n);           // "1.2M"

/// How stderr shows progress: TERM=dumb and files get plain lines; NO_COLOR switches colours off.
struct ProgressStyle {
  bool redraws = false, colour = false;
  static ProgressStyle of_stderr();
};
/// A bar and a space before text that fits beside it; the bar goes where there is no room.
std::string bar_line(double share, const std::string& text, int columns, bool colour);
/// The columns that bar_line leaves to its text.
int bar_text_width(int columns);

/// The progress of a run on stderr: one line redrawn in place on a terminal (with a bar), else a plain line per report.
class Progress {
 public:
  Progress(std::string score_name, bool quiet);
  ~Progress();
  void report(const StepReport& report);
  /// A step is done: on a terminal the line is brought up to date some times a second, also before the first report, which is due
  /// after `first_report` steps.
  void step(int64_t step, int64_t steps, int64_t first_report);
  /// A transient word on a terminal (evaluating, saving); nothing elsewhere.
  void note(const std::string& what);
  /// Ends the redrawn line, so that other text may follow.
  void clear();

 private:
  void draw(const std::string& line);
  std::string score_name_;
  bool quiet_;
  ProgressStyle style_;
  bool dirty_ = false;
  std::optional<StepReport> last_;
  std::chrono::steady_clock::time_point drawn_;
};

/// A two-column table with a title, for the start of a run; values are wrapped to `width` columns, if it is not 0.
std::string format_table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows, int width = 0);

}  // namespace flare
