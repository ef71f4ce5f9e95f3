#include "tools/train/step.h"

#include <algorithm>

#include "core/allocator.h"
#include "core/copy_many.h"
#include "core/log.h"
#include "ops/pointwise.h"

namespace flare {
namespace {

/// Dropout sites of micro-batch m start at m * 2^32, so that every micro-batch of a step draws other numbers.
constexpr int kSiteBits = 32;
/// Graphs kept for each micro-batch of a step, up to a limit of them all. Batches are padded to few lengths (datasets/loader.h), so
/// this many are not reached unless a recipe turns that off.
constexpr size_t kRecordedEach = 32, kMaxRecorded = 256;

constexpr Tensor Batch::*kFields[] = {&Batch::tokens, &Batch::mask, &Batch::tokens_b, &Batch::mask_b,
                                      &Batch::labels, &Batch::x,    &Batch::y,        &Batch::masked};

}  // namespace

TrainStep::TrainStep(Task& task, Optimizer& optimizer, Device device, const StepOptions& options)
    : task_(task),
      optimizer_(optimizer),
      device_(device),
      options_(options),
      captures_(options.graph && device == Device::cuda),
      loss_sum_(Tensor::zeros({}, DType::f32, device)),
      score_sum_(Tensor::zeros({}, DType::f32, device)),
      memory_(std::make_shared<GraphMemory>()) {
  optimizer_.set_seed(options_.seed);
  optimizer_.halt_at_bad_step();
  if (device_ == Device::cuda) upload_ = std::make_unique<Upload>();
}

TrainStep::Forward TrainStep::forward_backward(const Batch& batch, int64_t micro, bool* in_backward) {
  Context context;
  context.training = true;
  context.dtype = options_.dtype;
  context.rng = optimizer_.clock();
  context.recompute = options_.recompute;
  context.next_site = static_cast<uint64_t>(micro) << kSiteBits;
  const Tensor output = task_.forward(batch, context);
  const Tensor loss = task_.loss(output, batch);
  if (in_backward) *in_backward = true;
  backward(options_.accumulate > 1 ? affine(loss, 1.0 / static_cast<double>(options_.accumulate), 0.0) : loss);
  return {output.detach(), loss.detach()};
}

void TrainStep::work(const Batch& batch, int64_t micro) {
  const Forward result = forward_backward(batch, micro);
  const NoGrad no_grad;
  const CopyPair sums[] = {{cast_to(result.loss, DType::f32).viewed_as({}), loss_sum_},
                           {cast_to(task_.score_sum(result.output, batch), DType::f32).viewed_as({}), score_sum_}};
  accumulate_many(sums);
  if (micro + 1 < options_.accumulate) return;
  // The sum over the batches is not finite as soon as one of them is not.
  optimizer_.check_loss(loss_sum_);
  optimizer_.step();
  optimizer_.zero_grad();
}

void TrainStep::run(const Batch& batch, int64_t micro) {
  if (options_.dtype == DType::bf16 && micro == 0) optimizer_.refresh_rounded();
  if (device_ == Device::cpu) return work(batch, micro);
  Recorded& recorded = find(batch, micro);
  std::vector<Tensor> host;
  for (const auto field : kFields)
    if (batch.*field) host.push_back(contiguous(batch.*field));
  upload_->send(host);
  upload_->receive(recorded.block);
  const bool is_new = recorded.batch.n_samples == 0;
  recorded.batch.n_samples = batch.n_samples;
  recorded.batch.n_tokens = batch.n_tokens;
  recorded.batch.epoch = batch.epoch;
  if (!captures_ || is_new || (!recorded.graph && !capture(recorded, micro))) return work_plainly(recorded.batch, micro);
  recorded.graph.replay();
  optimizer_.set_void_gradients(recorded.void_gradients);
}

void TrainStep::work_plainly(const Batch& batch, int64_t micro) {
  const std::vector<bool> before = optimizer_.void_gradients();
  try {
    work(batch, micro);
  } catch (const OutOfMemory&) {
    // Graphs keep memory to themselves. Without them it may be enough; nothing was changed yet if no gradient was delivered.
    if (n_graphs() == 0 || optimizer_.void_gradients() != before) throw;
    release_graphs();
    release_cached(device_);
    work(batch, micro);
  }
}

TrainStep::Recorded& TrainStep::find(const Batch& batch, int64_t micro) {
  std::string key = cat(micro, " ", batch.n_samples);
  for (const auto field : kFields) {
    const Tensor& t = batch.*field;
    key += t ? cat(" ", t.dtype(), t.shape()) : std::string(" -");
  }
  for (auto at = recorded_.begin(); at != recorded_.end(); ++at) {
    if (at->key != key) continue;
    recorded_.splice(recorded_.begin(), recorded_, at);
    return recorded_.front();
  }
  if (recorded_.size() >= std::min(kMaxRecorded, kRecordedEach * static_cast<size_t>(options_.accumulate))) recorded_.pop_back();
  recorded_.emplace_front();
  Recorded& recorded = recorded_.front();
  recorded.key = key;
  std::vector<Tensor> host;
  for (const auto field : kFields)
    if (batch.*field) host.push_back(batch.*field);
  const std::vector<int64_t> offsets = Upload::layout(host);
  recorded.block = Tensor::empty({offsets.back()}, DType::u8, device_);
  size_t i = 0;
  for (const auto field : kFields)
    if (const Tensor& t = batch.*field) recorded.batch.*field = recorded.block.reinterpreted(t.shape(), t.dtype(), offsets[i++]);
  return recorded;
}

bool TrainStep::capture(Recorded& recorded, int64_t micro) {
  const std::vector<bool> before = optimizer_.void_gradients();
  for (const bool again : {false, true}) {
    try {
      recorded.graph.capture([&] { work(recorded.batch, micro); }, memory_);
      recorded.void_gradients = optimizer_.void_gradients();
      optimizer_.set_void_gradients(before);
      return true;
    } catch (const OutOfMemory& error) {
      // Blocks of other shapes lie in the cache, and a capture cannot give them back.
      optimizer_.set_void_gradients(before);
      release_cached(device_);
      if (again) log_warning("graph: ", error.what(), "; from here on steps run without graphs, more slowly");
    } catch (const DeviceError& error) {
      optimizer_.set_void_gradients(before);
      log_warning("graph: a step could not be recorded (", error.what(), "); from here on steps run without graphs, more slowly");
      break;
    }
  }
  captures_ = false;
  release_graphs();
  return false;
}

void TrainStep::release_graphs() {
  for (Recorded& recorded : recorded_) recorded.graph.reset();
  memory_ = std::make_shared<GraphMemory>();
}

int64_t TrainStep::n_graphs() const {
  int64_t n = 0;
  for (const Recorded& recorded : recorded_) n += bool(recorded.graph);
  return n;
}

int64_t TrainStep::n_nodes() const { return recorded_.empty() ? 0 : recorded_.front().graph.n_nodes(); }

std::vector<LaunchProfile::Entry> TrainStep::profile(const Batch& batch) {
  check<ConfigError>(options_.accumulate == 1, "profile: takes one batch a step");
  const Batch on_device = to_device(batch, device_);
  LaunchProfile profile;
  Graph graph;
  graph.capture(
      [&] {
        profile.start();
        work(on_device, 0);
        profile.stop();
      },
      memory_);
  graph.replay();
  return profile.read();
}

}  // namespace flare
