#pragma once
#include <span>

#include "core/tensor.h"

namespace flare {

struct CopyPair {
  Tensor src, dst;
};

/// dst = src for every pair, as copy() does, in one launch for about a hundred pairs: a model has hundreds of small parameters, and
/// each launch costs as much as moving a megabyte. Packed f32 sources with packed f32 or bf16 destinations on the GPU are batched;
/// other pairs are copied one by one. No two destinations may overlap.
void copy_many(std::span<const CopyPair> pairs);
/// dst += src for every pair, likewise; packed f32 on the GPU is batched.
void accumulate_many(std::span<const CopyPair> pairs);

}  // namespace flare
