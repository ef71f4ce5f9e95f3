#pragma once
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>

namespace flare {

/// Every failure of the library is an Error: one line (what, where, what to do) and the exit code the program ends with.
class Error : public std::runtime_error {
 public:
  Error(int exit_code, const std::string& message) : std::runtime_error(message), exit_code_(exit_code) {}
  int exit_code() const { return exit_code_; }

 private:
  int exit_code_;
};

/// 2: the request itself is wrong: configuration, usage, or shapes and dtypes that do not fit together.
struct ConfigError : Error {
  explicit ConfigError(const std::string& m) : Error(2, m) {}
};
struct ShapeError : Error {
  explicit ShapeError(const std::string& m) : Error(2, m) {}
};
/// 3: a data set, checkpoint or other file cannot be used.
struct DataError : Error {
  explicit DataError(const std::string& m) : Error(3, m) {}
};
/// 4: the device failed, or the numbers did (non-finite loss).
struct DeviceError : Error {
  explicit DeviceError(const std::string& m) : Error(4, m) {}
};
struct NumericError : Error {
  explicit NumericError(const std::string& m) : Error(4, m) {}
};
/// 4: an allocation did not fit; carries the figures so that the caller can say what would.
struct OutOfMemory : DeviceError {
  OutOfMemory(const std::string& m, int64_t requested, int64_t in_use, int64_t available)
      : DeviceError(m), requested(requested), in_use(in_use), available(available) {}
  int64_t requested, in_use, available;  // bytes
};

/// Concatenates anything printable into one string.
template <class... Parts> std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

/// Throws E with the concatenated parts unless ok. The message is only built on failure.
template <class E = ShapeError, class... Parts> void check(bool ok, const Parts&... parts) {
  if (!ok) [[unlikely]]
    throw E(cat(parts...));
}

}  // namespace flare
