#include "core/staging.h"

#include <cstring>
#include <deque>

#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {
namespace {

constexpr int64_t kAlign = 256;
constexpr int64_t kMaxScalars = 16;  // of one readback

#if defined(FLARE_CUDA)
class Event {
 public:
  Event() { cuda_check(cudaEventCreateWithFlags(&handle_, cudaEventDisableTiming), "staging: creating an event"); }
  ~Event() { cudaEventDestroy(handle_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record(cudaStream_t stream) { cuda_check(cudaEventRecord(handle_, stream), "staging: recording an event"); }
  void hold_back(cudaStream_t stream) { cuda_check(cudaStreamWaitEvent(stream, handle_, 0), "staging: waiting for an event"); }
  void wait() { cuda_check(cudaEventSynchronize(handle_), "staging: waiting for the GPU"); }
  bool done() {
    const cudaError_t status = cudaEventQuery(handle_);
    if (status == cudaErrorNotReady) {
      cudaGetLastError();
      return false;
    }
    cuda_check(status, "staging: asking for an event");
    return true;
  }

 private:
  cudaEvent_t handle_ = nullptr;
};

/// Page-locked host memory.
class Pinned {
 public:
  explicit Pinned(int64_t bytes) {
    cuda_check(cudaMallocHost(&data_, static_cast<size_t>(bytes)), "staging: taking page-locked memory");
  }
  ~Pinned() { cudaFreeHost(data_); }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  char* data() const { return static_cast<char*>(data_); }

 private:
  void* data_ = nullptr;
};
#endif

}  // namespace

std::vector<int64_t> Upload::layout(const std::vector<Tensor>& host) {
  std::vector<int64_t> offsets = {0};
  for (const Tensor& t : host) offsets.push_back(offsets.back() + (t.bytes() + kAlign - 1) / kAlign * kAlign);
  return offsets;
}

#if defined(FLARE_CUDA)

struct Upload::Impl {
  struct Slot {
    std::unique_ptr<Pinned> pinned;
    Tensor device;    // u8
    Event copied;     // the way to the GPU is done
    Event delivered;  // the compute stream has taken it
  };
  cudaStream_t stream = nullptr;
  Slot slots[2];
  int64_t capacity = 0, sent = 0, bytes = 0;

