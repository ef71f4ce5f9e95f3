#include "core/allocator.h"

#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <unordered_map>
#include <vector>

#include "core/beside.h"
#include "core/rehearsal.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {
namespace {

constexpr int64_t kAlignment = 256;

/// nullptr when the system has no room.
void* system_allocate(Device device, int64_t bytes) {
  if (device == Device::cpu) return std::aligned_alloc(kAlignment, static_cast<size_t>(bytes));
#if defined(FLARE_CUDA)
  compute_stream(device);  // makes sure the device is usable, with its own error if not
  void* data = nullptr;
  // Legal beside a capture in relaxed mode only: the call is not recorded, and the block stays with the graph's hold.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  cuda_check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  const cudaError_t status = cudaMalloc(&data, static_cast<size_t>(bytes));
  cuda_check(cudaThreadExchangeStreamCaptureMode(&mode), "cudaThreadExchangeStreamCaptureMode");
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return nullptr;
  }
  cuda_check(status, "cudaMalloc");
  return data;
#else
  compute_stream(device);
  return nullptr;
#endif
}

void system_release(Device device, void* data) noexcept {
  if (device == Device::cpu) {
    std::free(data);
    return;
  }
#if defined(FLARE_CUDA)
  cudaFree(data);
#endif
}

class Pool {
 public:
  explicit Pool(Device device) : device_(device) {}

  void* take(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t size = size_class(bytes);
    ++stats_.n_allocations;
    void* data = nullptr;
    if (filling_) {
      data = pop(holds_[filling_], size);
      if (data) stats_.held -= size;
    }
    if (!data) data = pop(free_, size);
    if (!data) data = reserve(size);
    if (filling_) owner_[data] = filling_;
    stats_.current += size;
    stats_.peak = std::max(stats_.peak, stats_.current);
    return data;
  }

  void give(void* data, int64_t bytes) noexcept {
    const std::lock_guard<std::mutex> lock(mutex_);
    const int64_t size = size_class(bytes);
    stats_.current -= size;
    try {
      if (filling_) owner_.try_emplace(data, filling_);  // another graph's block stays that graph's
      const auto owner = owner_.empty() ? owner_.end() : owner_.find(data);
      if (owner == owner_.end()) {
        free_[size].push_back(data);
      } else {
        holds_[owner->second][size].push_back(data);
        stats_.held += size;
      }
    } catch (...) {  // no room even for the list entry: let the block go
      system_release(device_, data);
      stats_.reserved -= size;
    }
  }

