#pragma once
#include <algorithm>
#include <cstdint>
#include <exception>

namespace flare {

/// Calls body(begin, end) over [0, n) in chunks of `grain`, spread over the cores. Chunk borders do not depend on the number
/// of threads, so a reduction that combines per-chunk results in order gives the same bits on any machine width. The first
/// exception is rethrown after all chunks end. Nested calls run serially.
template <class Body>
void parallel_for(int64_t n, int64_t grain, const Body& body) {
  grain = std::max<int64_t>(grain, 1);
  const int64_t n_chunks = (n + grain - 1) / grain;
  if (n_chunks <= 1) { if (n > 0) body(int64_t{0}, n); return; }
  std::exception_ptr error;
#if defined(_OPENMP)
#pragma omp parallel for schedule(dynamic, 1)
#endif
  for (int64_t c = 0; c < n_chunks; ++c) {
    try {
      body(c * grain, std::min(n, (c + 1) * grain));
    } catch (...) {
#if defined(_OPENMP)
#pragma omp critical(flare_parallel_for_error)
#endif
      if (!error) error = std::current_exception();
    }
  }
  if (error) std::rethrow_exception(error);
}

}  // namespace flare
