#if defined(FLARE_CUDA)
#include "ops/kernels/mixer_launch.cuh"

namespace flare {
template void mixer_backward<Math::f32>(const MixerGradArgs<Token<Math::f32>>&, Stream&);
}  // namespace flare
#endif
