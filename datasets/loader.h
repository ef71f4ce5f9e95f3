#pragma once
#include <cstdint>
#include <memory>
#include <string>

#include "core/tensor.h"
#include "datasets/masking.h"
#include "datasets/prepared.h"
#include "datasets/symmetry.h"

namespace flare {

/// CPU tensors of one batch; undefined where the data set has no such field. Positions past a sample's end hold token 0 or value
/// 0 and mask 0. A mask is undefined when all samples have the same length and nothing was padded.
struct Batch {
  Tensor tokens, mask;      // i64 [B,N], u8 [B,N]; mask belongs to x where there are no tokens
  Tensor tokens_b, mask_b;  // the second sequence of a pair
  Tensor labels;            // i64 [B]
  Tensor x, y;              // f32 [B,N,...]
  /// With LoaderOptions::masking: i64 [B,K], the rows b·N + n of `tokens` that are hidden; labels then are the tokens that stood
  /// there, i64 [B,K].
  Tensor masked;
  int64_t n_samples = 0;
  int64_t n_tokens = 0;  // tokens (or points of x) without padding, after truncation
  int64_t epoch = 0;
};

/// Training: shuffle and drop_last. Evaluation: neither, so every sample comes once, the last batch maybe smaller.
struct LoaderOptions {
  int64_t batch_size = 32;
  bool shuffle = true;
  uint64_t seed = 0;
  bool drop_last = true;
  int64_t pad_to = 0;  // fixed N, longer samples are truncated; 0: longest in the batch
  /// pad_to 0, fields of varying length: N is rounded up to a multiple of pad_step (0: not), but not beyond pad_limit (0: no limit)
  /// unless a sample is longer; both sequences of a pair get one N. Few lengths mean few shapes, so that a captured step can
  /// be replayed.
  int64_t pad_step = 0, pad_limit = 0;
  /// Turns each sample, other ways in every epoch: tokens (or x, where there are no tokens) of square pictures with a label.
  Symmetries symmetries = Symmetries::none;
  /// Share above 0: hides tokens, others in every epoch. The samples must have tokens of one length.
  Masking masking = {};
  bool prefetch = true;  // a background thread works a few batches ahead; the batches are the same without
};

/// Batches of one split, epoch after epoch. Batch k depends on k, the options and the data alone: the permutation of an epoch is
/// a Fisher-Yates shuffle by Philox(seed, epoch), so seek(position()) in a new process goes on exactly.
class Loader {
 public:
  /// Reads the whole split once to validate it. DataError as PreparedFolder::validate, or when there is no full batch;
  /// ConfigError for a batch size below 1, a negative pad_to, masking of samples that have no tokens or differ in length, or
  /// symmetries of what is no square picture.
  Loader(const PreparedFolder& folder, const std::string& split, const LoaderOptions& options);
  ~Loader();
  Loader(const Loader&) = delete;
  Loader& operator=(const Loader&) = delete;

  int64_t n_samples() const;
  int64_t batches_per_epoch() const;
  /// The next batch; wraps into the next epoch. What failed in the background is thrown here.
  Batch next();
  /// Continues with this batch, counted over all epochs from 0.
  void seek(int64_t batch_index);
  int64_t position() const;  // the batch that next() will return

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace flare
