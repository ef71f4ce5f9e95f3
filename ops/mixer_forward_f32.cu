#if defined(FLARE_CUDA)
#include "ops/kernels/mixer_launch.cuh"

namespace flare {
template void mixer_forward<Math::f32>(const MixerArgs<Token<Math::f32>>&, Stream&);
}  // namespace flare
#endif
