#pragma once
/// The mixer on the CPU for heads whose scores are moderate, |scale q.k| up to about 44 (kernels/flare_mixer_tiles.h).
#include <vector>

#include "ops/kernels/flare_mixer.h"

namespace flare {

/// Both halves of the forward pass, any scores: encode fills z and lse_encode, decode y and lse_decode.
template <class T> void mixer_forward_cpu(const AttendArgs<acc_t<T>, T>& encode, const AttendArgs<T, acc_t<T>>& decode);

/// Backward of the heads it can take, 1 in the result [B*H]: their dk and dv are complete, and their share of dq (without `scale`)
/// is in dq_part [B*H][M][D]. It takes none where there is dropout.
template <class T> std::vector<uint8_t> mixer_backward_moderate_cpu(const MixerGradArgs<T>& a, std::vector<acc_t<T>>& dq_part);

}  // namespace flare
