#include "core/timer.h"

#include <chrono>

#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {
namespace {

double wall_microseconds() {
  return std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

#if defined(FLARE_CUDA)
StreamTimer::StreamTimer(Device device) : device_(device) {
  if (device_ != Device::cuda) return;
  compute_stream(device_);
  cudaEvent_t begin = nullptr, end = nullptr;
  cuda_check(cudaEventCreate(&begin), "timer: creating an event");
  begin_ = begin;
  const cudaError_t status = cudaEventCreate(&end);
  if (status != cudaSuccess) cudaEventDestroy(begin);
  cuda_check(status, "timer: creating an event");
  end_ = end;
}
StreamTimer::~StreamTimer() {
  if (begin_) cudaEventDestroy(static_cast<cudaEvent_t>(begin_));
  if (end_) cudaEventDestroy(static_cast<cudaEvent_t>(end_));
}
void StreamTimer::start() {
  if (device_ == Device::cuda)
    cuda_check(cudaEventRecord(static_cast<cudaEvent_t>(begin_), native(compute_stream(device_))), "timer: recording an event");
  else
    wall_begin_ = wall_microseconds();
}
void StreamTimer::stop() {
  if (device_ == Device::cuda)
    cuda_check(cudaEventRecord(static_cast<cudaEvent_t>(end_), native(compute_stream(device_))), "timer: recording an event");
  else
    wall_end_ = wall_microseconds();
}
double StreamTimer::microseconds() {
  if (device_ != Device::cuda) return wall_end_ - wall_begin_;
  cuda_check(cudaEventSynchronize(static_cast<cudaEvent_t>(end_)), "timer: waiting for the GPU");
  float ms = 0;
  cuda_check(cudaEventElapsedTime(&ms, static_cast<cudaEvent_t>(begin_), static_cast<cudaEvent_t>(end_)), "timer: reading");
  return 1e3 * static_cast<double>(ms);
}
#else
StreamTimer::StreamTimer(Device device) : device_(device) { compute_stream(device_); }
StreamTimer::~StreamTimer() = default;
void StreamTimer::start() { wall_begin_ = wall_microseconds(); }
void StreamTimer::stop() { wall_end_ = wall_microseconds(); }
double StreamTimer::microseconds() { return wall_end_ - wall_begin_; }
#endif

}  // namespace flare
