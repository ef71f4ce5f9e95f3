#if defined(FLARE_CUDA)
#include "ops/kernels/residual_mlp_launch.cuh"

namespace flare {
template void residual_mlp_forward_cuda<bf16>(const ResidualMlpArgs<bf16>&, const Stream&);
template void residual_mlp_backward_cuda<bf16>(const ResidualMlpArgs<bf16>&, const Stream&);
template void residual_mlp_weights_cuda<bf16>(const ResidualMlpArgs<bf16>&, const Stream&);
}  // namespace flare
#endif
