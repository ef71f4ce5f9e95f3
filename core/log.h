#pragma once
#include <string>

#include "core/check.h"

namespace flare {

enum class LogLevel { debug, info, warning, error };

/// Writes one message to stderr (when its level is high enough) and to the log file, if one is set, with the time and level.
/// Safe from any thread, lines never mix. Never throws: a log file that fails is reported once and dropped.
void log_message(LogLevel level, const std::string& message) noexcept;
/// Lowest level shown on stderr; info at start. The file gets every level.
void set_log_level(LogLevel level);
LogLevel log_level();
/// Appends all further messages to this file as well; "" closes it. DataError when it cannot be opened.
void set_log_file(const std::string& path);

template <class... Parts> void log_debug(const Parts&... parts) { log_message(LogLevel::debug, cat(parts...)); }
template <class... Parts> void log_info(const Parts&... parts) { log_message(LogLevel::info, cat(parts...)); }
template <class... Parts> void log_warning(const Parts&... parts) { log_message(LogLevel::warning, cat(parts...)); }
template <class... Parts> void log_error(const Parts&... parts) { log_message(LogLevel::error, cat(parts...)); }

/// True the first time `key` is seen by this process.
bool log_first_time(const std::string& key);
/// An info message given only once a process, such as "this shape takes the plain path".
template <class... Parts> void log_once(const std::string& key, const Parts&... parts) {
  if (log_first_time(key)) log_message(LogLevel::info, cat(parts...));
}

}  // namespace flare
