#pragma once
/// How the attention kernels on the matrix units are cut. Counts are fixed, not asked of the device, so that sums are cut alike
/// everywhere.
#include <algorithm>
#include <cstdint>

namespace flare {

/// How a kernel is cut: tiles of the owning side and chunks of the streamed side, per (batch, head).
struct SdpaPlan {
  int64_t H = 1, n_tiles = 1, n_chunks = 1, chunk = 0;
};
inline int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Blocks that 132 multiprocessors hold at two each; with fewer tiles the streamed side is split.
inline constexpr int64_t kSdpaBlocks = 264;

/// Fewest blocks for which the Hopper kernels, which do not split the streamed side, are taken.
inline constexpr int64_t kWgmmaLeast = 100;

/// Tiles of `tile` owners; the streamed side in chunks of a multiple of `unit`, at least `least` units each.
inline SdpaPlan sdpa_plan(int64_t B, int64_t H, int64_t n_owner, int64_t n_stream, int64_t tile, int64_t unit, int64_t least) {
  SdpaPlan p;
  p.H = H, p.n_tiles = divide_up(n_owner, tile);
  const int64_t blocks = B * H * p.n_tiles, units = divide_up(n_stream, unit);
  const int64_t n =
      blocks >= kSdpaBlocks ? 1 : std::clamp<int64_t>(2 * kSdpaBlocks / blocks, 1, std::max<int64_t>(units / least, 1));
  p.chunk = divide_up(units, n) * unit;
  p.n_chunks = divide_up(n_stream, p.chunk);
  return p;
}
/// Groups of key tiles with a dq of their own: as many as keep the key tiles that run at once from waiting for each other's turn.
inline int64_t sdpa_query_grad_groups(const SdpaPlan& p, int64_t B, int64_t blocks_per_chunk) {
  const int64_t at_once = std::min(p.n_tiles, kSdpaBlocks / std::max<int64_t>(1, B * p.H * p.n_chunks));
  if (at_once <= 1) return 1;
  const int64_t n = std::clamp<int64_t>(divide_up(4 * at_once, blocks_per_chunk), 1, p.n_tiles);
  return divide_up(p.n_tiles, divide_up(p.n_tiles, n));
}

}  // namespace flare
