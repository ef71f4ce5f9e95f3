/// The fused residual MLP in f32 on the warpgroup units of sm_90a: host side. The build compiles this file for sm_90a besides the
/// usual targets.
#if defined(FLARE_CUDA)
#include "ops/kernels/residual_mlp_halves.h"

#include <algorithm>

#include "core/tensor.h"
#include "ops/kernels/residual_mlp_halves.cuh"
#include "ops/kernels/residual_mlp_weights_halves.cuh"
#include "ops/kernels/sdpa_wgmma.h"

namespace flare {

namespace {

int64_t multiprocessors() {
  static const int64_t known = [] {
    int device = 0, count = 0;
    cuda_check(cudaGetDevice(&device), "residual_mlp: device");
    cuda_check(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device), "residual_mlp: multiprocessors");
    return count;
  }();
  return known;
}

/// The weights of a call, split. One tensor holds them all.
template <int C> Tensor prepare(const ResidualMlpArgs<float>& args, PreparedMlp& prepared, const Stream& stream) {
  const int64_t n = args.n_layers, weights = n * kHalvesLayerBytes<C>, biases = n * C * 4;
  const Tensor held = Tensor::empty(Shape{weights + biases + n * static_cast<int64_t>(sizeof(HalfScale))}, DType::u8, Device::cuda);
  auto* at = static_cast<unsigned char*>(held.raw());
  auto* to_biases = reinterpret_cast<float*>(at + weights);
  auto* to_scales = reinterpret_cast<HalfScale*>(at + weights + biases);
  launch_early("residual_mlp prepare", residual_mlp_halves_prepare_kernel<C>,
               LaunchShape{dim3(static_cast<unsigned>(n), C == 64 ? 1 : 4), dim3(1024)}, stream, args, at, to_biases, to_scales);
  prepared = {at, to_biases, to_scales};
  return held;
}
template <int C, int kGroups> LaunchShape shape_of(const ResidualMlpArgs<float>& args) {
  const int64_t tiles = (args.rows + kHalvesRows - 1) / kHalvesRows;
  const int64_t units = args.n_layers <= kHalvesSlots<C> ? tiles : (tiles + kGroups - 1) / kGroups;
  return {dim3(static_cast<unsigned>(std::min(units, multiprocessors()))), dim3(128 * kGroups),
          halves_shared_bytes<C>(args.n_layers)};
}
/// f(width, warpgroups of a block) as constants.
template <class F> void with_width(int channels, F f) {
  if (channels == 64)
    f(std::integral_constant<int, 64>{}, std::integral_constant<int, 3>{});
  else
    f(std::integral_constant<int, 128>{}, std::integral_constant<int, 2>{});
}

}  // namespace

bool has_residual_mlp_halves(const ResidualMlpArgs<float>& args) {
  constexpr int64_t kLeastTiles = 132;  // one for each multiprocessor
  return (args.channels == 64 || args.channels == 128) && args.rows >= kLeastTiles * kHalvesRows && args.rows < int64_t{1} << 30 &&
         has_wgmma();
}
void residual_mlp_forward_halves(const ResidualMlpArgs<float>& args, const Stream& stream) {
  with_width(args.channels, [&](auto c, auto groups) {
    PreparedMlp prepared;
    const Tensor held = prepare<c.value>(args, prepared, stream);
    launch_early("residual_mlp", residual_mlp_halves_kernel<c.value, groups.value>, shape_of<c.value, groups.value>(args), stream,
                 args, prepared);
  });
}
void residual_mlp_backward_halves(const ResidualMlpArgs<float>& args, const Stream& stream) {
  with_width(args.channels, [&](auto c, auto groups) {
    PreparedMlp prepared;
    const Tensor held = prepare<c.value>(args, prepared, stream);
    launch_early("residual_mlp backward", residual_mlp_halves_backward_kernel<c.value, groups.value>,
                 shape_of<c.value, groups.value>(args), stream, args, prepared);
  });
}
void residual_mlp_weights_halves(const ResidualMlpArgs<float>& args, const Stream& stream) {
  const auto chunks = static_cast<unsigned>((args.rows + args.chunk_rows - 1) / args.chunk_rows);
  with_width(args.channels, [&](auto c, auto) {
    using Dw = HalvesDw<c.value>;
    launch_early("residual_mlp weights", residual_mlp_weights_halves_kernel<c.value>,
                 LaunchShape{dim3(chunks, static_cast<unsigned>(args.n_layers)), dim3(Dw::kThreads), Dw::kSharedBytes}, stream,
                 args);
  });
}

}  // namespace flare
#endif
