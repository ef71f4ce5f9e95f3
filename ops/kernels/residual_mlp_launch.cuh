#pragma once
/// Chooses the tile of a shape and launches the fused residual MLP; instantiated once per dtype.
#include "core/gemm.h"
#include "core/launch.cuh"
#include "ops/kernels/residual_mlp.cuh"
#include "ops/kernels/residual_mlp_few.cuh"
#include "ops/kernels/residual_mlp_halves.h"
#include "ops/kernels/residual_mlp_weights.cuh"
#include "ops/kernels/residual_mlp_wgmma.h"

namespace flare {

/// Below this many large tiles the GPU would idle, and small tiles, which fetch the weights more often, are faster.
inline constexpr int64_t kFewTiles = 132;

/// Calls f(Tile{}). Sizes: bf16 holds two blocks of 128 rows on a multiprocessor; f32 at C = 128 has room for one weight per block.
template <class T, bool kSplit, class F> void with_mlp_tile(int64_t channels, int64_t rows, F f) {
  const auto few = [&](int64_t tile_rows) { return (rows + tile_rows - 1) / tile_rows < kFewTiles; };
  if constexpr (sizeof(T) == 2) {
    if (channels == 64)
      few(128) ? f(MlpTile<T, 64, 32, 2, 2, 4, 3, false>{}) : f(MlpTile<T, 64, 128, 4, 2, 2, 2, false>{});
    else if (channels == 128)
      few(128) ? f(MlpTile<T, 128, 32, 2, 4, 2, 2, false>{}) : f(MlpTile<T, 128, 128, 4, 2, 2, 2, false>{});
    else if (channels == 256)
      f(MlpTile<T, 256, 64, 2, 4, 1, 1, false>{});
    else
      throw ShapeError(cat("residual_mlp: no kernel for C=", channels));
  } else {
    if (channels == 64)
      f(MlpTile<T, 64, 64, 4, 2, 2, 2, kSplit>{});
    else if (channels == 128)
      f(MlpTile<T, 128, 64, 2, 4, 1, 2, kSplit>{});
    else
      throw ShapeError(cat("residual_mlp: no kernel for C=", channels));
  }
}
/// f(std::bool_constant<split>{}): whether products of T are split into tf32 ones.
template <class T, class F> void with_mlp_split(F f) {
  if (sizeof(T) == 2 || tf32_enabled())
    f(std::false_type{});
  else
    f(std::true_type{});
}
template <class T, class F> void with_mlp_tile(int64_t channels, int64_t rows, F f) {
  with_mlp_split<T>([&](auto split) { with_mlp_tile<T, sizeof(T) == 4 && split.value>(channels, rows, f); });
}

template <class Tile> LaunchShape mlp_grid(int64_t rows, int64_t shared_bytes) {
  return {dim3(static_cast<unsigned>((rows + Tile::kRows - 1) / Tile::kRows)), dim3(Tile::kThreads), shared_bytes};
}

/// Launches the kernel for few rows in f32 and returns true, if rows are few and there is room.
template <bool kBackward> bool run_few(const ResidualMlpArgs<float>& args, const Stream& stream) {
  if ((args.rows + 63) / 64 >= kFewTiles) return false;
  bool done = false;
  const auto run = [&](auto tile) {
    using Tile = decltype(tile);
    const int64_t bytes = kBackward ? Tile::backward_bytes(args.n_active()) : Tile::kForwardBytes;
    if (bytes > most_shared_bytes()) return;
    const auto blocks = static_cast<unsigned>((args.rows + Tile::kRows - 1) / Tile::kRows);
    const LaunchShape shape{dim3(blocks), dim3(Tile::kThreads), bytes};
    if constexpr (kBackward)
      launch_early("residual_mlp backward", residual_mlp_few_backward_kernel<Tile>, shape, stream, args);
    else
      launch_early("residual_mlp", residual_mlp_few_kernel<Tile>, shape, stream, args);
    done = true;
  };
  with_mlp_split<float>([&](auto split) {
    if (args.channels == 64)
      run(MlpFewTile<64, 4, split.value>{});
    else if (args.channels == 128)
      run(MlpFewTile<128, 2, split.value>{});
  });
  return done;
}

/// Whether the kernels for warpgroup units serve: they have f32's accuracy, which is not what tf32 asks for.
inline bool splits_halves(const ResidualMlpArgs<float>& args) { return !tf32_enabled() && has_residual_mlp_halves(args); }

template <class T> void residual_mlp_forward_cuda(const ResidualMlpArgs<T>& args, const Stream& stream) {
  if constexpr (sizeof(T) == 2)
    if (has_residual_mlp_wgmma(args)) return residual_mlp_forward_wgmma(args, stream);
  if constexpr (sizeof(T) == 4) {
    if (run_few<false>(args, stream)) return;
    if (splits_halves(args)) return residual_mlp_forward_halves(args, stream);
  }
  with_mlp_tile<T>(args.channels, args.rows, [&](auto tile) {
    using Tile = decltype(tile);
    launch_early("residual_mlp", residual_mlp_kernel<Tile>, mlp_grid<Tile>(args.rows, Tile::kForwardBytes), stream, args);
  });
}
template <class T, bool kSplit> void launch_mlp_weights(const ResidualMlpArgs<T>& args, const Stream& stream) {
  const auto with = [&](auto tile) {
    using Tile = decltype(tile);
    const auto n_chunks = static_cast<unsigned>((args.rows + args.chunk_rows - 1) / args.chunk_rows);
    launch_early(
        "residual_mlp weights", residual_mlp_weights_kernel<Tile>,
        LaunchShape{dim3(n_chunks, static_cast<unsigned>(args.n_layers), Tile::kParts), dim3(Tile::kThreads), Tile::kSharedBytes},
        stream, args);
  };
  if (args.channels == 64)
    with(MlpWeightsTile<T, 64, kSplit>{});
  else if (args.channels == 128)
    with(MlpWeightsTile<T, 128, kSplit>{});
  else if constexpr (sizeof(T) == 2)
    with(MlpWeightsTile<T, 256, kSplit>{});
}
template <class T> void residual_mlp_backward_cuda(const ResidualMlpArgs<T>& args, const Stream& stream) {
  if constexpr (sizeof(T) == 2)
    if (has_residual_mlp_wgmma(args)) return residual_mlp_backward_wgmma(args, stream);
  if constexpr (sizeof(T) == 4) {
    if (run_few<true>(args, stream)) return;
    if (splits_halves(args)) return residual_mlp_backward_halves(args, stream);
  }
  with_mlp_tile<T>(args.channels, args.rows, [&](auto tile) {
    using Tile = decltype(tile);
    launch_early("residual_mlp backward", residual_mlp_backward_kernel<Tile>, mlp_grid<Tile>(args.rows, Tile::kBackwardBytes),
                 stream, args);
  });
}
template <class T> void residual_mlp_weights_cuda(const ResidualMlpArgs<T>& args, const Stream& stream) {
  if constexpr (sizeof(T) == 2)
    if (has_residual_mlp_wgmma(args)) return residual_mlp_weights_wgmma(args, stream);
  if constexpr (sizeof(T) == 4)
    if (splits_halves(args)) return residual_mlp_weights_halves(args, stream);
  with_mlp_split<T>([&](auto split) { launch_mlp_weights<T, sizeof(T) == 4 && split.value>(args, stream); });
}

}  // namespace flare
