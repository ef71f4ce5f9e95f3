#include "core/device.h"

#include <charconv>
#include <cstdlib>

#include "core/beside.h"
#include "core/rehearsal.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {

#if defined(FLARE_CUDA)

bool cuda_built() { return true; }

int cuda_device_count() {
  static const int count = [] {
    int n = 0;
    if (cudaGetDeviceCount(&n) != cudaSuccess) {
      cudaGetLastError();
      n = 0;
    }
    return n;
  }();
  return count;
}

CudaInfo cuda_info(int index) {
  check<DeviceError>(index >= 0 && index < cuda_device_count(), "cuda:", index, ": no such GPU (", cuda_device_count(), " found)");
  cudaDeviceProp p{};
  cuda_check(cudaGetDeviceProperties(&p, index), "cudaGetDeviceProperties");
  CudaInfo info;
  info.name = p.name;
  info.index = index;
  info.sm = p.major * 10 + p.minor;
  info.multiprocessors = p.multiProcessorCount;
  int clock_khz = 0;
  cuda_check(cudaDeviceGetAttribute(&clock_khz, cudaDevAttrClockRate, index), "cudaDeviceGetAttribute");
  info.clock_khz = clock_khz;
  info.l2_bytes = p.l2CacheSize;
  int current = 0;
  cuda_check(cudaGetDevice(&current), "cudaGetDevice");
  cuda_check(cudaSetDevice(index), "cudaSetDevice");
  size_t free = 0, total = 0;
  cuda_check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
  cuda_check(cudaSetDevice(current), "cudaSetDevice");
  info.memory_bytes = static_cast<int64_t>(total);
  info.free_bytes = static_cast<int64_t>(free);
  cuda_check(cudaDriverGetVersion(&info.driver), "cudaDriverGetVersion");
  cuda_check(cudaRuntimeGetVersion(&info.runtime), "cudaRuntimeGetVersion");
  return info;
}

namespace {
__global__ void probe_kernel() {}
bool stream_made = false;
}  // namespace

void select_cuda(int index) {
  check<DeviceError>(cuda_device_count() > 0, "cuda: no GPU was found on this machine; use --device cpu");
  check<DeviceError>(index >= 0 && index < cuda_device_count(), "cuda:", index, ": no such GPU (", cuda_device_count(),
                     " found); use --device cuda:0 or cpu");
  int current = 0;
  cuda_check(cudaGetDevice(&current), "cudaGetDevice");
  check<DeviceError>(!stream_made || current == index, "cuda:", index, ": this process already works on cuda:", current);
  cuda_check(cudaSetDevice(index), "cudaSetDevice");
  cudaFuncAttributes attributes{};
  if (cudaFuncGetAttributes(&attributes, probe_kernel) != cudaSuccess) {
    cudaGetLastError();
    throw DeviceError(cat("cuda:", index, ": this program has no code for sm_", cuda_info(index).sm,
                          "; rebuild with -DCMAKE_CUDA_ARCHITECTURES=", cuda_info(index).sm));
  }
}

bool launches_early() {
  static const bool on = [] {
    const char* wish = std::getenv("FLARE_EARLY");
    if (wish && wish[0] == '0') return false;
    // A program with code for older GPUs alone waits for nothing, whatever GPU it runs on.
    cudaFuncAttributes attributes{};
    cuda_check(cudaFuncGetAttributes(&attributes, probe_kernel), "asking for a kernel's architecture");
    return attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
  }();
  return on;
}

void Stream::synchronize() const {
  if (device == Device::cuda) cuda_check(cudaStreamSynchronize(native(*this)), "waiting for the GPU");
}

Stream& compute_stream(Device device) {
  static Stream cpu;
  if (device == Device::cpu) return cpu;
  check(!rehearsing(), "compute_stream: asked for the GPU's during a rehearsal, which computes nothing");
  if (Stream* beside = beside_stream()) return *beside;
  static Stream cuda = [] {
    int index = 0;
    cuda_check(cudaGetDevice(&index), "cudaGetDevice");
    select_cuda(index);
    cudaStream_t handle = nullptr;
    cuda_check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "cudaStreamCreate");
    stream_made = true;
    return Stream{Device::cuda, handle};
  }();
  return cuda;
}

#else

bool cuda_built() { return false; }
int cuda_device_count() { return 0; }
CudaInfo cuda_info(int index) { throw DeviceError(cat("cuda:", index, ": this program was built without CUDA")); }
void select_cuda(int) {
  throw DeviceError("cuda: this program was built without CUDA; use --device cpu, or rebuild where nvcc is installed");
}
void Stream::synchronize() const {}
Stream& compute_stream(Device device) {
  static Stream cpu;
  if (device == Device::cuda) select_cuda(0);
  return cpu;
}

#endif

bool cuda_available() { return cuda_device_count() > 0; }

Device parse_device(const std::string& word) {
  if (word == "cpu") return Device::cpu;
  if (word == "auto" && !cuda_available()) return Device::cpu;
  int index = 0;
  if (word.rfind("cuda:", 0) == 0) {
    const auto [end, status] = std::from_chars(word.data() + 5, word.data() + word.size(), index);
    check<ConfigError>(status == std::errc() && end == word.data() + word.size(), "device: '", word,
                       "' is not auto, cpu, cuda or cuda:<index>");
  } else {
    check<ConfigError>(word == "cuda" || word == "auto", "device: '", word, "' is not auto, cpu, cuda or cuda:<index>");
  }
  select_cuda(index);
  return Device::cuda;
}

}  // namespace flare
