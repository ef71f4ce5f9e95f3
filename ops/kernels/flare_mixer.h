#pragma once
/// Arguments of the backward pass of the mixer. With S = scale q k^T, A = softmax of S over tokens, P = softmax over latents, r and
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
  Rows<const A> q;                                       // [H,M,D] or [B,H,M,D]
  bool shared_q = true;                                  // dq is summed over the batch
  Rows<const T> k, v, y, g;                              // [B,N,H*D]
  const A* z = nullptr;                                  // [B,H,M,D]
  const A *lse_encode = nullptr, *lse_decode = nullptr;  // [B,H,M], [B,H,N]
  const uint8_t* mask = nullptr;                         // [B,N]
  AttentionDropout dropout;                              // rows: latents, columns: tokens; half 0 encode, 1 decode
  A* dq = nullptr;                                       // packed, shaped like q
  Rows<T> dk, dv;
};
template <class T> void mixer_backward_cpu(const MixerGradArgs<T>& args);

}  // namespace flare
