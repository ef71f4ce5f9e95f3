#pragma once
#include <cstdint>

namespace flare {

/// While one lives in a thread, that thread's tensors on Device::cuda are names without memory, and nothing is computed on them:
/// ops check their arguments, make their outputs and write the tape as always. What would be live is counted in the allocator's
/// sizes, so a step's memory is known in milliseconds, on a machine without a GPU as well. Tensors may outlive it, but hold
/// nothing: never use them outside. Rehearsals do not nest.
class Rehearsal {
 public:
  Rehearsal();
  ~Rehearsal();
  Rehearsal(const Rehearsal&) = delete;
  Rehearsal& operator=(const Rehearsal&) = delete;
  int64_t live() const { return live_; }  // bytes
  int64_t peak() const { return peak_; }  // largest live() so far
  void reset_peak() { peak_ = live_; }

 private:
  friend void* rehearse_allocation(int64_t bytes);
  friend void rehearse_release(int64_t bytes) noexcept;
  int64_t live_ = 0, peak_ = 0;
  uintptr_t next_;
};

/// Whether a Rehearsal lives in this thread.
bool rehearsing();
/// Whether this is the address of a rehearsed tensor: such bytes do not exist.
bool is_rehearsed(const void* data);

// The allocator's side.
void* rehearse_allocation(int64_t bytes);
void rehearse_release(int64_t bytes) noexcept;

}  // namespace flare
