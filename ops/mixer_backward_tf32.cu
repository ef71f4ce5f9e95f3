#if defined(FLARE_CUDA)
#include "ops/kernels/mixer_launch.cuh"

namespace flare {
template void mixer_backward<Math::tf32>(const MixerGradArgs<Token<Math::tf32>>&, Stream&);
}  // namespace flare
#endif
