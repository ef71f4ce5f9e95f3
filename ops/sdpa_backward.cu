/// Backward of sdpa on the matrix units: the host side of kernels/sdpa_backward_mma.cuh.
#if defined(FLARE_CUDA)
#include "ops/kernels/sdpa_backward_mma.cuh"

#include "ops/kernels/attention.cuh"
#include "ops/kernels/sdpa_fast.h"
#include "ops/kernels/sdpa_host.cuh"
#include "ops/kernels/sdpa_wgmma.h"

namespace flare {
namespace {

/// 16*MT keys a warp, BQ queries a step, key and value fragments held in registers or not, blocks a multiprocessor.
template <class T, int DP> struct BackwardShape {
  static constexpr bool kHalf = sizeof(T) == 2;
  static constexpr int MT = kHalf && DP <= 64 ? 2 : 1, BQ = kHalf ? (DP <= 64 ? 64 : 32) : DP == 16 ? 64 : DP <= 64 ? 32 : 16;
  static constexpr bool kHold = DP <= (kHalf ? 32 : 16);
  static constexpr int kBlocks = kHalf ? (DP == 16 ? 4 : DP == 32 ? 3 : 2) : DP <= 32 ? 3 : DP == 64 ? 2 : 1;
};

void run_wgmma(const SdpaBackwardArgs<bf16>& a, bf16* dq, int64_t n_out, int64_t n_sum, Stream& stream) {
  sdpa_backward_wgmma(a, stream);
  sdpa_query_grad_wgmma(a, dq, n_out, n_sum, stream);
}
void run_wgmma(const SdpaBackwardArgs<float>&, float*, int64_t, int64_t, Stream&) {}

}  // namespace

template <class T> bool sdpa_backward_fast(const SdpaGradArgs<T>& g, const T* rest, Stream& stream) {
  if (g.dropout.on()) return false;
  return dispatch_matrix_width(g.D, [&](auto padded) {
    constexpr int DP = decltype(padded)::value;
    using Cut = BackwardShape<T, DP>;
    constexpr int MT = Cut::MT, kBytes = sdpa_backward_bytes<DP, kOperandParts<T>, MT, Cut::BQ>();
    if (kBytes > shared_bytes_limit()) return false;
    constexpr bool kMayWgmma = sizeof(T) == 2;
    const int64_t n_bh = g.B * g.H, wgmma_tiles = divide_up(g.n_key, kWgmmaBackwardTile);
    const bool wgmma = kMayWgmma && !g.key_mask && g.D > 32 && g.D <= 64 && n_bh * wgmma_tiles >= kWgmmaLeast && has_wgmma();
    const int BQ = wgmma ? kWgmmaBackwardStep : Cut::BQ, width = wgmma ? 64 : DP;  // queries a step, width that they are padded to
    const int64_t n_blocks = divide_up(g.n_query, BQ);
    SdpaOperands<T> operands(g.B, g.H, g.D);
    SdpaBackwardArgs<T> a{};
    a.query = operands.add(g.query, g.n_query);
    a.key = operands.add(g.key, g.n_key);
    a.value = operands.add(g.value, g.n_key);
    a.grad = operands.add(g.grad, g.n_query);
    operands.run(stream);
    a.key_mask = g.key_mask, a.n_query = g.n_query, a.n_key = g.n_key, a.n_bh = n_bh, a.n_blocks = n_blocks;
    a.D = static_cast<int>(g.D), a.scale = static_cast<float>(g.scale), a.factor = static_cast<float>(g.scale * 1.4426950408889634);
    a.plan = wgmma ? SdpaPlan{g.H, wgmma_tiles, 1, n_blocks * BQ} : sdpa_plan(g.B, g.H, g.n_key, g.n_query, 64 * MT, BQ, 4);
    a.n_groups = sdpa_query_grad_groups(a.plan, g.B, a.plan.chunk / BQ);

    const int64_t n_turns = a.n_groups * n_bh * n_blocks, n_rows = n_bh * n_blocks * BQ;
    const Tensor turns = Tensor::empty(Shape{n_turns + 1}, DType::i32, Device::cuda);
    const Tensor stats = Tensor::empty(Shape{n_rows, kRowStats<T>}, DType::f32, Device::cuda);
    const Tensor dq = Tensor::empty(Shape{a.n_groups * n_rows * width}, DType::f32, Device::cuda);
    a.turn = turns.data<int32_t>(), a.ticket = a.turn + n_turns;
    a.stats = stats.data<float>(), a.dq_part = dq.data<float>();
    launch("sdpa row statistics", sdpa_row_stats_kernel<T>, cover(4 * n_rows), stream, g.grad, g.out, g.lse,
           static_cast<const T*>(rest), stats.data<float>(), a.turn, n_turns + 1, n_rows, g.H, g.n_query, n_blocks * BQ, a.D,
           device_rows(g.grad, g.D).vec && device_rows(g.out, g.D).vec);
    Tensor dk, dv;
    a.dk = {g.dk, g.H * g.n_key * g.D, g.n_key * g.D, g.D}, a.dv = {g.dv, a.dk.batch, a.dk.head, g.D};
    if (a.plan.n_chunks > 1) {
      dk = Tensor::empty(Shape{n_bh, a.plan.n_chunks, g.n_key, g.D}, DType::f32, Device::cuda);
      dv = Tensor::empty(dk.shape(), DType::f32, Device::cuda);
      a.dk_part = dk.data<float>(), a.dv_part = dv.data<float>();
    }
    const int64_t n_out = g.shared_query ? g.H : n_bh, n_sum = g.shared_query ? g.B : 1;
    if (wgmma) {
      run_wgmma(a, g.dq, n_out, n_sum, stream);
      return true;
    }
    const int64_t blocks = n_bh * a.n_groups * divide_up(a.plan.n_tiles, a.n_groups) * a.plan.n_chunks;
    launch("sdpa backward", sdpa_backward_kernel<T, DP, MT, Cut::BQ, Cut::kHold, Cut::kBlocks>, sdpa_grid(blocks, kBytes), stream,
           a);
    launch("sdpa query gradient", sdpa_query_grad_kernel<T, DP, Cut::BQ, QueryGradCut<DP, Cut::BQ>>,
           cover(n_out * n_blocks * (BQ * DP / 4)), stream, dq.data<float>(), g.dq, n_out, n_sum, a.n_groups, g.n_query, n_blocks,
           a.D, a.scale);
    if (a.plan.n_chunks > 1) {
      sum_parts(dk, g.dk, g.B, g.H, a.plan.n_chunks, g.n_key * g.D, 1.0f, false, stream);
      sum_parts(dv, g.dv, g.B, g.H, a.plan.n_chunks, g.n_key * g.D, 1.0f, false, stream);
    }
    return true;
  });
}
template bool sdpa_backward_fast(const SdpaGradArgs<float>&, const float*, Stream&);
template bool sdpa_backward_fast(const SdpaGradArgs<bf16>&, const bf16*, Stream&);

}  // namespace flare
#endif
