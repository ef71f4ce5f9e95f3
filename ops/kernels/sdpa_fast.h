#pragma once
/// Attention on the matrix units (sm_80 and newer): what sdpa tries first on the GPU.
#include "ops/kernels/attention.h"
#include "ops/kernels/sdpa_backward.h"

namespace flare {

/// Both compute what attend_cuda and sdpa's plain backward compute and return true, or do nothing and return false where the case
/// is not theirs: dropout, masked queries, a GPU with too little shared memory per block. f32 takes three bf16 parts per operand.
/// `rest`, null or packed, carries from forward to backward what out and lse have no bits for: bf16 [B,H,n_query,D], f32
/// [B,H,n_query,2].
template <class T> bool sdpa_forward_fast(const AttendArgs<T, T>& args, T* rest, Stream& stream);
template <class T> bool sdpa_backward_fast(const SdpaGradArgs<T>& args, const T* rest, Stream& stream);

}  // namespace flare
