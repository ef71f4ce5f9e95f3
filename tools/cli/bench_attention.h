#pragma once
#include <functional>
#include <string>
#include <vector>

#include "tools/cli/bench.h"

namespace flare {

/// The options that `flare bench mixer` and `flare bench sdpa` share. What is measured, and how, is said in docs/kernels.md;
/// tools/bench/peer_torch.py does the same with PyTorch.
struct AttentionBenchOptions {
  std::string shapes, dtypes = "f32,tf32,bf16", kernel = "auto", device = "auto", graph = "auto";
  int repeats = 20, threads = 0;
  double mask = 0, score_range = 0;
  bool forward_only = false, json = false;
};
void add_attention_options(CLI::App& command, AttentionBenchOptions& o);

/// M queries against N keys; for the mixer M latents and N tokens.
struct AttentionShape {
  std::string name;
  int64_t B = 1, H = 1, D = 1, M = 1, N = 1;
};
/// Comma separated names out of `known`, and runs of five numbers B,H,D,M,N. ConfigError on anything else.
std::vector<AttentionShape> parse_attention_shapes(const std::string& text, const std::vector<AttentionShape>& known);

/// One attention to measure. Bytes are counted in elements of the tensors' dtype.
struct AttentionCase {
  AttentionShape at;
  Shape q, kv;
  DType q_dtype, dtype;
  double scale = 1, q_sigma = 1;  // of the scores; of q unless --score-range sets it
  std::function<Tensor(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask)> forward;
  double forward_elements = 0, both_elements = 0;  // least traffic
  double forward_exps = 0, both_exps = 0;
};
/// Builds the case of one shape and dtype.
using AttentionCaseMaker = std::function<AttentionCase(const AttentionShape&, DType)>;

/// Measures all shapes in all dtypes and prints a table, or with --json one object a line. A case without room, or whose shape the
/// chosen kernel does not take, is reported as such and the next one runs.
void bench_attention(const std::string& bench, const std::vector<AttentionShape>& shapes, const AttentionBenchOptions& o,
                     const AttentionCaseMaker& make);

}  // namespace flare
