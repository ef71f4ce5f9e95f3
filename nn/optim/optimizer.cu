#include "nn/optim/optimizer.h"

#include <cmath>
#include <cstring>

#include "core/copy_many.h"
#include "core/parallel.h"
#if defined(FLARE_CUDA)
#include "core/launch.cuh"
#endif

namespace flare {
namespace {

constexpr int64_t kChunk = 2048;    // elements that one CUDA block, or one CPU task, updates
constexpr int64_t kAlign = 64;      // parameters begin at multiples of this in the flat buffers
constexpr int64_t kSegment = 4096;  // elements of the flat gradient that are summed into one partial sum

enum class Update : int32_t { adamw, lion, sgd, nesterov };

/// Up to kChunk elements of one parameter. Gradients, moments and averages lie at `flat` in their buffers.
struct Chunk {
  void* param;
  int64_t flat, count;
  double weight_decay;
};

/// What the update of one step reads; written on the device, so that a captured step replays with new values.
template <class T> struct Plan {
  T lr, beta1, one_minus_beta1;
  T clip;             // factor of the gradient
  T step_size;        // adamw: lr/(1-β1^t)
  T root_correction;  // adamw: √(1-β2^t)
  int32_t apply;      // 0: skip this step
};

template <class T> struct PrepareArgs {
  SchedulePlan schedule;
  double beta2, clip_norm;
  bool halts;     // a bad step stops every later one
  const T* loss;  // null: not guarded
  float *lr, *beta1, *grad_norm;
  int64_t *step_count, *n_updates, *bad_step;
  Plan<T>* plan;
};

FLARE_HD bool finite(double x) { return x - x == 0; }

template <class T> FLARE_HD void prepare(const PrepareArgs<T>& a, double sum_of_squares) {
  const double norm = ::sqrt(sum_of_squares);
  const bool halted = a.halts && *a.bad_step >= 0;
  const bool apply = !halted && finite(norm) && (a.loss == nullptr || finite(static_cast<double>(*a.loss)));
  const int64_t step = *a.step_count;
  const ScheduleValue now = schedule_at(a.schedule, step);
  if (apply)
    ++*a.n_updates;
  else if (*a.bad_step < 0)
    *a.bad_step = step;
  *a.step_count = step + 1;
  *a.lr = static_cast<float>(now.lr);
  *a.beta1 = static_cast<float>(now.beta1);
  *a.grad_norm = static_cast<float>(norm);

  const double t = static_cast<double>(*a.n_updates < 1 ? 1 : *a.n_updates);
  const double clip = a.clip_norm > 0 ? a.clip_norm / (norm + 1e-6) : 1;
  Plan<T> plan;
  plan.lr = static_cast<T>(now.lr);
  plan.beta1 = static_cast<T>(now.beta1);
  plan.one_minus_beta1 = static_cast<T>(1 - now.beta1);
  plan.clip = static_cast<T>(clip < 1 ? clip : 1);
  plan.step_size = static_cast<T>(now.lr / (1 - ::pow(now.beta1, t)));
  plan.root_correction = static_cast<T>(::sqrt(1 - ::pow(a.beta2, t)));
  plan.apply = apply;
  *a.plan = plan;
}

template <class T> struct UpdateArgs {
  const Chunk* chunks;
  const T* grads;
  T *first, *second, *ema;  // second: adamw only; ema: null without averages
  bf16* rounded;            // null: not kept
  const Plan<T>* plan;
  T beta2, one_minus_beta2, eps, ema_decay, one_minus_ema_decay;
};

/// One element with its gradient and state.
template <class T> struct Element { T p, g, first, second, ema; };

/// The element of value `p` at flat index i.
template <Update kUpdate, class T> FLARE_HD Element<T> load(const UpdateArgs<T>& a, T p, int64_t i) {
  return {p, a.grads[i], a.first[i], kUpdate == Update::adamw ? a.second[i] : T(0), a.ema ? a.ema[i] : T(0)};
}

template <Update kUpdate, class T> FLARE_HD void update(const UpdateArgs<T>& a, const Plan<T>& plan, T decay, Element<T>& e) {
  T g = e.g * plan.clip;
  if constexpr (kUpdate == Update::adamw) {
    e.first = plan.beta1 * e.first + plan.one_minus_beta1 * g;
    e.second = a.beta2 * e.second + a.one_minus_beta2 * g * g;
    e.p -= plan.lr * decay * e.p + plan.step_size * e.first / (std::sqrt(e.second) / plan.root_correction + a.eps);
  } else if constexpr (kUpdate == Update::lion) {
    const T c = plan.beta1 * e.first + plan.one_minus_beta1 * g;
    e.p -= plan.lr * (decay * e.p + static_cast<T>((c > 0) - (c < 0)));
    e.first = a.beta2 * e.first + a.one_minus_beta2 * g;
  } else {
    g += decay * e.p;
    e.first = plan.beta1 * e.first + g;
    e.p -= plan.lr * (kUpdate == Update::nesterov ? g + plan.beta1 * e.first : e.first);
  }
  e.ema = a.ema_decay * e.ema + a.one_minus_ema_decay * e.p;
}

template <Update kUpdate, class T> FLARE_HD void store(const UpdateArgs<T>& a, const Element<T>& e, T& p, int64_t i) {
  p = e.p;
  a.first[i] = e.first;
  if constexpr (kUpdate == Update::adamw) a.second[i] = e.second;
  if (a.ema) a.ema[i] = e.ema;
  if (a.rounded) a.rounded[i] = bf16(e.p);
}

template <class T> void partial_sums_cpu(const T* grads, int64_t n, double* sums) {
  parallel_for((n + kSegment - 1) / kSegment, 16, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) {
      double lanes[8] = {};
      const int64_t last = std::min(n, (s + 1) * kSegment);  // n is a multiple of kAlign, so whole lanes
      for (int64_t i = s * kSegment; i < last; i += 8)
        for (int l = 0; l < 8; ++l) lanes[l] += static_cast<double>(grads[i + l]) * static_cast<double>(grads[i + l]);
      double sum = 0;
      for (const double lane : lanes) sum += lane;
      sums[s] = sum;
    }
  });
}

