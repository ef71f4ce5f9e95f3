#pragma once
/// The Hopper versions of the attention passes for bf16 heads of at most 64: launched by sdpa_forward_fast and sdpa_backward_fast.
#include "ops/kernels/attention.h"

namespace flare {

template <class T> struct SdpaForwardArgs;
template <class T> struct SdpaBackwardArgs;

/// Whether this program has sm_90a code and the current device runs it.
bool has_wgmma();
/// Tiles of queries that the forward takes, and of keys, and blocks of queries, that the backward takes.
inline constexpr int kWgmmaForwardTile = 256, kWgmmaBackwardTile = 128, kWgmmaBackwardStep = 128;
/// Run the pass; `a` is complete, its plan cut by the tiles above in one chunk. No key mask.
void sdpa_forward_wgmma(const SdpaForwardArgs<bf16>& a, int64_t B, Stream& stream);
void sdpa_backward_wgmma(const SdpaBackwardArgs<bf16>& a, Stream& stream);
/// dq from the fragments that sdpa_backward_wgmma leaves.
void sdpa_query_grad_wgmma(const SdpaBackwardArgs<bf16>& a, bf16* dq, int64_t n_out, int64_t n_sum, Stream& stream);

}  // namespace flare
