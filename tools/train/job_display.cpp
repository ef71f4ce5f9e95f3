#include "tools/train/job_display.h"

#include <algorithm>
#include <chrono>
#include <cstdio>

#include <unistd.h>

#include <fmt/format.h>

#include "core/text_table.h"
#include "tools/train/signals.h"

namespace flare {
namespace {

constexpr double kLeastSeconds = 1, kMostSeconds = 10;  // between plain lines
constexpr double kSecondsForRate = 0.5;                 // earlier figures are noise
constexpr double kWorthTelling = 2;                     // seconds of a job whose end gets a line

std::string amount(const JobState& s, int64_t n) { return s.unit == "bytes" ? format_bytes(n) : fmt::format("{}", n); }
std::string with_unit(const JobState& s, int64_t n) {
  return s.unit == "bytes" ? format_bytes(n) : fmt::format("{} {}", n, s.unit);
}

}  // namespace

JobDisplay::JobDisplay(bool quiet)
    : JobDisplay({ProgressStyle::of_stderr(),
                  [](const std::string& text) {
                    std::fwrite(text.data(), 1, text.size(), stderr);
                    std::fflush(stderr);
                  },
                  [] { return terminal_columns(STDERR_FILENO, 80); },
                  [] { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }}) {
  quiet_ = quiet;
}

JobDisplay::JobDisplay(Surroundings surroundings) : with_(std::move(surroundings)) { watch_jobs(this); }

JobDisplay::~JobDisplay() {
  watch_jobs(nullptr);
  if (dirty_) with_.put("\r\033[K");
}

bool JobDisplay::stop_requested() { return flare::stop_requested(); }

std::string JobDisplay::line(const JobState& s, double seconds) const {
  std::string text = s.what;
  if (s.total > 0)
    text += fmt::format(" {:3d} % ({} of {})", 100 * s.done / s.total, amount(s, s.done), with_unit(s, s.total));
  else
    text += fmt::format(" ({})", with_unit(s, s.done));
  if (seconds < kSecondsForRate || s.done == 0) return text;
  const double rate = static_cast<double>(s.done) / seconds;
  text += fmt::format(", {}/s", s.unit == "bytes" ? format_bytes(static_cast<int64_t>(rate))
                                : rate < 100      ? fmt::format("{:.3g}", rate)
                                                  : format_count(rate));
  if (s.total > 0) text += fmt::format(", {} left", format_duration(static_cast<double>(s.total - s.done) / rate));
  return text;
}

void JobDisplay::show(const JobState& s) {
  if (quiet_) return;
  const double now = with_.clock();
  if (!is_open_) {
    is_open_ = true;
    start_ = shown_ = now;
    tenth_ = 0;
    said_ = false;
  }
  const double seconds = now - start_;
  if (s.ended) {
    is_open_ = false;
    if (dirty_) with_.put("\r\033[K");
    dirty_ = false;
    const bool is_whole = s.total == 0 || s.done >= s.total;
    if (is_whole && !stop_requested() && (said_ || seconds >= kWorthTelling))
      with_.put(fmt::format("{}: {} in {}\n", s.what, with_unit(s, s.done), format_duration(seconds)));
    return;
  }
  if (with_.style.redraws) {
    const int columns = with_.columns();
    const std::string text = line(s, seconds);
    const double share = static_cast<double>(s.done) / static_cast<double>(std::max<int64_t>(s.total, 1));
    with_.put(
        fmt::format("\r\033[K{}", s.total > 0 ? bar_line(share, text, columns, with_.style.colour) : cut_text(text, columns - 1)));
    dirty_ = true;
    return;
  }
  const int64_t tenth = s.total > 0 ? 10 * s.done / s.total : 0;
  if (now - shown_ < kMostSeconds && (tenth == tenth_ || now - shown_ < kLeastSeconds)) return;
  with_.put(fmt::format("{}\n", line(s, seconds)));
  shown_ = now;
  tenth_ = tenth;
  said_ = true;
}

}  // namespace flare
