#pragma once
/// The one way kernels are launched: with a stream, checked at once. FLARE_SYNC=1 waits after each launch, so that a fault
/// names its kernel.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdlib>
#include <utility>

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

/// What comes before every launch; false: there is nothing to launch.
template <class... Params> bool begin_launch(const char* name, void (*kernel)(Params...), const LaunchShape& shape) {
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return false;
  if (shape.shared_bytes > 48 * 1024)
    cuda_check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes)),
               name);
  mark_launch(name);
  return true;
}
/// kernel<<<grid, block, shared, stream>>>(args...). `name` goes into the error. A grid of zero blocks launches nothing.
template <class... Params, class... Args>
void launch(const char* name, void (*kernel)(Params...), const LaunchShape& shape, const Stream& stream, Args&&... args) {
  if (!begin_launch(name, kernel, shape)) return;
  kernel<<<shape.grid, shape.block, static_cast<size_t>(shape.shared_bytes), native(stream)>>>(static_cast<Params>(args)...);
  cuda_check(cudaGetLastError(), name);
  if (sync_each_launch()) cuda_check(cudaStreamSynchronize(native(stream)), name);
}

/// Every kernel that launch_early starts calls it, as a rule first. Waits until all earlier work of the stream has ended and its
/// results are visible, and only then lets the kernel that comes next take its place on the GPU, to wait likewise. So before the
/// call a kernel may read what was finished two launches back, where its op made those launches itself, and write nothing.
/// Source: programmatic dependent launch, CUDA C++ Programming Guide. Nothing on devices before sm_90.
__device__ __forceinline__ void after_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;");
#endif
}
/// Whether launch_early starts kernels early: on sm_90 and later, unless FLARE_EARLY=0.
bool launches_early();

/// launch, for a kernel that calls after_previous(): it comes onto the GPU while the kernel before it in the stream runs out.
template <class... Params, class... Args>
void launch_early(const char* name, void (*kernel)(Params...), const LaunchShape& shape, const Stream& stream, Args&&... args) {
  if (!launches_early()) return launch(name, kernel, shape, stream, std::forward<Args>(args)...);
  if (!begin_launch(name, kernel, shape)) return;
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = shape.grid, config.blockDim = shape.block, config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = native(stream), config.attrs = &early, config.numAttrs = 1;
  cuda_check(cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...), name);
  if (sync_each_launch()) cuda_check(cudaStreamSynchronize(native(stream)), name);
}

/// Dynamic shared memory that a block may have on this device, with room for what a kernel declares itself.
inline int64_t most_shared_bytes() {
  static const int64_t bytes = [] {
    int device = 0, value = 0;
    cuda_check(cudaGetDevice(&device), "shared memory of a block");
    cuda_check(cudaDeviceGetAttribute(&value, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), "shared memory of a block");
    return static_cast<int64_t>(value) - 512;
  }();
  return bytes;
}

/// Blocks of `threads` that cover n items one each.
inline LaunchShape cover(int64_t n, int threads = 256) {
  return {dim3(static_cast<unsigned>((n + threads - 1) / threads)), dim3(static_cast<unsigned>(threads)), 0};
}

}  // namespace flare
