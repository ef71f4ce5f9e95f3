#pragma once
/// The one way kernels are launched: with a stream, checked at once. FLARE_SYNC=1 waits after each launch, so that a fault
/// names its kernel.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdlib>

#include "core/check.h"
#include "core/device.h"

namespace flare {

inline void cuda_check(cudaError_t status, const char* what) {
  if (status != cudaSuccess) [[unlikely]]
    throw DeviceError(cat(what, ": CUDA error ", cudaGetErrorName(status), " (", cudaGetErrorString(status), ")"));
}
inline cudaStream_t native(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle); }
inline bool sync_each_launch() {
  static const bool on = [] {
    const char* v = std::getenv("FLARE_SYNC");
    return v && v[0] == '1';
  }();
  return on;
}

/// Called before each launch with its name while core/profile.h records; null else.
inline void (*&launch_marker())(const char* name) {
  static void (*marker)(const char*) = nullptr;
  return marker;
}
inline void mark_launch(const char* name) {
  if (launch_marker()) [[unlikely]]
    launch_marker()(name);
}

struct LaunchShape {
  dim3 grid, block;
  int64_t shared_bytes = 0;  // dynamic shared memory; above 48 KiB the kernel's limit is raised
};

/// kernel<<<grid, block, shared, stream>>>(args...). `name` goes into the error. A grid of zero blocks launches nothing.
template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), const LaunchShape& shape, const Stream& stream, Args&&... args) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
  if (shape.shared_bytes > 48 * 1024)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)),
               name);
  mark_launch(name);
  kernel<<<shape.grid, shape.block, static_cast<size_t>(shape.shared_bytes), native(stream)>>>(static_cast<Params>(args)...);
  cuda_check(cudaGetLastError(), name);
  if (sync_each_launch()) cuda_check(cudaStreamSynchronize(native(stream)), name);
}

/// Blocks of `threads` that cover n items one each.
inline LaunchShape cover(int64_t n, int threads = 256) {
  return {dim3(static_cast<unsigned>((n + threads - 1) / threads)), dim3(static_cast<unsigned>(threads)), 0};
}

}  // namespace flare