template <Update kUpdate, class T> void update_cpu(const UpdateArgs<T>& a, int64_t n_chunks) {
  const Plan<T> plan = *a.plan;
  if (!plan.apply) return;
  parallel_for(n_chunks, 8, [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const Chunk chunk = a.chunks[c];
      T* param = static_cast<T*>(chunk.param);
      for (int64_t i = 0; i < chunk.count; ++i) {
        Element<T> e = load<kUpdate>(a, param[i], chunk.flat + i);
        update<kUpdate>(a, plan, static_cast<T>(chunk.weight_decay), e);
        store<kUpdate>(a, e, param[i], chunk.flat + i);
      }
    }
  });
}

#if defined(FLARE_CUDA)
constexpr int kThreads = 256, kPrepareThreads = 512;

/// Sum of 2^k values, one a thread, in a fixed tree; the result is valid in thread 0.
template <int kCount> __device__ double block_sum(double x) {
  __shared__ double shared[kCount];
  shared[threadIdx.x] = x;
  __syncthreads();
  for (int half = kCount / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) shared[threadIdx.x] += shared[threadIdx.x + half];
    __syncthreads();
  }
  return shared[0];
}

/// grid: one block a segment of kSegment gradients; each thread takes every kThreads-th element. Reads each gradient once.
template <class T> __global__ void partial_sums_kernel(const T* grads, int64_t n, double* sums) {
  after_previous();
  const int64_t begin = blockIdx.x * kSegment, end = begin + kSegment < n ? begin + kSegment : n;
  double sum = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads)
    sum += static_cast<double>(grads[i]) * static_cast<double>(grads[i]);
  sum = block_sum<kThreads>(sum);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// grid: one block. Adds the partial sums in a fixed order; thread 0 works out the plan of this step.
template <class T> __global__ void prepare_kernel(PrepareArgs<T> a, const double* sums, int64_t n_sums) {
  after_previous();
  double sum = 0;
  for (int64_t i = threadIdx.x; i < n_sums; i += kPrepareThreads) sum += sums[i];
  sum = block_sum<kPrepareThreads>(sum);
  if (threadIdx.x == 0) prepare(a, sum);
}

/// grid: one block a chunk; a thread takes every kThreads-th element, all its loads before the first store, which the compiler
/// cannot know to be elsewhere. adamw reads p, g, m, v and writes p, m, v: 28 bytes an element.
template <Update kUpdate, class T> __global__ void __launch_bounds__(kThreads) update_kernel(UpdateArgs<T> a) {
  after_previous();
  const Plan<T> plan = *a.plan;
  if (!plan.apply) return;
  const Chunk chunk = a.chunks[blockIdx.x];
  T* param = static_cast<T*>(chunk.param);
  constexpr int kEach = static_cast<int>(kChunk / kThreads);
  Element<T> elements[kEach];
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (const int64_t i = threadIdx.x + j * kThreads; i < chunk.count) elements[j] = load<kUpdate>(a, param[i], chunk.flat + i);
#pragma unroll
  for (int j = 0; j < kEach; ++j)
    if (const int64_t i = threadIdx.x + j * kThreads; i < chunk.count) {
      update<kUpdate>(a, plan, static_cast<T>(chunk.weight_decay), elements[j]);
      store<kUpdate>(a, elements[j], param[i], chunk.flat + i);
    }
}
#endif

