#include "core/profile.h"

#include <algorithm>
#include <map>

#include "core/check.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {

#if defined(FLARE_CUDA)

struct LaunchProfile::Impl {
  struct Mark {
    const char* name;
    cudaEvent_t event;
  };
  std::vector<Mark> marks;

  static Impl*& recording() {
    static Impl* profile = nullptr;
    return profile;
  }
  void add(const char* name) {
    cudaEvent_t event = nullptr;
    cuda_check(cudaEventCreate(&event), "profile: creating an event");
    marks.push_back({name, event});
    // "External" makes the record a node of the graph, timed at each replay.
    cuda_check(cudaEventRecordWithFlags(event, native(compute_stream(Device::cuda)), cudaEventRecordExternal),
               "profile: recording an event");
  }
  ~Impl() {
    for (const Mark& mark : marks) cudaEventDestroy(mark.event);
  }
};

LaunchProfile::LaunchProfile() : impl_(std::make_unique<Impl>()) {}
LaunchProfile::~LaunchProfile() {
  if (Impl::recording() == impl_.get()) {
    Impl::recording() = nullptr;
    launch_marker() = nullptr;
  }
}

void LaunchProfile::start() {
  check<DeviceError>(Impl::recording() == nullptr, "profile: another one is recording");
  Impl::recording() = impl_.get();
  launch_marker() = [](const char* name) { Impl::recording()->add(name); };
}

void LaunchProfile::stop() {
  launch_marker() = nullptr;
  Impl::recording() = nullptr;
  impl_->add("end");
}

std::vector<LaunchProfile::Entry> LaunchProfile::read() const {
  compute_stream(Device::cuda).synchronize();
  std::map<std::string, Entry> by_name;
  for (size_t i = 0; i + 1 < impl_->marks.size(); ++i) {
    float ms = 0;
    cuda_check(cudaEventElapsedTime(&ms, impl_->marks[i].event, impl_->marks[i + 1].event), "profile: reading an event");
    Entry& entry = by_name[impl_->marks[i].name];
    entry.name = impl_->marks[i].name;
    ++entry.n;
    entry.microseconds += 1e3 * static_cast<double>(ms);
  }
  std::vector<Entry> entries;
  for (auto& [name, entry] : by_name) entries.push_back(std::move(entry));
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.microseconds > b.microseconds; });
  return entries;
}

#else

struct LaunchProfile::Impl {};
LaunchProfile::LaunchProfile() { throw DeviceError("profile: this program was built without CUDA"); }
LaunchProfile::~LaunchProfile() = default;
void LaunchProfile::start() {}
void LaunchProfile::stop() {}
std::vector<LaunchProfile::Entry> LaunchProfile::read() const { return {}; }

#endif

}  // namespace flare
