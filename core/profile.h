#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace flare {

/// Times the launches of a captured piece of work by the names that core/launch.cuh gives them: capture the work between start()
/// and stop(), replay, then read(). An event node stands before each launch, which adds about a microsecond to it; what is launched
/// past launch.cuh (a memset) counts with the launch before. One profile records at a time. DeviceError without CUDA.
class LaunchProfile {
 public:
  LaunchProfile();
  ~LaunchProfile();
  LaunchProfile(const LaunchProfile&) = delete;
  LaunchProfile& operator=(const LaunchProfile&) = delete;

  void start();
  void stop();
  struct Entry {
    std::string name;
    int64_t n = 0;            // launches
    double microseconds = 0;  // of all of them, to the next launch
  };
  /// Of the replay queued last; waits for it. Longest first.
  std::vector<Entry> read() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flare
