#pragma once
#include "core/device.h"

namespace flare {

/// Stopwatch for work queued on a device's compute stream: events on CUDA, so that the time is the device's own, wall clock on the
/// CPU. start() and stop() queue; microseconds() waits for what lies between them. DeviceError when the work failed.
class StreamTimer {
 public:
  explicit StreamTimer(Device device);
  ~StreamTimer();
  StreamTimer(const StreamTimer&) = delete;
  StreamTimer& operator=(const StreamTimer&) = delete;
  void start();
  void stop();
  double microseconds();

 private:
  Device device_;
  void *begin_ = nullptr, *end_ = nullptr;  // cudaEvent_t
  double wall_begin_ = 0, wall_end_ = 0;
};

}  // namespace flare
