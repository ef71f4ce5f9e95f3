#include "core/graph.h"

#include <utility>

#include "core/allocator.h"
#include "core/device.h"
#if defined(FLARE_CUDA)
#include <cstdio>

#include "core/launch.cuh"
#endif

namespace flare {

GraphMemory::~GraphMemory() {
  if (hold_) release_hold(Device::cuda, hold_);
}

void Graph::swap(Graph& other) noexcept {
  std::swap(executable_, other.executable_);
  std::swap(memory_, other.memory_);
  std::swap(n_nodes_, other.n_nodes_);
}

#if defined(FLARE_CUDA)

void Graph::capture(const std::function<void()>& body, std::shared_ptr<GraphMemory> memory) {
  reset();
  check<DeviceError>(!sync_each_launch(), "graph: FLARE_SYNC=1 waits after every launch, which a capture cannot record; unset it");
  Stream& stream = compute_stream(Device::cuda);
  memory_ = memory ? std::move(memory) : std::make_shared<GraphMemory>();
  memory_->hold_ = begin_hold(Device::cuda, memory_->hold_);
  cudaGraph_t graph = nullptr;
  try {
    // Thread-local: what other threads do meanwhile (a loader's copies) neither fails nor is recorded.
    cuda_check(cudaStreamBeginCapture(native(stream), cudaStreamCaptureModeThreadLocal), "graph: beginning the capture");
    try {
      body();
    } catch (...) {
      cudaStreamEndCapture(native(stream), &graph);
      cudaGetLastError();
      throw;
    }
    cuda_check(cudaStreamEndCapture(native(stream), &graph), "graph: ending the capture");
    size_t n = 0;
    cuda_check(cudaGraphGetNodes(graph, nullptr, &n), "graph: counting its nodes");
    cudaGraphExec_t executable = nullptr;
    cuda_check(cudaGraphInstantiate(&executable, graph, 0), "graph: instantiating");
    executable_ = executable;
    n_nodes_ = static_cast<int64_t>(n);
    cudaGraphDestroy(graph);
  } catch (...) {
    if (graph) cudaGraphDestroy(graph);
    cudaGetLastError();
    end_hold(Device::cuda);
    reset();
    throw;
  }
  end_hold(Device::cuda);
}

void Graph::replay() const {
  check<DeviceError>(executable_ != nullptr, "graph: nothing is recorded; call capture first");
  cuda_check(cudaGraphLaunch(static_cast<cudaGraphExec_t>(executable_), native(compute_stream(Device::cuda))), "graph: launching");
}

void Graph::reset() noexcept {
  if (executable_) {
    // A replay still running keeps what it needs; its memory is reused only by later work of the same stream.
    const cudaError_t status = cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(executable_));
    if (status != cudaSuccess) std::fprintf(stderr, "graph: not destroyed cleanly: %s\n", cudaGetErrorString(status));
  }
  memory_.reset();
  executable_ = nullptr;
  n_nodes_ = 0;
}

#else

void Graph::capture(const std::function<void()>&, std::shared_ptr<GraphMemory>) {
  throw DeviceError("graph: this program was built without CUDA, and graphs record CUDA work; run eagerly on the CPU");
}
void Graph::replay() const { throw DeviceError("graph: this program was built without CUDA"); }
void Graph::reset() noexcept {}

#endif

}  // namespace flare