  void trim() {
    const std::lock_guard<std::mutex> lock(mutex_);
    release_all();
  }
  MemoryStats stats() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return stats_;
  }
  void reset_peak() {
    const std::lock_guard<std::mutex> lock(mutex_);
    stats_.peak = stats_.current;
  }
  void set_limit(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    limit_ = bytes;
  }

  int64_t begin_hold(int64_t hold) {
    const std::lock_guard<std::mutex> lock(mutex_);
    check<DeviceError>(filling_ == 0, "allocator: a capture is under way already; captures do not nest");
    check<DeviceError>(hold == 0 || holds_.contains(hold), "allocator: hold ", hold, " was released");
    if (hold == 0) hold = ++last_hold_;
    holds_[hold];
    return filling_ = hold;
  }
  void end_hold() {
    const std::lock_guard<std::mutex> lock(mutex_);
    filling_ = 0;
  }
  void release_hold(int64_t hold) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (filling_ == hold) filling_ = 0;
    std::erase_if(owner_, [&](const auto& entry) { return entry.second == hold; });
    const auto at = holds_.find(hold);
    if (at == holds_.end()) return;
    for (auto& [size, blocks] : at->second) {
      stats_.held -= size * static_cast<int64_t>(blocks.size());
      free_[size].insert(free_[size].end(), blocks.begin(), blocks.end());
    }
    holds_.erase(at);
  }

 private:
  using Blocks = std::map<int64_t, std::vector<void*>>;  // by size class

  /// A cached block of that size, or nullptr.
  static void* pop(Blocks& blocks, int64_t size) {
    const auto cached = blocks.find(size);
    if (cached == blocks.end() || cached->second.empty()) return nullptr;
    void* data = cached->second.back();
    cached->second.pop_back();
    return data;
  }
  bool fits(int64_t size) const { return limit_ == 0 || stats_.reserved + size <= limit_; }

  void* reserve(int64_t size) {
    void* data = fits(size) ? system_allocate(device_, size) : nullptr;
    if (!data && !filling_) {  // giving blocks back waits for the stream, which a capture forbids
      release_all();
      data = fits(size) ? system_allocate(device_, size) : nullptr;
    }
    if (!data) out_of_memory(size);
    ++stats_.n_system_allocations;
    stats_.reserved += size;
    return data;
  }

  void release_all() {
    check<DeviceError>(filling_ == 0, "allocator: cached blocks cannot go back to the system during a capture");
    if (device_ == Device::cuda) compute_stream(device_).synchronize();
    for (auto& [size, blocks] : free_) {
      for (void* data : blocks) {
        system_release(device_, data);
        stats_.reserved -= size;
      }
    }
    free_.clear();
  }

  [[noreturn]] void out_of_memory(int64_t size) const {
    int64_t available = limit_ ? std::max<int64_t>(limit_ - stats_.reserved, 0) : 0;
    if (device_ == Device::cuda && !limit_) {
#if defined(FLARE_CUDA)
      size_t free = 0, total = 0;
      cudaMemGetInfo(&free, &total);
      available = static_cast<int64_t>(free);
#endif
    }
    const auto mib = [](int64_t bytes) { return (bytes + (1 << 20) - 1) >> 20; };
    throw OutOfMemory(cat("out of ", device_, " memory: ", mib(size), " MiB asked for, ", mib(stats_.current), " MiB in use, ",
                          mib(available), " MiB free; lower train.batch_size, model.channels or model.latents"),
                      size, stats_.current, available);
  }

  Device device_;
  std::mutex mutex_;
  Blocks free_;
  std::map<int64_t, Blocks> holds_;           // free blocks of each hold
  std::unordered_map<void*, int64_t> owner_;  // the hold of each block that has one, live or free
  int64_t filling_ = 0, last_hold_ = 0;       // 0: none
  MemoryStats stats_;
  int64_t limit_ = 0;
};

/// Never destroyed: tensors in static objects may outlive any order of destruction.
Pool& pool(Device device) {
  static Pool* cpu = new Pool(Device::cpu);
  static Pool* cuda = new Pool(Device::cuda);
  return device == Device::cpu ? *cpu : *cuda;
}

}  // namespace

/// A multiple of 1/8 of the power of two below, at least 256 bytes.
int64_t size_class(int64_t bytes) {
  if (bytes <= 8 * kAlignment) return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  const int64_t step = static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(bytes - 1))) / 8;
  return (bytes + step - 1) / step * step;
}

void* allocate_bytes(Device device, int64_t bytes) {
  check(bytes >= 0, "allocator: negative size ", bytes);
  if (bytes == 0) return nullptr;
  return device == Device::cuda && rehearsing() ? rehearse_allocation(bytes) : pool(device).take(bytes);
}
void release_bytes(Device device, void* data, int64_t bytes) noexcept {
  if (data && device == Device::cuda && keep_until_join(data, bytes)) return;
  if (is_rehearsed(data))
    rehearse_release(bytes);
  else if (data)
    pool(device).give(data, bytes);
}
MemoryStats memory_stats(Device device) { return pool(device).stats(); }
void reset_peak(Device device) { pool(device).reset_peak(); }
void release_cached(Device device) { pool(device).trim(); }
void set_memory_limit(Device device, int64_t bytes) { pool(device).set_limit(bytes); }
int64_t begin_hold(Device device, int64_t hold) { return pool(device).begin_hold(hold); }
void end_hold(Device device) noexcept { pool(device).end_hold(); }
void release_hold(Device device, int64_t hold) noexcept { pool(device).release_hold(hold); }

}  // namespace flare
