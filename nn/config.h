#pragma once
/// Configuration of models and optimizers. Each struct lists its fields once, in describe(); reading, checking of keys, help
/// and the record in a run folder are visitors over that list.
#include <cstdint>
#include <string>

namespace flare {

/// Behaviours of FLARE.py as shipped that differ from what it says; all off by default. They reproduce its published numbers.
struct CompatConfig {
  bool flare_py = false;         // turns on all of the following
  bool no_mask = false;          // padding takes part in attention and pooling
  bool rope_as_shipped = false;  // a map that mixes interleaved frequencies with concatenated halves: not a rotation
  bool decay_latents = false;    // latent queries and seeds receive weight decay

  bool skips_mask() const { return flare_py || no_mask; }
  bool ships_rope() const { return flare_py || rope_as_shipped; }
  bool decays_latents() const { return flare_py || decay_latents; }
  template <class F> void describe(F& f) {
    f("flare_py", flare_py, "behave like FLARE.py as shipped: all of the switches below");
    f("no_mask", no_mask, "let padding take part in attention and pooling");
    f("rope_as_shipped", rope_as_shipped, "FLARE.py's rotary embedding, which is not a rotation");
    f("decay_latents", decay_latents, "apply weight decay to the latent queries");
  }
};

/// A network: token mixer, widths, depths. Defaults are FLARE.py's.
struct ModelConfig {
  std::string mixer = "flare";
  int64_t blocks = 4, channels = 128, heads = 8, latents = 128;
  int64_t kv_layers = 3, ffn_layers = 3;
  double kv_ratio = 1.0, ffn_ratio = 1.0;
  std::string ffn = "residual";
  std::string activation = "gelu";
  double scale = 0;
  bool qk_norm = false;
  bool qkv_bias = true;
  std::string norm = "layer";
  double init_gain = 0, embedding_std = 0.02;
  std::string position = "learned";
  std::string pool = "mean";
  std::string head = "linear";
  int64_t io_layers = 2;
  double dropout = 0, attention_dropout = 0, embedding_dropout = 0, head_dropout = 0;
  CompatConfig compat;  // a section of its own in a recipe, beside `model`

  template <class F> void describe(F& f) {
    f("mixer", mixer, "token mixer: flare, flare++, softmax, linear, linformer, performer");
    f("blocks", blocks, "number of blocks");
    f("channels", channels, "width C of the token features");
    f("heads", heads, "attention heads H; must divide channels");
    f("latents", latents, "latent tokens M of flare and flare++; rows of linformer's projections; random features of performer");
    f("kv_layers", kv_layers, "inner layers of flare's key and value MLPs; -1: one linear layer");
    f("kv_ratio", kv_ratio, "hidden width of those MLPs over channels");
    f("ffn_layers", ffn_layers, "inner layers of the block's residual MLP; -1: one linear layer");
    f("ffn_ratio", ffn_ratio, "hidden width of the block's MLP over channels");
    f("ffn", ffn, "the block's MLP: residual (ResidualMLP) or plain (linear, activation, linear)");
    f("activation", activation, "activation of the MLPs: gelu (tanh form), gelu_erf, silu");
    f("scale", scale, "factor of the attention logits; 0: flare 1, others 1/sqrt(channels/heads); linear has no logits");
    f("qk_norm", qk_norm, "normalise queries and keys per head");
    f("qkv_bias", qkv_bias, "bias of the joint projection of queries, keys and values (all mixers but flare, flare++)");
    f("norm", norm, "normalisation: layer or rms");
    f("init_gain", init_gain, "weights of linear layers start as N(0, gain²/inputs); 0: N(0, 0.02²), FLARE.py's");
    f("embedding_std", embedding_std, "standard deviation of token and position embeddings at the start");
    f("position", position, "position embedding of sequences: learned, sinusoidal, grid (of square pictures), rope, none");
    f("pool", pool, "how a sequence becomes one vector: mean, max, cls");
    f("head", head, "classifier: linear, or mlp (linear, GELU, linear)");
    f("io_layers", io_layers, "inner layers of a PDE operator's input and output MLPs");
    f("dropout", dropout, "dropout probability after the mixer's projection");
    f("attention_dropout", attention_dropout, "dropout probability of the attention weights; linear and performer form none");
    f("embedding_dropout", embedding_dropout, "dropout probability of the token embeddings");
    f("head_dropout", head_dropout, "dropout probability before the classifier");
  }
};

/// The learning rate (and beta1) as a function of the step.
struct ScheduleConfig {
  std::string name = "onecycle";
  double warmup = 0.1;
  double div_factor = 1e4, final_div_factor = 1e4;
  double min_ratio = 0;
  bool cycle_momentum = true;
  double base_momentum = 0.85, max_momentum = 0.95;

  template <class F> void describe(F& f) {
    f("name", name, "constant, warmup, cosine, onecycle");
    f("warmup", warmup, "fraction of the steps during which the rate rises");
    f("div_factor", div_factor, "onecycle: peak rate over first rate");
    f("final_div_factor", final_div_factor, "onecycle: first rate over last rate");
    f("min_ratio", min_ratio, "cosine: last rate over peak rate");
    f("cycle_momentum", cycle_momentum, "onecycle: move beta1 (sgd: momentum) against the rate, in place of its own value");
    f("base_momentum", base_momentum, "onecycle: beta1 at the peak rate");
    f("max_momentum", max_momentum, "onecycle: beta1 at both ends");
  }
};

struct OptimConfig {
  std::string name = "adamw";
  double lr = 1e-3;
  double weight_decay = 1e-5;
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  double momentum = 0.9;
  bool nesterov = false;
  ScheduleConfig schedule;

  template <class F> void describe(F& f) {
    f("name", name, "adamw, lion, sgd");
    f("lr", lr, "peak learning rate");
    f("weight_decay", weight_decay, "weight decay of the matrices; adamw and lion: decoupled, sgd: added to the gradient");
    f("beta1", beta1, "adamw, lion: decay of the first moment");
    f("beta2", beta2, "adamw: decay of the second moment; lion: of the momentum");
    f("eps", eps, "adamw: added to the root of the second moment");
    f("momentum", momentum, "sgd: decay of the velocity");
    f("nesterov", nesterov, "sgd: look ahead along the velocity");
    f("schedule", schedule, "learning rate over the steps");
  }
};

}  // namespace flare
