#include <cmath>
#include <memory>

#include <fmt/format.h>

#include "ops/sdpa.h"
#include "tools/cli/bench_attention.h"
#include "tools/cli/help.h"

namespace flare {
namespace {

/// Self-attention of 16,384 tokens in all, 8 heads.
std::vector<AttentionShape> known_shapes() {
  std::vector<AttentionShape> shapes;
  for (const int64_t D : {16, 32, 64})
    for (int64_t N = 1024; N <= 16384; N *= 2) shapes.push_back({fmt::format("d{}-n{}", D, N), 16384 / N, 8, D, N, N});
  return shapes;
}

/// Least traffic: forward reads q, k, v and writes out; backward reads q, k, v, out, g and writes dq, dk, dv. One exponential per
/// pair forward and one to recompute it.
AttentionCase sdpa_case(const AttentionShape& at, DType dtype) {
  AttentionCase c;
  c.at = at;
  c.q = {at.B, at.H, at.M, at.D}, c.kv = {at.B, at.H, at.N, at.D};
  c.q_dtype = c.dtype = dtype;
  const double scale = c.scale = 1 / std::sqrt(static_cast<double>(at.D));
  c.forward = [scale](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
    return sdpa(q, k, v, mask, scale).out;
  };
  const double queries = static_cast<double>(c.q.numel()), keys = static_cast<double>(c.kv.numel());
  c.forward_elements = 2 * queries + 2 * keys, c.both_elements = 6 * queries + 6 * keys;
  c.forward_exps = static_cast<double>(at.B * at.H * at.M) * static_cast<double>(at.N), c.both_exps = 2 * c.forward_exps;
  return c;
}

}  // namespace

void add_bench_sdpa(CLI::App& bench) {
  const auto o = std::make_shared<AttentionBenchOptions>();
  CLI::App* command = bench.add_subcommand("sdpa", "Softmax attention, forward and forward + backward");
  command
      ->add_option(
          "--shapes", o->shapes,
          "comma separated names d<D>-n<N>, or five numbers B,H,D,queries,keys (default: D 16, 32, 64, N 1024 to 16384; on "
          "the CPU 2,8,16,1024,1024,2,8,64,1024,1024)")
      ->type_name("LIST");
  add_attention_options(*command, *o);
  command->footer(help_footer({"flare bench sdpa", "flare bench sdpa --shapes 2,8,64,1024,1024 --dtype f32 --device cpu"}));
  command->callback([o] {
    std::vector<AttentionShape> shapes = known_shapes();
    const bool cpu = o->device == "cpu" || (o->device == "auto" && !cuda_available());
    if (!o->shapes.empty() || cpu)
      shapes = parse_attention_shapes(o->shapes.empty() ? "2,8,16,1024,1024,2,8,64,1024,1024" : o->shapes, known_shapes());
    bench_attention("sdpa", shapes, *o, sdpa_case);
  });
}

}  // namespace flare
