/// Forward of sdpa on the matrix units: the host side of kernels/sdpa_forward.cuh.
#if defined(FLARE_CUDA)
#include "ops/kernels/sdpa_forward.cuh"

#include "ops/kernels/sdpa_fast.h"
#include "ops/kernels/sdpa_host.cuh"
#include "ops/kernels/sdpa_wgmma.h"

namespace flare {
namespace {

/// 16*MT queries a warp, BN keys a tile.
template <class T, int DP> struct ForwardShape {
  static constexpr bool kSmall = sizeof(T) == 2 ? DP <= 64 : DP <= 32;
  static constexpr int MT = kSmall ? 2 : 1, BN = sizeof(T) == 2 || DP <= 32 ? 64 : 32;
  static constexpr int kBlocks = sizeof(T) == 2 ? (DP == 16 ? 4 : DP == 32 ? 3 : 2) : DP <= 64 ? 2 : 1;
};

/// Takes the Hopper kernel if it serves this call.
bool try_wgmma(SdpaForwardArgs<bf16>& a, int64_t B, int64_t H, Stream& stream) {
  const int64_t tiles = divide_up(a.n_query, kWgmmaForwardTile);
  if (a.key_mask || a.out.row != a.D || a.D <= 32 || a.D > 64 || B * H * tiles < kWgmmaLeast || !has_wgmma()) return false;
  a.plan = {H, tiles, 1, a.n_key};
  sdpa_forward_wgmma(a, B, stream);
  return true;
}
bool try_wgmma(SdpaForwardArgs<float>&, int64_t, int64_t, Stream&) { return false; }

}  // namespace

template <class T> bool sdpa_forward_fast(const AttendArgs<T, T>& args, T* rest, Stream& stream) {
  if (args.dropout.on() || args.query_mask) return false;
  return dispatch_matrix_width(args.D, [&](auto width) {
    constexpr int DP = decltype(width)::value, MT = ForwardShape<T, DP>::MT, BN = ForwardShape<T, DP>::BN;
    constexpr int kBytes = sdpa_forward_bytes<DP, kOperandParts<T>, MT, BN>();
    if (kBytes > shared_bytes_limit()) return false;
    SdpaOperands<T> operands(args.B, args.H, args.D);
    SdpaForwardArgs<T> a{};
    a.query = operands.add(args.query, args.n_query);
    a.key = operands.add(args.key, args.n_key);
    a.value = operands.add(args.value, args.n_key);
    operands.run(stream);
    a.out = args.out, a.lse = args.lse, a.rest = rest, a.key_mask = args.key_mask;
    a.n_query = args.n_query, a.n_key = args.n_key, a.D = static_cast<int>(args.D);
    a.factor = static_cast<float>(args.scale * 1.4426950408889634);
    if (try_wgmma(a, args.B, args.H, stream)) return true;
    a.plan = sdpa_plan(args.B, args.H, args.n_query, args.n_key, 64 * MT, BN, 4);
    Tensor acc, stats;
    const int64_t rows = args.B * args.H * args.n_query;
    if (a.plan.n_chunks > 1) {
      acc = Tensor::empty(Shape{a.plan.n_chunks * rows * args.D}, DType::f32, Device::cuda);
      stats = Tensor::empty(Shape{a.plan.n_chunks * rows * 2}, DType::f32, Device::cuda);
      a.part_acc = acc.data<float>(), a.part_stats = stats.data<float>();
    }
    const int64_t blocks = args.B * args.H * a.plan.n_tiles * a.plan.n_chunks;
    launch("sdpa forward", sdpa_forward_kernel<T, DP, MT, BN, ForwardShape<T, DP>::kBlocks>, sdpa_grid(blocks, kBytes), stream, a);
    if (a.plan.n_chunks > 1) launch("sdpa merge", sdpa_merge_kernel<T>, cover(rows * args.D), stream, a, rows * args.D);
    return true;
  });
}
template bool sdpa_forward_fast(const AttendArgs<float, float>&, float*, Stream&);
template bool sdpa_forward_fast(const AttendArgs<bf16, bf16>&, bf16*, Stream&);

}  // namespace flare
#endif
