#pragma once
#include <cstdint>
#include <vector>

#include "core/tensor.h"

namespace flare {

// Work that may run at the same time as other work of one thread. Small kernels leave most of a GPU idle, and a step of a small
// model is a long chain of them: what nobody waits for, such as the gradients of weights while the backward pass goes on, need not
// be a link of that chain. It is queued on a second stream, in its own order, so results keep their bits.

/// While one lives in a thread, Beside takes effect there; the end of the outermost one joins. Without effect while launches are
/// profiled, under FLARE_SYNC=1, where each launch is to stand alone, and in a Rehearsal, which counts no kept memory (at most some
/// 100 MiB; kMemoryReserve of a memory plan has room for it).
class BesideScope {
 public:
  BesideScope();
  ~BesideScope();
  BesideScope(const BesideScope&) = delete;
  BesideScope& operator=(const BesideScope&) = delete;

 private:
  bool counts_;
};

/// While one lives, compute_stream(cuda) is the second stream for this thread, which first waits for all that the first one holds
/// by then. Nothing else may read what is computed there before the join. `touched`: tensors that live already and that the work
/// reads or writes; they are kept until the join, and so is memory that is given back while this object lives. Without effect
/// outside a BesideScope, inside another Beside, and on the CPU (the device of touched[0]).
class Beside {
 public:
  explicit Beside(std::vector<Tensor> touched, bool is_wanted = true);
  ~Beside();
  Beside(const Beside&) = delete;
  Beside& operator=(const Beside&) = delete;
  /// Says that x is a result of this work; see is_beside.
  void made(const Tensor& x) const;

 private:
  bool is_on_;
};

/// The compute stream waits for all work beside it, and what was kept goes back.
void join_beside();
/// Whether x shares memory with a result that the compute stream must not touch before a join.
bool is_beside(const Tensor& x);
/// Turns the second stream off or on for the process, for comparison; on at the start. Returns what it was.
bool set_beside(bool on);

// For compute_stream and the allocator.
Stream* beside_stream();                                   // of this thread while a Beside is in effect; null else
bool keep_until_join(void* data, int64_t bytes) noexcept;  // false: give it back now

}  // namespace flare
