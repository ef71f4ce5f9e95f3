#include <memory>

#include "ops/flare_mixer.h"
#include "ops/mixer_ladder.h"
#include "tools/cli/bench_attention.h"
#include "tools/cli/help.h"

namespace flare {
namespace {

/// The shapes that the project measures itself on, by task.
const std::vector<AttentionShape>& known_shapes() {
  static const std::vector<AttentionShape> shapes = {
      {"listops", 32, 8, 16, 128, 2000},
      {"text", 32, 8, 16, 128, 4000},
      {"image", 32, 8, 8, 256, 1024},
      {"pathfinder", 32, 8, 16, 128, 1024},
      {"elasticity", 2, 8, 8, 64, 972},
      {"darcy", 2, 8, 16, 128, 7225},
      {"drivaer40k", 1, 8, 16, 64, 40000},
      {"1m-d16-m128", 1, 8, 16, 128, int64_t{1} << 20},
      {"1m-d16-m64", 1, 8, 16, 64, int64_t{1} << 20},
      {"1m-d8-m64", 1, 8, 8, 64, int64_t{1} << 20},
      {"1m-d32-m256", 1, 8, 32, 256, int64_t{1} << 20},
      {"256k-d64-m256", 1, 8, 64, 256, int64_t{1} << 18},
  };
  return shapes;
}

/// q f32 (a parameter) beside k and v of `dtype`. Least traffic, in elements of the token tensors: forward reads k, v and again k,
/// and writes y; backward reads k, g and again k, v, g, and writes dk, dv. Exponentials: both softmaxes forward, 1 + 2 backward.
AttentionCase mixer_case(const AttentionShape& at, DType dtype, const std::string& kernel) {
  AttentionCase c;
  c.at = at;
  c.q = {at.H, at.M, at.D}, c.kv = {at.B, at.N, at.H * at.D};
  c.q_dtype = param_dtype(dtype), c.dtype = dtype;
  c.scale = 1, c.q_sigma = 0.1;  // as the latents of FLARE begin
  c.forward = [kernel](const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& mask) {
    return kernel == "auto" ? flare_mixer(q, k, v, mask, 1) : mixer_ladder(kernel, q, k, v, mask, 1);
  };
  const double tokens = static_cast<double>(c.kv.numel()),
               pairs = static_cast<double>(at.B * at.H * at.N) * static_cast<double>(at.M);
  c.forward_elements = 4 * tokens, c.both_elements = 11 * tokens;
  c.forward_exps = 2 * pairs, c.both_exps = 5 * pairs;
  return c;
}

}  // namespace

void add_bench_mixer(CLI::App& bench) {
  const auto o = std::make_shared<AttentionBenchOptions>();
  CLI::App* command = bench.add_subcommand("mixer", "The FLARE mixer, forward and forward + backward, against its floors");
  command
      ->add_option("--shapes", o->shapes,
                   "comma separated names, or five numbers B,H,D,M,N (default: all; on the CPU listops,image,elasticity)")
      ->type_name("LIST");
  command->add_option("--kernel", o->kernel, "auto (the op), or a rung of the reader's ladder, forward only")
      ->capture_default_str()
      ->type_name("auto|naive|tiled|tensor-core|split-token|final")
      ->check([](const std::string& name) {
        for (const std::string& rung : mixer_rungs())
          if (name == rung) return std::string();
        return name == "auto" ? std::string() : "must be auto, naive, tiled, tensor-core, split-token or final";
      });
  add_attention_options(*command, *o);
  command->footer(help_footer({"flare bench mixer", "flare bench mixer --shapes listops,darcy --dtype bf16 --json"}));
  command->callback([o] {
    std::vector<AttentionShape> shapes = known_shapes();
    const bool cpu = o->device == "cpu" || (o->device == "auto" && !cuda_available());
    if (!o->shapes.empty() || cpu)
      shapes = parse_attention_shapes(o->shapes.empty() ? "listops,image,elasticity" : o->shapes, known_shapes());
    bench_attention("mixer", shapes, *o, [o](const AttentionShape& at, DType dtype) { return mixer_case(at, dtype, o->kernel); });
  });
}

}  // namespace flare
