#pragma once
#include <memory>
#include <vector>

#include "nn/block.h"
#include "nn/embedding.h"

namespace flare {

/// What the models over LRA sequences share, so that weights carry over from one to another by name: token_emb (or input_proj),
/// pos_emb, blocks.i, final_norm; with pool "cls" also cls_token, and no final_norm.
class LraEncoder : public Module {
 protected:
  /// vocab 0: numbers of input_width a position in place of tokens. ConfigError on unknown names or sizes below 1.
  LraEncoder(const ModelConfig& config, int64_t vocab, int64_t max_length, int64_t input_width, uint64_t seed);
  /// tokens i64 [B,N] or numbers [B,N,W], mask u8 [B,N] or undefined -> features [B,N,C] of ctx.dtype, with pool "cls" [B,N+1,C],
  /// the class token first. mask_token: the embedding [C] of token `vocab`, or undefined.
  Tensor encode(const Tensor& input, const Tensor& mask, Context& ctx, const Tensor& mask_token = {});
  /// The mask that counts: none with compat.no_mask.
  Tensor counted(const Tensor& mask) const { return config_.compat.skips_mask() ? Tensor{} : mask; }

  ModelConfig config_;
  Rng rng_;  // draws the weights; a derived model goes on with it

 private:
  Tensor embed(const Tensor& input, Context& ctx, const Tensor& mask_token) const;

  Tensor cls_token_;                            // [C], pool "cls" only
  std::unique_ptr<TokenEmbedding> token_emb_;   // of tokens
  std::unique_ptr<Linear> input_proj_;          // of numbers
  std::unique_ptr<PositionEmbedding> pos_emb_;  // learned, sinusoidal, grid
  std::vector<std::unique_ptr<Block>> blocks_;
  std::unique_ptr<Norm> final_norm_;  // mean and max only
};

}  // namespace flare
