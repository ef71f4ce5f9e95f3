#include "tools/train/progress.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <sys/ioctl.h>
#include <unistd.h>

#include <fmt/format.h>

namespace flare {
namespace {

constexpr int kBarWidth = 20;

int terminal_width() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

/// Bytes are columns here: only the bar holds wider characters, and it is added afterwards.
std::string cut(const std::string& text, int width) {
  return static_cast<int>(text.size()) <= width ? text : text.substr(0, static_cast<size_t>(std::max(width, 0)));
}

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

std::string format_report(const StepReport& r, const std::string& score_name) {
  return fmt::format(
      "epoch {} step {}/{} | loss {:.4f} | {} {:.4f} | grad {:.3g} | lr {:.2e} | {:.3g} ms/step (data {:.0f}%) | {} tok/s | {} | "
      "{} left",
      r.epoch, r.step, r.steps, r.loss, score_name, r.score, r.grad_norm, r.lr, r.ms_per_step, 100 * r.data_share,
      format_count(r.tokens_per_s), format_bytes(r.peak_bytes), format_duration(r.seconds_left));
}

Progress::Progress(std::string score_name, bool quiet) : score_name_(std::move(score_name)), quiet_(quiet) {
  const char* term = std::getenv("TERM");
  const char* no_color = std::getenv("NO_COLOR");
  terminal_ = isatty(STDERR_FILENO) && term && std::strcmp(term, "dumb") != 0;
  colour_ = terminal_ && !(no_color && no_color[0]);
}

Progress::~Progress() { clear(); }

void Progress::report(const StepReport& r) {
  if (quiet_) return;
  const std::string line = format_report(r, score_name_);
  if (!terminal_) {
    put(line + "\n");
    return;
  }
  const int width = terminal_width();
  const int filled = static_cast<int>(kBarWidth * r.step / std::max<int64_t>(r.steps, 1));
  std::string bar;
  for (int i = 0; i < kBarWidth; ++i) bar += i < filled ? "█" : "░";
  const bool has_bar = width >= 60;
  const std::string text = cut(line, has_bar ? width - kBarWidth - 2 : width - 1);
  put("\r\033[K" + (has_bar ? (colour_ ? "\033[36m" + bar + "\033[0m " : bar + " ") : std::string()) + text);
  dirty_ = true;
}

void Progress::note(const std::string& what) {
  if (quiet_ || !terminal_) return;
  put("\r\033[K" + cut(what, terminal_width() - 1));
  dirty_ = true;
}

void Progress::clear() {
  if (dirty_) put("\r\033[K");
  dirty_ = false;
}

std::string format_table(const std::string& title, const std::vector<std::pair<std::string, std::string>>& rows) {
  size_t width = 0;
  for (const auto& [name, value] : rows) width = std::max(width, name.size());
  std::string text = title + "\n";
  for (const auto& [name, value] : rows) text += fmt::format("  {:{}}  {}\n", name, width, value);
  return text;
}

}  // namespace flare
