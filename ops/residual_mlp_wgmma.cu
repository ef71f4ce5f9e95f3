/// The fused residual MLP on the warpgroup units of sm_90a: host side. The build compiles this file for sm_90a besides the usual
/// targets.
#if defined(FLARE_CUDA)
#include "ops/kernels/residual_mlp_wgmma.h"

#include <algorithm>

#include "core/launch.cuh"
#include "ops/kernels/residual_mlp_weights_wgmma.cuh"
#include "ops/kernels/residual_mlp_wgmma.cuh"
#include "ops/kernels/sdpa_wgmma.h"

namespace flare {

namespace {

constexpr int64_t kSharedLimit = 227 << 10;

int64_t layer_bytes(int n_layers) { return n_layers * int64_t{kMlpWeightElements * 2 + kMlpChannels * 4} + kMlpLiveWords * 4; }
int64_t multiprocessors() {
  static const int64_t known = [] {
    int device = 0, count = 0;
    cuda_check(cudaGetDevice(&device), "residual_mlp: device");
    cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "residual_mlp: multiprocessors");
    return count;
  }();
  return known;
}
template <int kGroups> LaunchShape shape_of(const ResidualMlpArgs<bf16>& args, int64_t shared_bytes) {
  const int64_t tiles = (args.rows + kWgmmaMlpRows - 1) / kWgmmaMlpRows, blocks = std::min(tiles, multiprocessors());
  return {dim3(static_cast<unsigned>(blocks)), dim3(128 * kGroups), shared_bytes};
}
template <int kGroups> void run_backward(const ResidualMlpArgs<bf16>& args, const Stream& stream) {
  const int64_t layers = layer_bytes(args.n_layers), room = (kSharedLimit - layers) / (kGroups * kMlpSlopeBytes);
  const int shared_slopes = static_cast<int>(std::min<int64_t>(room, args.n_active()));
  launch_early("residual_mlp backward", residual_mlp_backward_wgmma_kernel<kGroups>,
               shape_of<kGroups>(args, layers + shared_slopes * kGroups * kMlpSlopeBytes), stream, args, shared_slopes);
}

}  // namespace

bool has_residual_mlp_wgmma(const ResidualMlpArgs<bf16>& args) {
  constexpr int64_t kLeastTiles = 264;  // two for each of 132 multiprocessors
  return args.channels == kMlpChannels && args.rows >= kLeastTiles * kWgmmaMlpRows && args.rows < int64_t{1} << 30 &&
         layer_bytes(args.n_layers) <= kSharedLimit && has_wgmma();
}
void residual_mlp_forward_wgmma(const ResidualMlpArgs<bf16>& args, const Stream& stream) {
  launch_early("residual_mlp", residual_mlp_wgmma_kernel, shape_of<kMlpForwardGroups>(args, layer_bytes(args.n_layers)), stream,
               args);
}
void residual_mlp_backward_wgmma(const ResidualMlpArgs<bf16>& args, const Stream& stream) {
  constexpr int64_t kManyTiles = 32 * 132;  // measured: three warpgroups win at 8 tiles a multiprocessor, two at 124
  ResidualMlpArgs<bf16> a = args;
  if (a.n_active() == 0) a.x = a.gy;  // a single linear layer needs no x; a branch in the kernel would cost all others registers
  if (a.rows >= kManyTiles * kWgmmaMlpRows)
    run_backward<2>(a, stream);
  else
    run_backward<3>(a, stream);
}
void residual_mlp_weights_wgmma(const ResidualMlpArgs<bf16>& args, const Stream& stream) {
  const auto chunks = static_cast<unsigned>((args.rows + args.chunk_rows - 1) / args.chunk_rows);
  launch_early("residual_mlp weights", residual_mlp_weights_wgmma_kernel,
               LaunchShape{dim3(chunks, static_cast<unsigned>(args.n_layers)), dim3(kMlpDwThreads), kMlpDwBytes}, stream, args);
}

}  // namespace flare
#endif
