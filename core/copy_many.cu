#include "core/copy_many.h"

#include <type_traits>
#include <vector>

#include "core/rehearsal.h"

#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {
namespace {

#if defined(FLARE_CUDA)
enum class Mode { copy, round, add };

constexpr int kPairs = 112;          // the table is a kernel argument, and 4 KiB of those are taken everywhere
constexpr int64_t kPerBlock = 2048;  // elements
constexpr int kThreads = 256;

/// Pair i owns blocks [first_block[i], first_block[i+1]).
struct Table {
  const float* src[kPairs];
  void* dst[kPairs];
  int64_t count[kPairs];
  int32_t first_block[kPairs + 1];
  int32_t n = 0;
};
static_assert(sizeof(Table) <= 4000 && kPairs <= kThreads);

/// grid: enough blocks of 256 threads for every pair's elements, 2048 a block. A block's pair is the last one that begins at or
/// before it; each thread looks at one entry, since bisection would wait for one load of the table after another. Reads 4 bytes an
/// element (8 when adding), writes 4 or 2.
template <Mode kMode> __global__ void many_kernel(Table t) {
  after_previous();
  const int block = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int pair = __syncthreads_count(thread < t.n && t.first_block[thread] <= block) - 1;
  const float* src = t.src[pair];
  const int64_t begin = (block - t.first_block[pair]) * kPerBlock, n = t.count[pair];
  const int64_t end = begin + kPerBlock < n ? begin + kPerBlock : n;
  using T = std::conditional_t<kMode == Mode::round, bf16, float>;
  T* dst = static_cast<T*>(t.dst[pair]);
  constexpr int kEach = static_cast<int>(kPerBlock / kThreads);
  float values[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (const int64_t i = begin + threadIdx.x + j * kThreads; i < end) {
      values[j] = src[i];
      if constexpr (kMode == Mode::add) values[j] += dst[i];
    }
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (const int64_t i = begin + threadIdx.x + j * kThreads; i < end) dst[i] = T(values[j]);
}

/// Collects pairs and launches them a table at a time.
template <Mode kMode> class Batcher {
 public:
  void add(const CopyPair& p) {
    const int64_t n_blocks = (p.src.numel() + kPerBlock - 1) / kPerBlock;
    if (table_.n == kPairs || n_blocks_ + n_blocks > INT32_MAX) flush();
    table_.src[table_.n] = p.src.data<float>();
    table_.dst[table_.n] = p.dst.raw();
    table_.count[table_.n] = p.src.numel();
    table_.first_block[table_.n++] = static_cast<int32_t>(n_blocks_);
    n_blocks_ += n_blocks;
    table_.first_block[table_.n] = static_cast<int32_t>(n_blocks_);
    ++p.dst.storage()->version;
  }
  void flush() {
    const char* name = kMode == Mode::add ? "accumulate many" : "copy many";
    if (table_.n)
      launch_early(name, many_kernel<kMode>, {dim3(static_cast<unsigned>(n_blocks_)), dim3(kThreads)}, compute_stream(Device::cuda),
                   table_);
    table_.n = 0;
    n_blocks_ = 0;
  }

 private:
  Table table_;
  int64_t n_blocks_ = 0;
};

bool can_batch(const CopyPair& p) {
  return p.src.device() == Device::cuda && p.dst.device() == Device::cuda && !is_rehearsed(p.dst.raw()) &&
         p.src.dtype() == DType::f32 && p.src.is_contiguous() && p.dst.is_contiguous() && p.src.shape() == p.dst.shape() &&
         p.src.numel() > 0;
}
#endif

}  // namespace

void copy_many(std::span<const CopyPair> pairs) {
#if defined(FLARE_CUDA)
  Batcher<Mode::copy> copies;
  Batcher<Mode::round> roundings;
#endif
  for (const CopyPair& p : pairs) {
#if defined(FLARE_CUDA)
    if (can_batch(p) && p.dst.dtype() == DType::f32) {
      copies.add(p);
      continue;
    }
    if (can_batch(p) && p.dst.dtype() == DType::bf16) {
      roundings.add(p);
      continue;
    }
#endif
    copy(p.src, p.dst);
  }
#if defined(FLARE_CUDA)
  copies.flush();
  roundings.flush();
#endif
}

void accumulate_many(std::span<const CopyPair> pairs) {
#if defined(FLARE_CUDA)
  Batcher<Mode::add> sums;
#endif
  for (const CopyPair& p : pairs) {
#if defined(FLARE_CUDA)
    if (can_batch(p) && p.dst.dtype() == DType::f32) {
      sums.add(p);
      continue;
    }
#endif
    accumulate(p.src, p.dst);
  }
#if defined(FLARE_CUDA)
  sums.flush();
#endif
}

}  // namespace flare
