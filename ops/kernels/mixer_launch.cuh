#pragma once
/// Host side of the mixer's tensor-core passes: how the work is cut, and the launches in order.
#include "core/tensor.h"
#include "ops/kernels/flare_mixer.h"
#include "ops/kernels/mixer_decode.cuh"
#include "ops/kernels/mixer_dkv.cuh"
#include "ops/kernels/mixer_latent.cuh"
#include "ops/kernels/mixer_merge.cuh"
#include "ops/kernels/mixer_pack.cuh"

namespace flare {

/// Blocks that a GPU of 132 multiprocessors runs at once; fixed, so that sums are cut alike everywhere.
inline constexpr int64_t kBlocksAtOnce = 132;
/// Into how many chunks each of `heads` streams is cut, so that the last of the rounds in which `slots` blocks run is as full as
/// the others.
inline int64_t balanced_chunks(int64_t heads, int64_t slots, int64_t most) {
  int64_t best = 1;
  double best_share = 0;
  for (int64_t c = 1; c <= std::min(most, std::max<int64_t>(1, 2 * slots / heads)); ++c) {
    const int64_t rounds = (heads * c + slots - 1) / slots;
    const double share = static_cast<double>(heads * c) / static_cast<double>(rounds * slots);
    if (share > best_share + 0.02) best = c, best_share = share;
  }
  return best;
}

inline Tensor device_floats(int64_t n) { return Tensor::empty(Shape{n > 0 ? n : 1}, DType::f32, Device::cuda); }

/// Calls f(integral_constant<int, DP>) for head widths up to 64.
template <class F> void dispatch_mixer_width(int64_t D, F&& f) {
  if (D <= 8) return f(std::integral_constant<int, 8>{});
  if (D <= 16) return f(std::integral_constant<int, 16>{});
  if (D <= 32) return f(std::integral_constant<int, 32>{});
  f(std::integral_constant<int, 64>{});
}

template <Math X, int DP, LatentPass P> void launch_latent_pass(const char* name, LatentArgs<X>& a, int64_t B, Stream& stream) {
  using Tile = LatentTile<X, DP, P>;
  constexpr int64_t kMerge = 8 * kLatentTiles<X, DP, P> * 16 * (DP + 2) * 4;
  constexpr int64_t kBytes = std::max<int64_t>(kStages * sizeof(Tile), kMerge);
  static_assert(kBytes <= 227 * 1024);
  constexpr int kPoly = X == Math::bf16 ? 1 : 0;
  launch_early(
      name, latent_pass_kernel<X, DP, P, kPoly>,
      LaunchShape{dim3(static_cast<unsigned>(a.H * a.n_blocks_m), static_cast<unsigned>(a.n_chunks), static_cast<unsigned>(B)),
                  dim3(kLatentThreads), kBytes},
      stream, a);
}
/// Cuts M into blocks and N into chunks for pass P.
template <Math X, int DP, LatentPass P> void plan_latent_pass(LatentArgs<X>& a, int64_t B) {
  constexpr int64_t kRows = kLatentTiles<X, DP, P> * 16;
  a.warps_m = 1;
  while (a.warps_m < kLatentThreads / 32 && a.warps_m * kRows < a.M) a.warps_m *= 2;
  a.n_blocks_m = (a.M + a.warps_m * kRows - 1) / (a.warps_m * kRows);
  const int64_t step = 16 * (kLatentThreads / 32 / a.warps_m), most = (a.N + step - 1) / step;
  const int64_t wanted = balanced_chunks(B * a.H * a.n_blocks_m, kLatentBlocks<X, DP, P> * kBlocksAtOnce, most);
  a.tile_rows = static_cast<int>(std::min<int64_t>(kTokens<X, DP>, ((a.N + wanted - 1) / wanted + step - 1) / step * step));
  a.n_chunks = static_cast<int>(std::min(wanted, (a.N + a.tile_rows - 1) / a.tile_rows));
}
/// Plain sums of parts.
template <int DP> void launch_merge(const char* name, MergeArgs& a, Stream& stream) {
  a.lanes = 1;
  while (a.lanes * 2 * DP <= kMergeThreads && a.lanes * 8 <= a.n_sum * a.n_chunks) a.lanes *= 2;
  const int64_t rows = kMergeThreads / DP / a.lanes;
  launch_early(
      name, merge_latents_kernel<DP>,
      LaunchShape{dim3(static_cast<unsigned>((a.M + rows - 1) / rows), static_cast<unsigned>(a.groups)), dim3(kMergeThreads), 0},
      stream, a);
}
/// dq = scale * sum of its parts over chunks and, for shared queries, over the batch.
template <int DP, class T> void merge_dq(const Tensor& part, const MixerGradArgs<T>& m, int64_t n_chunks, Stream& stream) {
  MergeArgs g;
  g.part = part.data<float>(), g.out = m.dq, g.M = m.M, g.D = static_cast<int>(m.D), g.factor = static_cast<float>(m.scale);
  g.groups = m.shared_q ? m.H : m.B * m.H, g.n_sum = m.shared_q ? static_cast<int>(m.B) : 1,
  g.n_chunks = static_cast<int>(n_chunks);
  launch_merge<DP>("mixer merge of dq", g, stream);
}
/// Shared memory of a token pass beside its tables: the rings, and for dkv_dq a sum of dq per warp.
template <Math X, int DP, TokenPass P> int64_t token_fixed_bytes(int64_t warps, int64_t padded_latents) {
  constexpr int64_t kRing = kRingStage < X, DP, P == TokenPass::decode ? 1 : 4, kTokenTiles<X, DP, P> * 16 > ;
  return warps * (kRing + (P == TokenPass::dkv_dq ? padded_latents * DP * 4 : 0));
}
/// How a token pass is cut.
struct TokenPlan {
  int64_t warps, bytes;  // of a block; shared memory
};
template <Math X, int DP, TokenPass P> int64_t bytes_per_16_latents() {
  return kTables<P> * 32 * kTableWords<X, DP> * 4 + (P == TokenPass::decode ? 0 : 16 * 8);
}
/// Warps of a block, and blocks that share a head's tokens.
struct TokenCut {
  int64_t warps, chunks;
};
template <Math X, int DP, TokenPass P> TokenCut token_cut(int64_t heads, int64_t N) {
  constexpr int64_t kRows = kTokenTiles<X, DP, P> * 16, kMost = kTokenWarps<X, DP, P>,
                    kSlots = kTokenBlocks<X, DP, P> * kBlocksAtOnce;
  const int64_t groups = (N + kRows - 1) / kRows;  // what a warp takes at a time
  const auto rounded_up = [](int64_t n, int64_t by) { return (n + by - 1) / by; };
  if (heads * rounded_up(groups, kMost) >= 2 * kBlocksAtOnce)
    return {kMost, balanced_chunks(heads, kSlots, rounded_up(groups, kMost))};
  // Few groups: the fewest turns that a warp takes, then the fewest warps on the busiest multiprocessor.
  TokenCut best{1, 1};
  int64_t least_turns = heads * groups + 1, least_load = 0;
  for (int64_t warps = kMost; warps >= 1; --warps)
    for (int64_t chunks = 1; chunks <= rounded_up(groups, warps) && heads * chunks <= 2 * kSlots; ++chunks) {
      const int64_t turns = rounded_up(heads * chunks, kSlots) * rounded_up(groups, chunks * warps);
      const int64_t load = rounded_up(heads * chunks, kBlocksAtOnce) * warps;
      if (turns > least_turns || (turns == least_turns && load >= least_load)) continue;
      best = {warps, chunks}, least_turns = turns, least_load = load;
    }
  return best;
}
/// Cuts N into chunks, and `latents` of the latents into tables that fit beside what else needs shared memory.
template <Math X, int DP, TokenPass P> TokenPlan plan_token_pass(TokenArgs<X>& a, int64_t B, int64_t latents) {
  const int64_t padded = (latents + 15) / 16 * 16, per_16 = bytes_per_16_latents<X, DP, P>();
  const auto [warps, chunks] = token_cut<X, DP, P>(B * a.H, a.N);
  const int64_t fixed = token_fixed_bytes<X, DP, P>(warps, padded);
  // Shared memory decides how often tables are copied, not the order of any sum.
  int64_t steps = std::min(padded / 16, (most_shared_bytes() - fixed) / per_16);
  a.table_latents = static_cast<int>(16 * std::max<int64_t>(steps, 1));
  a.n_chunks = static_cast<int>(chunks);
  return {warps, a.table_latents / 16 * per_16 + fixed};
}

/// How many latents a launch of dkv_dq should take: all, or half of them, a multiple of 16, if its tables and sums have room for
/// those; 0 if not.
template <Math X, int DP> int64_t latents_with_dq(int64_t heads, int64_t M, int64_t N) {
  constexpr TokenPass kPass = TokenPass::dkv_dq;
  const int64_t warps = token_cut<X, DP, kPass>(heads, N).warps, room = most_shared_bytes() / kTokenBlocks<X, DP, kPass>;
  for (const int64_t parts : {1, 2}) {
    const int64_t range = ((M + parts - 1) / parts + 15) / 16 * 16;
    if (token_fixed_bytes<X, DP, kPass>(warps, range) + range / 16 * bytes_per_16_latents<X, DP, kPass>() <= room) return range;
  }
  return 0;
}

/// Makes the tables and the stats, after merging if there is something to merge; the tensor owns both.
template <Math X, int DP, TokenPass P> Tensor pack_latents(PackArgs& a, int64_t B, Stream& stream) {
  const int64_t steps = (a.M + 15) / 16, words = B * a.H * steps * kTables<P> * 32 * kTableWords<X, DP>;
  const Tensor tables = device_floats(words + B * a.H * steps * 16 * 2);
  a.tables = reinterpret_cast<uint32_t*>(tables.data<float>()), a.stats = reinterpret_cast<float2*>(tables.data<float>() + words);
  const auto pack = [&](auto merges) {
    constexpr bool kMerges = decltype(merges)::value;
    launch_early("mixer pack", pack_latents_kernel<X, DP, P, kMerges>,
                 LaunchShape{dim3(static_cast<unsigned>(steps), static_cast<unsigned>(a.H), static_cast<unsigned>(B)),
                             dim3(kPackThreads<kMerges>), 0},
                 stream, a);
  };
  if (a.merge.part)
    pack(std::true_type{});
  else
    pack(std::false_type{});
  return tables;
}
template <Math X> LaunchShape token_shape(const TokenArgs<X>& a, int64_t B, const TokenPlan& plan) {
  return {dim3(static_cast<unsigned>(a.H), static_cast<unsigned>(a.n_chunks), static_cast<unsigned>(B)),
          dim3(static_cast<unsigned>(32 * plan.warps)), plan.bytes};
}

template <Math X> void mixer_forward(const MixerArgs<Token<X>>& m, Stream& stream) {
  dispatch_mixer_width(m.D, [&](auto width) {
    constexpr int DP = decltype(width)::value;
    LatentArgs<X> e;
    e.q = m.q, e.q_batch = m.q_batch, e.k = m.k, e.v = m.v, e.mask = m.mask, e.dropout = m.dropout;
    e.H = m.H, e.M = m.M, e.N = m.N, e.D = static_cast<int>(m.D), e.scale = static_cast<float>(m.scale),
    e.safe = safe_score<X>(m.N);
    plan_latent_pass<X, DP, LatentPass::encode>(e, m.B);
    const int64_t heads = m.B * m.H, rows = heads * e.n_chunks * m.M, n_bounds = e.n_chunks * e.n_blocks_m;
    const bool split = e.n_chunks > 1;
    const Tensor part = device_floats(split ? rows * m.D : 1), stats = device_floats(split ? rows * 2 : 1);
    const Tensor bounds = device_floats(heads * n_bounds);
    e.part = split ? part.data<float>() : m.z, e.part_stats = split ? stats.data<float>() : nullptr, e.lse_out = m.lse_encode,
    e.rest_out = m.rest_encode;
    e.part_bound = bounds.data<float>();
    launch_latent_pass<X, DP, LatentPass::encode>("mixer encode", e, m.B, stream);
    TokenArgs<X> d;
    d.part_bound = e.part_bound, d.safe = e.safe, d.n_bounds = static_cast<int>(n_bounds), d.k = m.k, d.out = m.y, d.mask = m.mask,
    d.lse_decode = m.lse_decode, d.rest_decode = m.rest_decode;
    d.H = m.H, d.M = m.M, d.N = m.N, d.D = e.D, d.dropout = m.dropout;
    PackArgs pack;
    pack.q = m.q, pack.q_batch = m.q_batch, pack.z = m.z, pack.scale = e.scale;
    pack.M = m.M, pack.H = static_cast<int>(m.H), pack.D = e.D;
    if (split) {
      MergeArgs& g = pack.merge;
      g.part = e.part, g.stats = e.part_stats, g.out = m.z, g.lse = m.lse_encode, g.rest = kHasRest<X> ? m.rest_encode : nullptr;
      g.groups = heads, g.M = m.M, g.n_chunks = static_cast<int>(e.n_chunks), g.D = e.D;
    }
    const Tensor tables = pack_latents<X, DP, TokenPass::decode>(pack, m.B, stream);
    d.tables = pack.tables;
    const TokenPlan plan = plan_token_pass<X, DP, TokenPass::decode>(d, m.B, m.M);
    launch_early("mixer decode", mixer_decode_kernel < X, DP, X == Math::bf16 ? 1 : 0 >, token_shape(d, m.B, plan), stream, d);
  });
}

template <Math X> void mixer_backward(const MixerGradArgs<Token<X>>& m, Stream& stream) {
  dispatch_mixer_width(m.D, [&](auto width) {
    constexpr int DP = decltype(width)::value;
    const int64_t heads = m.B * m.H;
    LatentArgs<X> e;
    e.q = m.q.data, e.q_batch = m.q.batch, e.k = m.k, e.v = m.v, e.g = m.g, e.mask = m.mask, e.dropout = m.dropout;
    e.H = m.H, e.M = m.M, e.N = m.N, e.D = static_cast<int>(m.D), e.scale = static_cast<float>(m.scale),
    e.safe = safe_score<X>(m.N);
    e.lse_encode = m.lse_encode, e.lse_decode = m.lse_decode, e.z = m.z;
    e.rest_encode = m.rest_encode, e.rest_decode = m.rest_decode;
    plan_latent_pass<X, DP, LatentPass::dz>(e, m.B);
    const int64_t n_bounds = e.n_chunks * e.n_blocks_m;
    const bool split = e.n_chunks > 1;
    const Tensor dz = device_floats(heads * m.M * m.D), bounds = device_floats(heads * n_bounds);
    PackArgs pack;
    Tensor dz_parts = device_floats(split ? heads * e.n_chunks * m.M * m.D : 1);
    e.part = split ? dz_parts.data<float>() : dz.data<float>(), e.part_bound = bounds.data<float>();
    launch_latent_pass<X, DP, LatentPass::dz>("mixer dz", e, m.B, stream);
    if (split) {
      MergeArgs& g = pack.merge;
      g.part = e.part, g.out = dz.data<float>();
      g.groups = heads, g.M = m.M, g.n_chunks = static_cast<int>(e.n_chunks), g.D = e.D;
    }
    e.dz = dz.data<float>();
    TokenArgs<X> d;
    pack.q = e.q, pack.q_batch = e.q_batch, pack.z = m.z, pack.dz = e.dz, pack.lse_encode = m.lse_encode,
    pack.rest_encode = m.rest_encode, pack.scale = e.scale;
    pack.part_bound = e.part_bound, pack.safe = e.safe, pack.n_bounds = static_cast<int>(n_bounds), pack.dropout = m.dropout.on();
    pack.M = m.M, pack.H = static_cast<int>(m.H), pack.D = e.D;
    const Tensor tables = pack_latents<X, DP, TokenPass::dkv>(pack, m.B, stream);
    dz_parts = Tensor();  // merged
    d.tables = pack.tables, d.stats = pack.stats;
    d.part_bound = e.part_bound, d.safe = e.safe, d.n_bounds = static_cast<int>(n_bounds);
    d.k = m.k, d.v = m.v, d.g = m.g, d.y = m.y, d.dk = m.dk, d.dv = m.dv, d.mask = m.mask,
    d.lse_decode = const_cast<float*>(m.lse_decode), d.rest_decode = const_cast<float*>(m.rest_decode);
    d.H = m.H, d.M = m.M, d.N = m.N, d.D = e.D, d.dropout = m.dropout;
    d.last = m.M;
    if constexpr (kTurns<X, DP>) {
      constexpr TokenPass kPass = TokenPass::dkv_dq;
      const int64_t range = latents_with_dq<X, DP>(heads, m.M, m.N), launches = range > 0 ? (m.M + range - 1) / range : 0;
      if (launches == 1 || (launches == 2 && X != Math::bf16)) {  // dk and dv in bf16 are not rounded twice
        const TokenPlan plan = plan_token_pass<X, DP, kPass>(d, m.B, range);
        const Tensor part = device_floats(heads * d.n_chunks * m.M * m.D);
        d.part = part.data<float>();
        for (d.first = 0; d.first < m.M; d.first += range) {
          d.last = std::min(d.first + range, m.M);
          launch_early("mixer dk, dv, dq", mixer_dkv_kernel < X, DP, kPass, X == Math::bf16 ? 1 : 0 >, token_shape(d, m.B, plan),
                       stream, d);
        }
        merge_dq<DP>(part, m, d.n_chunks, stream);
        return;
      }
    }
    const Tensor delta = device_floats(heads * m.N);
    d.delta = delta.data<float>();
    const TokenPlan plan = plan_token_pass<X, DP, TokenPass::dkv>(d, m.B, m.M);
    launch_early("mixer dk, dv", mixer_dkv_kernel < X, DP, TokenPass::dkv, X == Math::bf16 ? 1 : 0 >, token_shape(d, m.B, plan),
                 stream, d);
    plan_latent_pass<X, DP, LatentPass::dq>(e, m.B);
    const Tensor part = device_floats(heads * e.n_chunks * m.M * m.D);
    e.delta = d.delta, e.part = part.data<float>(), e.n_bounds = static_cast<int>(n_bounds);
    launch_latent_pass<X, DP, LatentPass::dq>("mixer dq", e, m.B, stream);
    merge_dq<DP>(part, m, e.n_chunks, stream);
  });
}

}  // namespace flare
