#pragma once
#include "nn/context.h"
#include "nn/module.h"

namespace flare {

/// y = weight[tokens].  tokens: i64 [...] -> [..., C] of ctx.dtype;  weight [V, C] ~ N(0, 0.02²), without weight decay.
/// next: the vector [C] of token V, or undefined.
class Embedding : public Module {
 public:
  Embedding(int64_t vocab, int64_t channels, Rng& rng);
  Tensor forward(const Tensor& tokens, const Context& ctx, const Tensor& next = {}) const;
  const Tensor& weight() const { return weight_; }

 private:
  Tensor weight_;
};

/// token_emb: an embedding followed by dropout.
class TokenEmbedding : public Module {
 public:
  TokenEmbedding(int64_t vocab, int64_t channels, double dropout, Rng& rng);
  Tensor forward(const Tensor& tokens, Context& ctx, const Tensor& next = {}) const;

 private:
  Embedding token_embed_;
  double dropout_;
};

/// pos_emb: a vector per position.  forward(n): [n, C] of ctx.dtype on the parameters' device; ShapeError when n exceeds
/// max_length. learned: weight `pe.weight` [max_length, C]. sinusoidal: pos_scale · (sin, cos interleaved), where the scalar
/// `pos_scale` is learned from C^-1/2. Source: Vaswani et al., arXiv 1706.03762, section 3.5. grid: the same of a square picture,
/// whose row has the first half of the channels and whose column the second, with periods from 4 pixels to twice the side; its
/// root mean square starts as that of the learned ones does.
class PositionEmbedding : public Module {
 public:
  PositionEmbedding(const std::string& kind, int64_t max_length, int64_t channels, Rng& rng);
  Tensor forward(int64_t n, const Context& ctx);

 private:
  class Table : public Module {
   public:
    Tensor weight;
    void make_learned(int64_t max_length, int64_t channels, Rng& rng) {
      add_parameter("weight", weight, normal_tensor({max_length, channels}, 0.02, rng), false);
    }
  };
  bool learned_;
  int64_t max_length_;
  Table pe_;          // learned
  Tensor pos_scale_;  // sinusoidal, grid: []
  Tensor waves_;      // sinusoidal, grid: [max_length, C], constant, follows the parameters' device and dtype
};

}  // namespace flare
