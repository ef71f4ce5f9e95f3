#pragma once
/// What the CPU and CUDA attention kernels share: strided rows, dropout bits, and the arguments of one softmax attention.
#include <cstdint>

#include "core/device.h"
#include "core/dtype.h"
#include "core/rng.h"
#include "core/tensor.h"

namespace flare {

/// Rows of D contiguous elements addressed by (batch, head, index); strides in elements, 0 shares a row.
template <class T> struct Rows {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;
  FLARE_HD T* at(int64_t b, int64_t h, int64_t i) const { return data + b * batch + h * head + i * row; }
};

/// Rows of x [B,H,n,D], any strides with the last axis contiguous; [H,n,D] and B = 1 are shared over the batch.
template <class T> Rows<T> rows_bhnd(const Tensor& x) {
  auto* data = x.data<std::remove_const_t<T>>();
  const Shape& s = x.strides();
  const bool shared = x.ndim() == 3 || x.size(0) == 1;
  return {data, shared ? 0 : s[0], s[-3], s[-2]};
}
/// Rows of x [B,N,H*D]: head h starts at column h*D.
template <class T> Rows<T> rows_bnc(const Tensor& x, int64_t head_width) {
  return {x.data<std::remove_const_t<T>>(), x.strides()[0], head_width, x.strides()[1]};
}
/// x itself if its last axis is contiguous in memory, else a packed copy.
inline Tensor with_contiguous_rows(const Tensor& x) { return x.size(-1) <= 1 || x.strides()[-1] == 1 ? x : contiguous(x); }

/// Inverted dropout on attention weights. One Philox call, indexed by (batch*head, row/2, column/2), serves a 2x2 patch of
/// (row, column) pairs with two independent 16-bit numbers each (`half` 0 and 1), so threads that own rows and threads that
/// own columns regenerate the same bits cheaply. p is rounded to a multiple of 2^-16 and the scale is exact for that value.
struct AttentionDropout {
  uint32_t threshold = 0;  // dropped when the 16-bit number is below it; 0: no dropout
  float keep = 1;          // factor of a kept weight
  uint64_t site = 0;
  const int64_t* rng = nullptr;  // {seed, step} on the device that runs the kernel
  int64_t n_rows = 0, n_cols = 0;

  FLARE_HD bool on() const { return threshold != 0; }
  FLARE_HD Philox4 patch(int64_t bh, int64_t row, int64_t col) const {
    const int64_t index = (bh * ((n_rows + 1) / 2) + row / 2) * ((n_cols + 1) / 2) + col / 2;
    const uint64_t stream = (site << 32) ^ static_cast<uint64_t>(rng[1]);
    return philox(static_cast<uint64_t>(rng[0]), stream, static_cast<uint64_t>(index));
  }
  FLARE_HD float factor(const Philox4& p, int64_t row, int64_t col, int half) const {
    const uint32_t upper = (col & 1) ? p.w[3] : p.w[2], lower = (col & 1) ? p.w[1] : p.w[0];
    const uint32_t word = (row & 1) ? upper : lower;
    return ((half ? word >> 16 : word & 0xffffu) < threshold) ? 0.0f : keep;
  }
};
/// ShapeError unless 0 <= p < 1 and, where p > 0, rng is an i64 [2] tensor.
AttentionDropout attention_dropout(const char* who, double p, const Tensor& rng, uint64_t site, int64_t n_rows, int64_t n_cols);
/// The factors as a tensor [B,H,rows,cols] on rng's device: what the plain compositions multiply by. Reads rng back to the host.
Tensor attention_dropout_factors(double p, const Tensor& rng, uint64_t site, const Shape& bhrc, int half, DType dtype);

/// out[i] = sum_j softmax_j(scale * query[i].key[j]) value[j] for every (b,h), lse[i] = logsumexp_j(scale * query[i].key[j]).
/// Masked keys weigh nothing; a row without keys, or of a masked query, is 0 with lse 0.
template <class Tq, class Tk> struct AttendArgs {
  int64_t B = 0, H = 0, n_query = 0, n_key = 0, D = 0;
  double scale = 1;
  Rows<const Tq> query;
  Rows<const Tk> key, value;
  Rows<Tq> out;
  acc_t<Tq>* lse = nullptr;             // [B,H,n_query]
  const uint8_t* key_mask = nullptr;    // [B,n_key]
  const uint8_t* query_mask = nullptr;  // [B,n_query]
  AttentionDropout dropout;
  bool dropout_transposed = false;  // queries are the columns of the dropout grid
  int dropout_half = 0;
};
template <class Tq, class Tk> void attend_cpu(const AttendArgs<Tq, Tk>& args);
template <class Tq, class Tk> void attend_cuda(const AttendArgs<Tq, Tk>& args, Stream& stream);

}  // namespace flare
