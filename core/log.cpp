#include "core/log.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <ctime>
#include <mutex>
#include <set>
#include <system_error>

namespace flare {
namespace {

struct Sink {
  std::mutex mutex;
  std::atomic<LogLevel> level{LogLevel::info};
  int file = -1;
  std::string path;
  std::set<std::string> seen;
};
// Never destroyed: messages may come from the destructors of other static objects.
Sink& sink() {
  static Sink& s = *new Sink;
  return s;
}

const char* name_of(LogLevel level) {
  switch (level) {
    case LogLevel::debug: return "debug";
    case LogLevel::info: return "info";
    case LogLevel::warning: return "warning";
    case LogLevel::error: return "error";
  }
  return "?";
}

std::string utc_time() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[32];
  return {text, std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts)};
}

bool write_all(int fd, const std::string& text) {
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = ::write(fd, text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return false;
    done += static_cast<size_t>(n);
  }
  return true;
}

}  // namespace

void log_message(LogLevel level, const std::string& message) noexcept {
  try {
    Sink& s = sink();
    const std::lock_guard lock(s.mutex);
    if (level >= s.level) write_all(STDERR_FILENO, cat(level == LogLevel::info ? "" : cat(name_of(level), ": "), message, '\n'));
    if (s.file >= 0 && !write_all(s.file, cat(utc_time(), ' ', name_of(level), ' ', message, '\n'))) {
      write_all(STDERR_FILENO,
                cat("warning: ", s.path, ": ", std::generic_category().message(errno), "; the log is no longer written\n"));
      ::close(s.file);
      s.file = -1;
    }
  } catch (...) {
    // Out of memory while reporting: the message is lost, the program is not.
  }
}

void set_log_level(LogLevel level) { sink().level = level; }
LogLevel log_level() { return sink().level; }

void set_log_file(const std::string& path) {
  int file = -1;
  if (!path.empty()) {
    file = ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    check<DataError>(file >= 0, path, ": cannot open the log file: ", std::generic_category().message(errno));
  }
  Sink& s = sink();
  const std::lock_guard lock(s.mutex);
  if (s.file >= 0) ::close(s.file);
  s.file = file;
  s.path = path;
}

bool log_first_time(const std::string& key) {
  Sink& s = sink();
  const std::lock_guard lock(s.mutex);
  return s.seen.insert(key).second;
}

}  // namespace flare
