#include "tools/train/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>

#include <unistd.h>

#include <fmt/format.h>

#include "core/text_table.h"

namespace flare {
namespace {

constexpr double kSecondsBetweenDraws = 0.2;

int columns() { return terminal_columns(STDERR_FILENO, 80); }
int bar_columns(int columns) { return columns >= 110 ? 20 : columns >= 60 ? 10 : 0; }

void put(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stderr);
  std::fflush(stderr);
}

}  // namespace

std::string format_bytes(int64_t bytes) {
  const double x = static_cast<double>(bytes);
  if (x >= 0x1p30) return fmt::format("{:.1f} GiB", x / 0x1p30);
  if (x >= 0x1p20) return fmt::format("{:.0f} MiB", x / 0x1p20);
  return fmt::format("{:.0f} KiB", x / 0x1p10);
}

std::string format_duration(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e9) return "?";
  const int64_t s = std::llround(seconds);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

std::string format_count(double n) {
  if (n >= 1e9) return fmt::format("{:.1f}G", n / 1e9);
  if (n >= 1e6) return fmt::format("{:.1f}M", n / 1e6);
  if (n >= 1e4) return fmt::format("{:.0f}k", n / 1e3);
  if (n >= 1e3) return fmt::format("{:.1f}k", n / 1e3);
  return fmt::format("{:.0f}", n);
}

std::string format_report(const StepReport& r, const std::string& score_name, int width) {
  // Each part with its rank; what ranks highest is left out first.
  std::vector<std::pair<int, std::string>> parts = {
      {3, fmt::format("epoch {} ", r.epoch)},
      {0, fmt::format("step {}/{}", r.step, r.steps)},
      {0, fmt::format(" | loss {:.4f}", r.loss)},
      {0, fmt::format(" | {} {:.4f}", score_name, r.score)},
      {5, fmt::format(" | grad {:.3g}", r.grad_norm)},
      {4, fmt::format(" | lr {:.2e}", r.lr)},
      {1, fmt::format(" | {:.3g} ms/step", r.ms_per_step)},
      {6, fmt::format(" (data {:.0f}%)", 100 * r.data_share)},
      {2, fmt::format(" | {} tok/s", format_count(r.tokens_per_s))},
      {7, fmt::format(" | {}", format_bytes(r.peak_bytes))},
      {0, fmt::format(" | {} left", format_duration(r.seconds_left))},
  };
  std::string line;
  for (int most = 7; most >= 0; --most) {
    line.clear();
    for (const auto& [rank, text] : parts)
      if (rank <= most) line += text;
    if (width == 0 || text_width(line) <= static_cast<size_t>(std::max(width, 0))) break;
  }
  return width == 0 ? line : cut_text(line, width);
}

ProgressStyle ProgressStyle::of_stderr() {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  ProgressStyle style;
  style.redraws = isatty(STDERR_FILENO) && term && term[0] && std::strcmp(term, "dumb") != 0;
  style.colour = style.redraws && !(no_color && no_color[0]);
  return style;
}

int bar_text_width(int columns) {
  const int bar = bar_columns(columns);
  return columns - 1 - (bar > 0 ? bar + 1 : 0);
}

std::string bar_line(double share, const std::string& text, int columns, bool colour) {
  const int width = bar_columns(columns), filled = static_cast<int>(width * std::clamp(share, 0.0, 1.0));
  std::string bar;
  for (int i = 0; i < width; ++i) bar += i < filled ? "█" : "░";
  if (width > 0) bar = colour ? "\033[36m" + bar + "\033[0m " : bar + " ";
  return bar + cut_text(text, bar_text_width(columns));
}

Progress::Progress(std::string score_name, bool quiet)
    : score_name_(std::move(score_name)), quiet_(quiet), style_(ProgressStyle::of_stderr()) {}

Progress::~Progress() { clear(); }

void Progress::draw(const std::string& line) {
  put("\r\033[K" + line);
  dirty_ = true;
  drawn_ = std::chrono::steady_clock::now();
}

void Progress::report(const StepReport& r) {
  if (quiet_) return;
  last_ = r;
  if (!style_.redraws) {
    put(format_report(r, score_name_) + "\n");
    return;
  }
  const int width = columns();
  draw(bar_line(static_cast<double>(r.step) / static_cast<double>(std::max<int64_t>(r.steps, 1)),
                format_report(r, score_name_, bar_text_width(width)), width, style_.colour));
}

void Progress::step(int64_t step, int64_t steps, int64_t first_report) {
  if (quiet_ || !style_.redraws) return;
  if (std::chrono::duration<double>(std::chrono::steady_clock::now() - drawn_).count() < kSecondsBetweenDraws) return;
  if (last_) {
    StepReport r = *last_;
    r.seconds_left = std::max(0.0, r.seconds_left - 1e-3 * r.ms_per_step * static_cast<double>(step - r.step));
    r.step = step;
    const StepReport as_reported = *last_;
    report(r);
    last_ = as_reported;
    return;
  }
  draw(bar_line(static_cast<double>(step) / static_cast<double>(std::max<int64_t>(steps, 1)),
                fmt::format("step {}/{} | first figures after step {}", step, steps, std::min(first_report, steps)), columns(),
                style_.colour));
}

void Progress::note(const std::string& what) {
  if (quiet_ || !style_.redraws) return;
  draw(cut_text(what, columns() - 1));
}

void Progress::clear() {
  if (dirty_) put("\r\033[K");
  dirty_ = false;
  drawn_ = {};  // the next step may draw at once
}

std::string format_table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows, int width) {
  TextTable table("ll");
  for (const auto& [name, value] : rows) table.row({name, value});
  return title + "\n" + table.text(width > 0 ? width : std::numeric_limits<int>::max(), 2);
}

}  // namespace flare
