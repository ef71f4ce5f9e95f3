#pragma once
/// The reader's ladder: the forward of the FLARE mixer five times, from the formula to the op, one idea a rung (docs/kernels.md).
/// Each rung is one softmax attention, run twice: encode (queries: latents, keys: tokens), then decode (queries: tokens, keys:
/// latents).
///   out[i] = sum_j w_ij value[j] / sum_j w_ij,   w_ij = 2^(scale query[i].key[j])      scale includes log2(e)
/// Masked keys weigh nothing; a masked query, or one without keys, gets 0.
#include "ops/kernels/attention.cuh"

namespace flare {

template <class Tq, class Tk> struct LadderArgs {
  DeviceRows<const Tq> query;
  DeviceRows<const Tk> key, value;
  DeviceRows<Tq> out;
  const uint8_t *key_mask = nullptr, *query_mask = nullptr;  // [B,n_key], [B,n_query]; null: all live
  int64_t B = 0, H = 0, n_query = 0, n_key = 0;
  float scale = 1;
};

template <class Tq, class Tk> __device__ __forceinline__ bool live_query(const LadderArgs<Tq, Tk>& a, int64_t b, int64_t i) {
  return i < a.n_query && (!a.query_mask || a.query_mask[b * a.n_query + i]);
}
template <class Tq, class Tk> __device__ __forceinline__ bool live_key(const LadderArgs<Tq, Tk>& a, int64_t b, int64_t j) {
  return j < a.n_key && (!a.key_mask || a.key_mask[b * a.n_key + j]);
}

}  // namespace flare
