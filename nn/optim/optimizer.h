#pragma once
#include <string>
#include <utility>
#include <vector>

#include "nn/config.h"
#include "nn/module.h"
#include "nn/optim/schedule.h"

namespace flare {

/// AdamW, Lion or SGD over all parameters of a model, in three launches a step and without the host: gradient norm, one small
/// kernel that works out rate, moments' corrections and clipping, and the update of every parameter with its average.
///   clip   g *= min(1, clip_norm / (‖g‖ + 1e-6))          norm over all gradients; clip_norm 0: no clipping
///   adamw  p -= lr·λ·p;  m = β1 m + (1-β1) g;  v = β2 v + (1-β2) g²;  p -= lr/(1-β1^t) · m / (√v/√(1-β2^t) + ε)
///   lion   p -= lr·λ·p;  p -= lr·sign(β1 m + (1-β1) g);  m = β2 m + (1-β2) g
///   sgd    g += λ·p;  m = μ m + g;  p -= lr·m              (nesterov: lr·(g + μ m))
///   ema    e = d·e + (1-d)·p                               after the update; ema_decay 0: none
/// λ is weight_decay for parameters marked `decay`, else 0. Sources: arXiv 1711.05101 (as torch.optim.AdamW); arXiv 2302.06675.
/// The gradients live in one buffer that belongs to the optimizer: backward() adds into it; zero_grad() declares it void, so that
/// the next gradients replace what is there. All state is on the parameters' device, the norm is summed in a fixed order. When the
/// loss (check_loss) or the norm is not finite the update is skipped: parameters, moments and averages stay, the step counts, and
/// bad_step() remembers the first such step. Build it after Module::to(). ConfigError on unknown names, numbers out of range, or
/// parameters of mixed dtype or device.
class Optimizer {
 public:
  Optimizer(std::vector<Parameter> parameters, const OptimConfig& config, int64_t total_steps, double clip_norm = 0,
            double ema_decay = 0);
  ~Optimizer();  // the parameters keep their values and lose their gradients
  Optimizer(const Optimizer&) = delete;
  Optimizer& operator=(const Optimizer&) = delete;

  void step();
  void zero_grad();
  /// The scalar whose finiteness guards the next step(); kept until then.
  void check_loss(const Tensor& loss);
  /// From the first bad step on, skip every later one as well: the weights stay those that met it.
  void halt_at_bad_step() { halts_ = true; }
  /// Keeps bf16 copies of the parameters, for cast_to() to hand out: step() writes both, and each call brings up to date what
  /// something else has written since. Call it before a step that computes in bf16; it does nothing for f64.
  void refresh_rounded();

  Tensor lr() const { return lr_; }                  // f32 [1]: of the last step
  Tensor beta1() const { return beta1_; }            // f32 [1]: of the last step (sgd: momentum)
  Tensor grad_norm() const { return grad_norm_; }    // f32 [1]: of the last step, before clipping
  Tensor step_count() const { return step_count_; }  // i64 [1]: calls of step(), skipped ones included
  Tensor clock() const { return clock_; }            // i64 [2] = {set_seed's, step_count}, for Context::rng; step() moves it on
  void set_seed(uint64_t seed);
  Tensor bad_step() const { return bad_step_; }  // i64 [1]: index (first: 0) of the first skipped step, -1: none

  /// Everything a resumed run needs besides parameters and averages, as live handles by name: copy() into them to restore.
  std::vector<std::pair<std::string, Tensor>> state() const;
  /// The averages by parameter name, live; empty without ema_decay.
  std::vector<std::pair<std::string, Tensor>> ema() const;
  /// Exchanges parameters and averages, for evaluation; call it again to go back. Nothing without ema_decay.
  void swap_ema();
  const std::vector<Parameter>& parameters() const { return parameters_; }
  int64_t gradient_bytes() const { return grads_.bytes(); }

  /// Which gradients are void. Replaying a captured step runs none of the code that keeps the marks: set those that held after it.
  std::vector<bool> void_gradients() const;
  void set_void_gradients(const std::vector<bool>& marks);

 private:
  enum class Rule : int32_t { adamw, lion, sgd };
  Tensor view_of(const Tensor& flat, size_t parameter) const;
  void attach_all_rounded();
  std::vector<std::pair<std::string, Tensor>> named_views(const std::string& prefix, const Tensor& flat) const;

  std::vector<Parameter> parameters_;
  std::vector<int64_t> offsets_;  // of each parameter in the flat buffers
  Rule rule_ = Rule::adamw;
  SchedulePlan schedule_;
  double beta2_ = 0, eps_ = 0, clip_norm_ = 0, ema_decay_ = 0;
  bool nesterov_ = false, halts_ = false;
  DType dtype_ = DType::f32;
  Device device_ = Device::cpu;
  int64_t n_chunks_ = 0;
  Tensor chunks_;                                   // u8: table of Chunk
  Tensor grads_, first_, second_, ema_;             // flat
  Tensor rounded_;                                  // bf16, flat; undefined: not kept
  std::vector<Tensor> grad_views_, rounded_views_;  // one a parameter
  Tensor partial_sums_, plan_;                      // raw memory of the kernels (see optimizer.cu)
  Tensor lr_, beta1_, grad_norm_, clock_, step_count_, n_updates_, bad_step_;
  Tensor loss_;
};

}  // namespace flare
