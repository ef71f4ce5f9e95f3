#pragma once
/// Arguments of the backward pass of sdpa; formulas in sdpa_backward.cuh.
#include "ops/kernels/attention.h"

namespace flare {

template <class T> struct SdpaGradArgs {
  int64_t B = 0, H = 0, n_query = 0, n_key = 0, D = 0;
  double scale = 1;
  Rows<const T> query, key, value, out, grad;
  const acc_t<T>* lse = nullptr;
  const uint8_t* key_mask = nullptr;
  AttentionDropout dropout;
  bool shared_query = false;                      // dq is summed over the batch
  T *dq = nullptr, *dk = nullptr, *dv = nullptr;  // packed [B or none,H,Nq,D], [B,H,Nk,D]
};
template <class T> void sdpa_backward_cpu(const SdpaGradArgs<T>& args);

}  // namespace flare
