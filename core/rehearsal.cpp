#include "core/rehearsal.h"

#include <algorithm>

#include "core/allocator.h"
#include "core/check.h"

namespace flare {
namespace {
/// No process has memory there, on x86-64 and AArch64 alike: bit 62 set, bit 63 clear is no canonical address.
constexpr uintptr_t kFirst = uintptr_t{1} << 62;
thread_local Rehearsal* current = nullptr;
}  // namespace

Rehearsal::Rehearsal() : next_(kFirst) {
  check(current == nullptr, "rehearsal: another one is under way in this thread");
  current = this;
}
Rehearsal::~Rehearsal() { current = nullptr; }

bool rehearsing() { return current != nullptr; }
bool is_rehearsed(const void* data) {
  const auto at = reinterpret_cast<uintptr_t>(data);
  return at >= kFirst && at < 2 * kFirst;
}

void* rehearse_allocation(int64_t bytes) {
  const int64_t size = size_class(bytes);
  current->live_ += size;
  current->peak_ = std::max(current->peak_, current->live_);
  void* data = reinterpret_cast<void*>(current->next_);
  current->next_ += static_cast<uintptr_t>(size);
  return data;
}
void rehearse_release(int64_t bytes) noexcept {
  if (current) current->live_ -= size_class(bytes);
}

}  // namespace flare
