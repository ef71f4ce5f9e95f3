#if defined(FLARE_CUDA)
#include "ops/kernels/mixer_launch.cuh"

namespace flare {
template void mixer_forward<Math::bf16>(const MixerArgs<Token<Math::bf16>>&, Stream&);
}  // namespace flare
#endif
