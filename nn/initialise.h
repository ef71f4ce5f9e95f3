#pragma once
#include "nn/config.h"
#include "nn/module.h"

namespace flare {

/// Brings a freshly made model from FLARE.py's start, every matrix and embedding N(0, 0.02²), to the one that is asked for:
///   init_gain g > 0   weights [out,in] of linear layers ~ N(0, g²/in)
///   embedding_std s   token and position embeddings ~ N(0, s²); those of position "grid" start with s as their root mean square
/// The numbers drawn are the same, scaled. A width of 2,500 is where 0.02 is 1/√in; narrower layers start much weaker with it.
void initialise(Module& model, const ModelConfig& config);

}  // namespace flare
