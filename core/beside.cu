#include "core/beside.h"

#include <algorithm>
#include <utility>

#include "core/allocator.h"
#include "core/rehearsal.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {
namespace {

constexpr int64_t kMostKeptBytes = 64 << 20;  // with more than this kept back, a join comes before further work

struct Waiting {
  std::vector<Tensor> touched, made;
  std::vector<std::pair<void*, int64_t>> given_back;
  int64_t bytes = 0;
  bool has_work = false;
};
thread_local Waiting waiting;
thread_local int n_scopes = 0;
thread_local bool is_inside = false;
bool is_enabled = true;

bool may_begin() {
#if defined(FLARE_CUDA)
  return is_enabled && !rehearsing() && cuda_available() && !sync_each_launch() && !launch_marker();
#else
  return false;
#endif
}

#if defined(FLARE_CUDA)
struct Lane {
  Stream stream{Device::cuda, nullptr};
  cudaEvent_t fork = nullptr, join = nullptr;
  Lane() {
    cudaStream_t handle = nullptr;
    cuda_check(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking), "cudaStreamCreate");
    stream.handle = handle;
    for (cudaEvent_t* event : {&fork, &join})
      cuda_check(cudaEventCreateWithFlags(event, cudaEventDisableTiming), "cudaEventCreate");
  }
  static void wait(const Stream& later, const Stream& earlier, cudaEvent_t event) {
    cuda_check(cudaEventRecord(event, native(earlier)), "recording an event between streams");
    cuda_check(cudaStreamWaitEvent(native(later), event, 0), "waiting between streams");
  }
};
/// Never destroyed: static objects may outlive the driver.
Lane& lane() {
  static Lane* made = new Lane;
  return *made;
}
#endif

}  // namespace

BesideScope::BesideScope() : counts_(n_scopes > 0 || may_begin()) { n_scopes += counts_; }
BesideScope::~BesideScope() {
  n_scopes -= counts_;
  if (!counts_ || n_scopes > 0) return;
  try {
    join_beside();
  } catch (const Error&) {}  // only behind another error, which is on its way
}

Beside::Beside(std::vector<Tensor> touched, bool is_wanted)
    : is_on_(is_wanted && n_scopes > 0 && !is_inside && !touched.empty() && touched.front().device() == Device::cuda) {
  if (!is_on_) return;
  if (waiting.bytes > kMostKeptBytes) join_beside();
#if defined(FLARE_CUDA)
  Lane::wait(lane().stream, compute_stream(Device::cuda), lane().fork);
#endif
  waiting.has_work = true;
  for (Tensor& x : touched) {
    if (!x) continue;
    waiting.bytes += x.bytes();
    waiting.touched.push_back(std::move(x));
  }
  is_inside = true;
}
Beside::~Beside() {
  if (is_on_) is_inside = false;
}
void Beside::made(const Tensor& x) const {
  if (is_on_) waiting.made.push_back(x);
}

void join_beside() {
  if (!waiting.has_work) return;
  struct Done : Waiting {
    ~Done() {
      for (const auto& [data, size] : given_back) release_bytes(Device::cuda, data, size);
    }
  };
  const Done done{std::exchange(waiting, {})};
#if defined(FLARE_CUDA)
  Lane::wait(compute_stream(Device::cuda), lane().stream, lane().join);
#endif
}

bool is_beside(const Tensor& x) {
  return std::any_of(waiting.made.begin(), waiting.made.end(), [&](const Tensor& m) { return m.storage() == x.storage(); });
}
bool set_beside(bool on) { return std::exchange(is_enabled, on); }

Stream* beside_stream() {
#if defined(FLARE_CUDA)
  if (is_inside) return &lane().stream;
#endif
  return nullptr;
}
bool keep_until_join(void* data, int64_t bytes) noexcept {
  if (!is_inside) return false;
  try {
    waiting.given_back.emplace_back(data, bytes);
  } catch (...) { return false; }
  waiting.bytes += bytes;
  return true;
}

}  // namespace flare
