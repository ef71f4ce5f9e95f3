#if defined(FLARE_CUDA)
#include "ops/kernels/mixer_launch.cuh"

namespace flare {
template void mixer_forward<Math::tf32>(const MixerArgs<Token<Math::tf32>>&, Stream&);
}  // namespace flare
#endif
