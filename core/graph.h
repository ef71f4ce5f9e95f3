#pragma once
#include <cstdint>
#include <functional>
#include <memory>

namespace flare {

/// Device memory that graphs share, so that ten of them need no more than the largest: what one recording let go, the next uses.
/// Their replays follow each other on the compute stream; what a body leaves in tensors stays untouched while the tensors live.
class GraphMemory {
 public:
  GraphMemory() = default;
  ~GraphMemory();
  GraphMemory(const GraphMemory&) = delete;
  GraphMemory& operator=(const GraphMemory&) = delete;

 private:
  friend class Graph;
  int64_t hold_ = 0;  // allocator.h
};

/// A CUDA graph: work recorded once from the compute stream and replayed with one launch, which costs what a single kernel's launch
/// costs however many kernels it holds. A replay reads and writes the same addresses: keep the tensors it reads, write new inputs
/// into them, and find the results in the tensors that body() left. Memory that body() took or gave back belongs to the graph until
/// it is destroyed (allocator.h: begin_hold), or to the GraphMemory that it shares. Rules for body(): run it eagerly at least once
/// before, so that libraries set themselves up and memory is cached; no host synchronisation (item(), copies to the host); what
/// changes from replay to replay lives on the device.
class Graph {
 public:
  Graph() = default;
  ~Graph() { reset(); }
  Graph(Graph&& other) noexcept { swap(other); }
  Graph& operator=(Graph&& other) noexcept {
    swap(other);
    return *this;
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;

  /// Records what body() queues; nothing runs. Replaces an earlier recording. DeviceError without CUDA, under FLARE_SYNC=1, inside
  /// another capture, or when body() does what cannot be recorded; what body() throws passes through. The graph is empty then.
  /// `memory`: shared with other graphs; null: this graph's own.
  void capture(const std::function<void()>& body, std::shared_ptr<GraphMemory> memory = nullptr);
  /// Queues the recorded work on the compute stream. DeviceError when nothing is recorded.
  void replay() const;
  explicit operator bool() const { return executable_ != nullptr; }
  int64_t n_nodes() const { return n_nodes_; }  // kernels, copies and fills
  void reset() noexcept;

 private:
  void swap(Graph& other) noexcept;
  void* executable_ = nullptr;  // cudaGraphExec_t
  std::shared_ptr<GraphMemory> memory_;
  int64_t n_nodes_ = 0;
};

}  // namespace flare
