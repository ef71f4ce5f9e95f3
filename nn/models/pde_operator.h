#pragma once
#include <memory>
#include <vector>

#include "nn/block.h"

namespace flare {

/// Operator on point clouds and meshes, parameter names and arithmetic of FLARE.py's FLAREModel: in_proj (ResidualMLP), blocks,
/// out_proj = norm and ResidualMLP.  x: [B,N,in], mask: u8 [B,N] or undefined -> [B,N,out] in the parameters' dtype. No position
/// embedding: coordinates are input channels. Rows of padding hold unspecified finite values. n_points: N of every sample, 0 where
/// they differ; only mixers with weights for each point need it, and then x must have that many (ShapeError).
class PdeOperator : public Module {
 public:
  PdeOperator(const ModelConfig& config, int64_t in_channels, int64_t out_channels, uint64_t seed, int64_t n_points = 0);
  Tensor forward(const Tensor& x, const Tensor& mask, Context& ctx);

 private:
  bool skip_mask_;
  int64_t n_points_;  // 0: any
  std::unique_ptr<ResidualMlp> in_proj_, out_mlp_;
  std::unique_ptr<Norm> out_norm_;
  std::vector<std::unique_ptr<Block>> blocks_;
};

}  // namespace flare