  Impl() {
    compute_stream(Device::cuda);
    cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "staging: creating a stream");
  }
  ~Impl() {
    // The slots' blocks go back to an allocator that knows the compute stream alone.
    cudaStreamSynchronize(stream);
    cudaStreamDestroy(stream);
  }
  void reserve(int64_t needed) {
    if (needed <= capacity) return;
    cuda_check(cudaStreamSynchronize(stream), "staging: waiting for the GPU");
    for (Slot& slot : slots) {
      slot.pinned.reset();
      slot.pinned = std::make_unique<Pinned>(needed);
      slot.device = Tensor::empty({needed}, DType::u8, Device::cuda);
      // The new block may still be in use by what the compute stream has queued.
      slot.delivered.record(native(compute_stream(Device::cuda)));
      slot.copied.record(stream);
    }
    capacity = needed;
  }
};

Upload::Upload() : impl_(std::make_unique<Impl>()) {}

void Upload::send(const std::vector<Tensor>& host) {
  const std::vector<int64_t> offsets = layout(host);
  impl_->bytes = offsets.back();
  impl_->reserve(impl_->bytes);
  // The host goes on once the compute stream has taken the group before: it stays one group ahead, and this slot is free.
  if (impl_->sent > 0) impl_->slots[(impl_->sent - 1) % 2].delivered.wait();
  Impl::Slot& slot = impl_->slots[impl_->sent++ % 2];
  slot.copied.wait();
  for (size_t i = 0; i < host.size(); ++i) {
    check(host[i].device() == Device::cpu && host[i].is_contiguous(), "upload: takes packed tensors of the CPU");
    if (host[i].bytes()) std::memcpy(slot.pinned->data() + offsets[i], host[i].raw(), static_cast<size_t>(host[i].bytes()));
  }
  slot.delivered.hold_back(impl_->stream);
  cuda_check(cudaMemcpyAsync(slot.device.raw(), slot.pinned->data(), static_cast<size_t>(impl_->bytes), cudaMemcpyHostToDevice,
                             impl_->stream),
             "upload");
  slot.copied.record(impl_->stream);
}

void Upload::receive(const Tensor& target) {
  check(impl_->sent > 0 && target.device() == Device::cuda && target.bytes() >= impl_->bytes, "upload: ", impl_->bytes,
        " bytes were sent, the target holds ", target.bytes());
  Impl::Slot& slot = impl_->slots[(impl_->sent - 1) % 2];
  const cudaStream_t compute = native(compute_stream(Device::cuda));
  slot.copied.hold_back(compute);
  cuda_check(cudaMemcpyAsync(target.raw(), slot.device.raw(), static_cast<size_t>(impl_->bytes), cudaMemcpyDeviceToDevice, compute),
             "upload");
  slot.delivered.record(compute);
}

#else

struct Upload::Impl {};
Upload::Upload() { throw DeviceError("upload: this program was built without CUDA"); }
void Upload::send(const std::vector<Tensor>&) {}
void Upload::receive(const Tensor&) {}

#endif

Upload::~Upload() = default;

struct Readback::Impl {
#if defined(FLARE_CUDA)
  struct Slot {
    Pinned pinned{8 * kMaxScalars};
    Event landed;
  };
  std::vector<std::unique_ptr<Slot>> spare;  // giving page-locked memory back would wait for the GPU
#endif
  struct Request {
    std::vector<DType> dtypes;
    std::vector<double> values;  // CPU
#if defined(FLARE_CUDA)
    std::unique_ptr<Slot> slot;
#endif
  };
  Device device;
  std::deque<Request> requests;
};

Readback::Readback(Device device) : impl_(std::make_unique<Impl>()) { impl_->device = device; }
Readback::~Readback() {
#if defined(FLARE_CUDA)
  // Page-locked memory must outlive the copies into it.
  if (!empty() && impl_->device == Device::cuda) cudaStreamSynchronize(native(compute_stream(Device::cuda)));
#endif
}
bool Readback::empty() const { return impl_->requests.empty(); }

void Readback::queue(const std::vector<Tensor>& scalars) {
  check(static_cast<int64_t>(scalars.size()) <= kMaxScalars, "readback: ", scalars.size(), " values; at most ", kMaxScalars);
  Impl::Request request;
  for (const Tensor& t : scalars) {
    check(t.numel() == 1 && t.device() == impl_->device, "readback: takes single values on ", impl_->device, ", got ", t.shape(),
          " on ", t.device());
    request.dtypes.push_back(t.dtype());
    if (impl_->device == Device::cpu) request.values.push_back(t.item());
  }
#if defined(FLARE_CUDA)
  if (impl_->device == Device::cuda) {
    const cudaStream_t compute = native(compute_stream(Device::cuda));
    if (impl_->spare.empty()) impl_->spare.push_back(std::make_unique<Impl::Slot>());
    request.slot = std::move(impl_->spare.back());
    impl_->spare.pop_back();
    for (size_t i = 0; i < scalars.size(); ++i)
      cuda_check(cudaMemcpyAsync(request.slot->pinned.data() + 8 * i, scalars[i].raw(), static_cast<size_t>(scalars[i].bytes()),
                                 cudaMemcpyDeviceToHost, compute),
                 "readback");
    request.slot->landed.record(compute);
  }
#endif
  impl_->requests.push_back(std::move(request));
}

bool Readback::ready() const {
  if (empty()) return false;
#if defined(FLARE_CUDA)
  if (impl_->device == Device::cuda) return impl_->requests.front().slot->landed.done();
#endif
  return true;
}

std::vector<double> Readback::take() {
  check(!empty(), "readback: nothing was asked for");
  Impl::Request request = std::move(impl_->requests.front());
  impl_->requests.pop_front();
#if defined(FLARE_CUDA)
  if (impl_->device == Device::cuda) {
    request.slot->landed.wait();
    for (size_t i = 0; i < request.dtypes.size(); ++i)
      dispatch_any(request.dtypes[i], [&](auto tag) {
        typename decltype(tag)::type value;
        std::memcpy(&value, request.slot->pinned.data() + 8 * i, sizeof(value));
        request.values.push_back(static_cast<double>(value));
      });
    impl_->spare.push_back(std::move(request.slot));
  }
#endif
  return request.values;
}

}  // namespace flare