template <class T> struct StepArgs {
  Device device;
  Update update;
  int64_t n_flat, n_chunks;
  double* sums;
  PrepareArgs<T> prepare;
  UpdateArgs<T> moments;
};

template <Update kUpdate, class T> void run_update(const StepArgs<T>& a) {
  if (a.device == Device::cpu) return update_cpu<kUpdate>(a.moments, a.n_chunks);
#if defined(FLARE_CUDA)
  if constexpr (std::is_same_v<T, float>)
    launch_early("optimizer update", update_kernel<kUpdate, T>, {dim3(static_cast<unsigned>(a.n_chunks)), dim3(kThreads)},
                 compute_stream(Device::cuda), a.moments);
#endif
}

template <class T> void run_step(const StepArgs<T>& a) {
  const int64_t n_sums = (a.n_flat + kSegment - 1) / kSegment;
  if (a.device == Device::cpu) {
    partial_sums_cpu(a.moments.grads, a.n_flat, a.sums);
    double sum = 0;
    for (int64_t i = 0; i < n_sums; ++i) sum += a.sums[i];
    prepare(a.prepare, sum);
  } else {
#if defined(FLARE_CUDA)
    if constexpr (std::is_same_v<T, float>) {
      const Stream& stream = compute_stream(Device::cuda);
      launch_early("gradient norm", partial_sums_kernel<T>, {dim3(static_cast<unsigned>(n_sums)), dim3(kThreads)}, stream,
                   a.moments.grads, a.n_flat, a.sums);
      launch_early("optimizer plan", prepare_kernel<T>, {dim3(1), dim3(kPrepareThreads)}, stream, a.prepare, a.sums, n_sums);
    }
#endif
  }
  switch (a.update) {
    case Update::adamw: return run_update<Update::adamw>(a);
    case Update::lion: return run_update<Update::lion>(a);
    case Update::sgd: return run_update<Update::sgd>(a);
    case Update::nesterov: return run_update<Update::nesterov>(a);
  }
}

}  // namespace

