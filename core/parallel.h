#pragma once
#include <algorithm>
#include <cstdint>

namespace flare {

/// Threads that parallel_for spreads over, the caller included. At start FLARE_THREADS if set, else the cores this process may
/// use.
int thread_count();
/// Changes it; at least 1. Not while a parallel_for runs.
void set_thread_count(int n);

/// Calls call(context, c) once for every c in [0, n_chunks), spread over the threads; returns when all are done. The first
/// exception is rethrown then. Inside another run_chunks, or while another thread is in one, it runs on the calling thread.
void run_chunks(int64_t n_chunks, void (*call)(const void* context, int64_t c), const void* context);

/// Calls body(begin, end) over [0, n) in chunks of `grain`. Chunk borders do not depend on the number of threads, so a
/// reduction that combines per-chunk results in order gives the same bits on any machine width.
template <class Body> void parallel_for(int64_t n, int64_t grain, const Body& body) {
  grain = std::max<int64_t>(grain, 1);
  if (n <= 0) return;
  if (n <= grain) {
    body(int64_t{0}, n);
    return;
  }
  struct Work {
    const Body& body;
    int64_t n, grain;
  } const work{body, n, grain};
  run_chunks((n + grain - 1) / grain,
             [](const void* context, int64_t c) {
               const Work& w = *static_cast<const Work*>(context);
               w.body(c * w.grain, std::min(w.n, (c + 1) * w.grain));
             },
             &work);
}

}  // namespace flare
