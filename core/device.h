#pragma once
#include <cstdint>
#include <ostream>
#include <string>

#include "core/check.h"

namespace flare {

/// Where a tensor lives. One CUDA device is used by a process; select_cuda picks it before the first allocation.
enum class Device : uint8_t { cpu, cuda };
inline std::ostream& operator<<(std::ostream& out, Device d) { return out << (d == Device::cpu ? "cpu" : "cuda"); }

bool cuda_built();      // compiled with nvcc
bool cuda_available();  // compiled with nvcc and a usable GPU is present; never throws
int cuda_device_count();
/// Makes device `index` current. DeviceError when there is no such GPU or this binary has no code for it.
void select_cuda(int index);
/// "auto", "cpu", "cuda", "cuda:1" -> device, selecting the GPU. ConfigError on another word, DeviceError without a GPU.
Device parse_device(const std::string& word);

struct CudaInfo {
  std::string name;
  int index = 0, sm = 0, multiprocessors = 0;  // sm: 90 for compute capability 9.0
  int64_t memory_bytes = 0, free_bytes = 0;
  int64_t clock_khz = 0, l2_bytes = 0;  // highest clock of the multiprocessors; second-level cache
  int driver = 0, runtime = 0;
};
/// Facts about GPU `index`. DeviceError when absent.
CudaInfo cuda_info(int index);

/// The one compute stream of a device, passed explicitly to every launch. On the CPU it is an empty handle.
struct Stream {
  Device device = Device::cpu;
  void* handle = nullptr;    // cudaStream_t
  void synchronize() const;  // waits for the work queued so far; DeviceError if any of it failed
};
Stream& compute_stream(Device device);

}  // namespace flare
