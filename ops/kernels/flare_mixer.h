#pragma once
/// Arguments of the mixer's kernels. Backward, with S = scale q k^T, A = softmax of S over tokens, P = softmax over latents, r and
/// r' their dropout factors, z the latents, g the gradient of y:
///   delta_n = g_n . y_n,  dz = (P r')^T g,  eps_m = dz_m . z_m
///   W[m,n] = P (r' g_n . z_m - delta_n) + A (r dz_m . v_n - eps_m)
///   dq = scale W k,  dk = scale W^T q,  dv = (A r)^T dz.
/// dz needs all tokens before W can be formed: two passes over the tokens.
#include "ops/kernels/attention.h"

namespace flare {

template <class T> struct MixerGradArgs {
  using A = acc_t<T>;
  int64_t B = 0, H = 0, M = 0, N = 0, D = 0;
  double scale = 1;
  Rows<const A> q;                                         // [H,M,D] or [B,H,M,D]
  bool shared_q = true;                                    // dq is summed over the batch
  Rows<const T> k, v, y, g;                                // [B,N,H*D]
  const A* z = nullptr;                                    // [B,H,M,D]
  const A *lse_encode = nullptr, *lse_decode = nullptr;    // [B,H,M], [B,H,N]
  const A *rest_encode = nullptr, *rest_decode = nullptr;  // the same shapes, read on the GPU in f32 only; see MixerArgs
  const uint8_t* mask = nullptr;                           // [B,N]
  AttentionDropout dropout;                                // rows: latents, columns: tokens; half 0 encode, 1 decode
  A* dq = nullptr;                                         // packed, shaped like q
  Rows<T> dk, dv;
};
template <class T> void mixer_backward_cpu(const MixerGradArgs<T>& args);

/// Forward on the GPU. z [B,H,M,D], lse_encode [B,H,M] and lse_decode [B,H,N] are packed outputs.
template <class T> struct MixerArgs {
  int64_t B = 0, H = 0, M = 0, N = 0, D = 0;
  double scale = 1;
  const float* q = nullptr;  // packed [H,M,D] (q_batch = 0) or [B,H,M,D]
  int64_t q_batch = 0;
  Rows<const T> k, v;
  Rows<T> y;
  float *z = nullptr, *lse_encode = nullptr, *lse_decode = nullptr;
  /// f32: what rounding lse loses, near 1, so that a weight is e^(s - lse) / rest to full precision however large the scores are.
  float *rest_encode = nullptr, *rest_decode = nullptr;
  const uint8_t* mask = nullptr;
  AttentionDropout dropout;
};
/// How the tensor-core kernels form products; see mixer_fragments.cuh.
enum class Math { bf16, tf32, f32 };
template <Math X> struct TokenOf { using type = float; };
template <> struct TokenOf<Math::bf16> { using type = bf16; };
template <Math X> using Token = typename TokenOf<X>::type;
/// The widest head that the tensor-core kernels take; wider ones go through attend_cuda.
inline constexpr int64_t kMixerWidth = 64;
template <Math X> void mixer_forward(const MixerArgs<Token<X>>& args, Stream& stream);
template <Math X> void mixer_backward(const MixerGradArgs<Token<X>>& args, Stream& stream);

}  // namespace flare