Optimizer::Optimizer(std::vector<Parameter> parameters, const OptimConfig& config, int64_t total_steps, double clip_norm,
                     double ema_decay)
    : parameters_(std::move(parameters)),
      beta2_(config.beta2),
      eps_(config.eps),
      clip_norm_(clip_norm),
      ema_decay_(ema_decay),
      nesterov_(config.nesterov) {
  check<ConfigError>(!parameters_.empty(), "optimizer: the model has no parameters");
  if (config.name == "adamw")
    rule_ = Rule::adamw;
  else if (config.name == "lion")
    rule_ = Rule::lion;
  else if (config.name == "sgd")
    rule_ = Rule::sgd;
  else
    throw ConfigError(cat("optim.name: \"", config.name, "\" is not one of adamw, lion, sgd"));
  const auto fraction = [](double x) { return x >= 0 && x < 1; };
  check<ConfigError>(std::isfinite(config.lr) && config.lr >= 0, "optim.lr: ", config.lr, " is not a rate");
  check<ConfigError>(std::isfinite(config.weight_decay) && config.weight_decay >= 0, "optim.weight_decay: ", config.weight_decay,
                     " is negative or not finite");
  check<ConfigError>(fraction(config.beta1) && fraction(config.beta2) && fraction(config.momentum), "optim: beta1 ", config.beta1,
                     ", beta2 ", config.beta2, " and momentum ", config.momentum, " must lie in [0, 1)");
  check<ConfigError>(config.eps > 0, "optim.eps: ", config.eps, " must be positive");
  check<ConfigError>(clip_norm >= 0, "train.clip_norm: ", clip_norm, " is negative");
  check<ConfigError>(fraction(ema_decay), "train.ema_decay: ", ema_decay, " is outside [0, 1)");
  schedule_ = make_schedule(config.schedule, config.lr, rule_ == Rule::sgd ? config.momentum : config.beta1, total_steps);
  check<ConfigError>(!schedule_.cycle || (fraction(schedule_.low_momentum) && fraction(schedule_.high_momentum)),
                     "optim.schedule: base_momentum and max_momentum must lie in [0, 1)");

  dtype_ = parameters_[0].value.dtype();
  device_ = parameters_[0].value.device();
  check<ConfigError>(dtype_ == DType::f32 || (dtype_ == DType::f64 && device_ == Device::cpu), "optimizer: cannot train ", dtype_,
                     " parameters on ", device_);
  int64_t n_flat = 0;
  std::vector<Chunk> chunks;
  for (const Parameter& p : parameters_) {
    check<ConfigError>(p.value.dtype() == dtype_ && p.value.device() == device_, "optimizer: parameter ", p.name, " is ",
                       p.value.dtype(), " on ", p.value.device(), ", others are ", dtype_, " on ", device_);
    check<ConfigError>(p.value.is_contiguous() && requires_grad(p.value), "optimizer: parameter ", p.name,
                       " is not a contiguous leaf");
    offsets_.push_back(n_flat);
    for (int64_t i = 0; i < p.value.numel(); i += kChunk)
      chunks.push_back({static_cast<char*>(p.value.raw()) + i * size_of(dtype_), n_flat + i, std::min(kChunk, p.value.numel() - i),
                        p.decay ? config.weight_decay : 0.0});
    n_flat += (p.value.numel() + kAlign - 1) / kAlign * kAlign;
  }
  n_chunks_ = static_cast<int64_t>(chunks.size());
  const int64_t table_bytes = n_chunks_ * static_cast<int64_t>(sizeof(Chunk));
  chunks_ = Tensor::from_bytes(chunks.data(), table_bytes, {table_bytes}, DType::u8, device_);
  grads_ = Tensor::zeros({n_flat}, dtype_, device_);
  first_ = Tensor::zeros({n_flat}, dtype_, device_);
  if (rule_ == Rule::adamw) second_ = Tensor::zeros({n_flat}, dtype_, device_);
  if (ema_decay_ > 0) ema_ = Tensor::zeros({n_flat}, dtype_, device_);
  partial_sums_ = Tensor::zeros({(n_flat + kSegment - 1) / kSegment * static_cast<int64_t>(sizeof(double))}, DType::u8, device_);
  plan_ = Tensor::zeros({static_cast<int64_t>(sizeof(Plan<double>))}, DType::u8, device_);
  lr_ = Tensor::zeros({1}, DType::f32, device_);
  beta1_ = Tensor::zeros({1}, DType::f32, device_);
  grad_norm_ = Tensor::zeros({1}, DType::f32, device_);
  clock_ = Tensor::zeros({2}, DType::i64, device_);
  step_count_ = clock_.view({1}, {1}, 1);
  n_updates_ = Tensor::zeros({1}, DType::i64, device_);
  bad_step_ = Tensor::full({1}, -1, DType::i64, device_);
  for (size_t i = 0; i < parameters_.size(); ++i) {
    grad_views_.push_back(view_of(grads_, i));
    if (ema_) copy(parameters_[i].value.detach(), view_of(ema_, i));
  }
  zero_grad();
}

Optimizer::~Optimizer() {
  for (const Parameter& p : parameters_) {
    if (p.value.tape() && p.value.tape()->grad.same_storage(grads_)) clear_grad(p.value);
    if (rounded_) attach_rounded(p.value, {});
  }
}

Tensor Optimizer::view_of(const Tensor& flat, size_t i) const {
  const Shape& shape = parameters_[i].value.shape();
  return flat.view(shape, shape.strides(), offsets_[i]);
}

void Optimizer::zero_grad() {
  for (size_t i = 0; i < parameters_.size(); ++i) {
    parameters_[i].value.tape()->grad = grad_views_[i];
    parameters_[i].value.tape()->grad_is_void = true;
  }
}

std::vector<bool> Optimizer::void_gradients() const {
  std::vector<bool> marks;
  for (const Parameter& p : parameters_) marks.push_back(p.value.tape()->grad_is_void);
  return marks;
}

void Optimizer::set_void_gradients(const std::vector<bool>& marks) {
  check(marks.size() == parameters_.size(), "optimizer: ", marks.size(), " marks for ", parameters_.size(), " gradients");
  for (size_t i = 0; i < parameters_.size(); ++i) parameters_[i].value.tape()->grad_is_void = marks[i];
}

void Optimizer::set_seed(uint64_t seed) { copy(Tensor::from<int64_t>({static_cast<int64_t>(seed)}, {1}), clock_.view({1}, {1})); }

