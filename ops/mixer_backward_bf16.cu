#if defined(FLARE_CUDA)
#include "ops/kernels/mixer_launch.cuh"

namespace flare {
template void mixer_backward<Math::bf16>(const MixerGradArgs<Token<Math::bf16>>&, Stream&);
}  // namespace flare
#endif
