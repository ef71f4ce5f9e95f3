#pragma once
#include <cstdint>

#include "core/device.h"

namespace flare {

/// Bytes handed out by the caching allocator of one device.
struct MemoryStats {
  int64_t current = 0;   // in live tensors, rounded sizes
  int64_t peak = 0;      // largest `current` since the last reset_peak
  int64_t reserved = 0;  // taken from the system, live and cached
  int64_t held = 0;      // free blocks that captured graphs keep for themselves (begin_hold)
  int64_t n_allocations = 0, n_system_allocations = 0;
};

/// Stream-ordered caching allocator: freed blocks go back to a list by size class and are handed out again at once, which is
/// safe because all work of a device runs on its one compute stream. Sizes round up to 1/8 of a power of two (at most 12.5 %
/// waste). Returned blocks are aligned to 256 bytes. Throws OutOfMemory with the figures after giving cached blocks back.
void* allocate_bytes(Device device, int64_t bytes);
/// What a block of so many bytes takes.
int64_t size_class(int64_t bytes);
void release_bytes(Device device, void* data, int64_t bytes) noexcept;
MemoryStats memory_stats(Device device);
void reset_peak(Device device);
void release_cached(Device device);  // gives every cached block back to the system
/// Refuses to reserve more than this many bytes on the device (0: no limit), so that tests meet a full device.
void set_memory_limit(Device device, int64_t bytes);

/// Memory of a captured graph. A replay writes where the capture wrote, so every block of the device that is handed out or given
/// back between begin_hold and end_hold belongs to the hold: it is handed out again inside the same capture only, and when a tensor
/// returns it later it waits in the hold. release_hold gives the blocks back to everybody; those still in tensors follow when the
/// tensors go. One hold is filled at a time, by one thread: while it is, no other thread may allocate on the device.
/// `hold` goes on with an earlier one, whose free blocks then serve this capture as well; 0 makes a new one. DeviceError when
/// another hold is being filled.
int64_t begin_hold(Device device, int64_t hold = 0);
void end_hold(Device device) noexcept;
void release_hold(Device device, int64_t hold) noexcept;

/// Temporary host memory from the caching allocator.
template <class T> class HostScratch {
 public:
  explicit HostScratch(int64_t count) : bytes_(count * static_cast<int64_t>(sizeof(T))) {
    if (bytes_ > 0) data_ = static_cast<T*>(allocate_bytes(Device::cpu, bytes_));
  }
  ~HostScratch() {
    if (data_) release_bytes(Device::cpu, data_, bytes_);
  }
  HostScratch(const HostScratch&) = delete;
  HostScratch& operator=(const HostScratch&) = delete;
  T* data() const { return data_; }

 private:
  int64_t bytes_;
  T* data_ = nullptr;
};

}  // namespace flare
