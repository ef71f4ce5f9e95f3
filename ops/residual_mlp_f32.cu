#if defined(FLARE_CUDA)
#include "ops/kernels/residual_mlp_launch.cuh"

namespace flare {
template void residual_mlp_forward_cuda<float>(const ResidualMlpArgs<float>&, const Stream&);
template void residual_mlp_backward_cuda<float>(const ResidualMlpArgs<float>&, const Stream&);
template void residual_mlp_weights_cuda<float>(const ResidualMlpArgs<float>&, const Stream&);
}  // namespace flare
#endif