void Optimizer::refresh_rounded() {
  if (dtype_ != DType::f32) return;
  if (!rounded_) {
    rounded_ = Tensor::zeros(grads_.shape(), DType::bf16, device_);
    for (size_t i = 0; i < parameters_.size(); ++i) rounded_views_.push_back(view_of(rounded_, i));
  }
  std::vector<CopyPair> stale;
  for (size_t i = 0; i < parameters_.size(); ++i)
    if (!has_rounded(parameters_[i].value)) stale.push_back({parameters_[i].value.detach(), rounded_views_[i]});
  if (stale.empty()) return;
  copy_many(stale);
  attach_all_rounded();
}

void Optimizer::attach_all_rounded() {
  if (rounded_)
    for (size_t i = 0; i < parameters_.size(); ++i) attach_rounded(parameters_[i].value, rounded_views_[i]);
}

void Optimizer::check_loss(const Tensor& loss) {
  check(loss.defined() && loss.numel() == 1 && loss.dtype() == dtype_ && loss.device() == device_,
        "optimizer: the loss must be one ", dtype_, " value on ", device_);
  loss_ = loss.detach();
}

void Optimizer::step() {
  for (const Parameter& p : parameters_) {
    check(p.value.tape()->grad.same_storage(grads_), "optimizer: the gradient of ", p.name,
          " left the optimizer's buffer; clear gradients with zero_grad() only");
    grad(p.value);                 // clears the gradient of a parameter that no backward pass reached
    ++p.value.storage()->version;  // a tape that saved it must not be walked any more
  }
  const auto run = [&](auto tag) {
    using T = typename decltype(tag)::type;
    StepArgs<T> a;
    a.device = device_;
    a.update = rule_ == Rule::adamw  ? Update::adamw
               : rule_ == Rule::lion ? Update::lion
               : nesterov_           ? Update::nesterov
                                     : Update::sgd;
    a.n_flat = grads_.numel();
    a.n_chunks = n_chunks_;
    a.sums = static_cast<double*>(partial_sums_.raw());
    Plan<T>* plan = static_cast<Plan<T>*>(plan_.raw());
    a.prepare = {schedule_,
                 beta2_,
                 clip_norm_,
                 halts_,
                 loss_ ? loss_.data<T>() : nullptr,
                 lr_.data<float>(),
                 beta1_.data<float>(),
                 grad_norm_.data<float>(),
                 step_count_.data<int64_t>(),
                 n_updates_.data<int64_t>(),
                 bad_step_.data<int64_t>(),
                 plan};
    a.moments = {static_cast<const Chunk*>(chunks_.raw()),
                 grads_.data<T>(),
                 first_.data<T>(),
                 second_ ? second_.data<T>() : nullptr,
                 ema_ ? ema_.data<T>() : nullptr,
                 rounded_ ? rounded_.data<bf16>() : nullptr,
                 plan,
                 static_cast<T>(beta2_),
                 static_cast<T>(1 - beta2_),
                 static_cast<T>(eps_),
                 static_cast<T>(ema_decay_),
                 static_cast<T>(1 - ema_decay_)};
    run_step(a);
  };
  if (dtype_ == DType::f64)
    run(TypeTag<double>{});
  else
    run(TypeTag<float>{});
  attach_all_rounded();  // the update wrote both
  loss_ = {};
}

std::vector<std::pair<std::string, Tensor>> Optimizer::named_views(const std::string& prefix, const Tensor& flat) const {
  std::vector<std::pair<std::string, Tensor>> views;
  if (flat)
    for (size_t i = 0; i < parameters_.size(); ++i) views.emplace_back(prefix + parameters_[i].name, view_of(flat, i));
  return views;
}

std::vector<std::pair<std::string, Tensor>> Optimizer::state() const {
  std::vector<std::pair<std::string, Tensor>> all = {
      {"step_count", step_count_}, {"n_updates", n_updates_}, {"bad_step", bad_step_}};
  for (auto& view : named_views(rule_ == Rule::adamw ? "exp_avg." : "momentum.", first_)) all.push_back(std::move(view));
  for (auto& view : named_views("exp_avg_sq.", second_)) all.push_back(std::move(view));
  return all;
}

std::vector<std::pair<std::string, Tensor>> Optimizer::ema() const { return named_views("", ema_); }

void Optimizer::swap_ema() {
  if (!ema_) return;
  const Tensor before = Tensor::empty(ema_.shape(), dtype_, device_);
  std::vector<CopyPair> aside, in, back;
  for (size_t i = 0; i < parameters_.size(); ++i) {
    const Tensor param = parameters_[i].value.detach(), average = view_of(ema_, i), kept = view_of(before, i);
    aside.push_back({param, kept});
    in.push_back({average, param});
    back.push_back({kept, average});
  }
  copy_many(aside);
  copy_many(in);
  copy_many(back);
}

}  // namespace flare
