#include "tools/train/trainer.h"

#include <cstdio>

#include <unistd.h>

#include <fmt/format.h>

#include "core/allocator.h"
#include "core/file.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/text_table.h"
#include "nn/checkpoint.h"
#include "ops/pointwise.h"
#include "tools/report/report.h"
#include "tools/train/diagnose.h"
#include "tools/train/signals.h"
#include "tools/train/summary.h"

namespace flare {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Puts the moving averages into the model for as long as it lives.
class AveragedWeights {
 public:
  explicit AveragedWeights(Optimizer& optimizer) : optimizer_(optimizer) { optimizer_.swap_ema(); }
  ~AveragedWeights() { optimizer_.swap_ema(); }
  AveragedWeights(const AveragedWeights&) = delete;
  AveragedWeights& operator=(const AveragedWeights&) = delete;

 private:
  Optimizer& optimizer_;
};

/// One sample of the training split, for the shapes of a batch.
Batch sample_of(const PreparedFolder& folder, const Masking& masking) {
  LoaderOptions loading;
  loading.masking = masking;
  loading.batch_size = 1;
  loading.prefetch = false;
  return Loader(folder, "train", loading).next();
}

}  // namespace

Trainer::Trainer(const Recipe& recipe, const PreparedFolder& folder, Device device, bool quiet, bool graph, int gpu)
    : recipe_(recipe),
      folder_(folder),
      device_(device),
      gpu_(gpu),
      dtype_(apply_precision(recipe.train.precision)),
      task_(make_task(recipe, folder)),
      progress_(task_->score_name(), quiet),
      readback_(device) {
  const TrainConfig& t = recipe_.train;
  check<DataError>(folder_.has_split("train"), folder_.path(), ": has no split train");
  check<DataError>(folder_.count("train") >= t.batch_size, folder_.path(), ": split train has ", folder_.count("train"),
                   " samples, fewer than train.batch_size ", t.batch_size);
  progress_.note("reading the data and planning memory");
  plan_ = plan_memory(make_task(recipe_, folder_), recipe_, sample_of(folder_, masking_of(recipe_, folder_)),
                      longest_sample(recipe_, folder_), usable_memory(device_, gpu_));
  task_->model().to(device_);
  optimizer_ = std::make_unique<Optimizer>(task_->parameters(), recipe_.optim, t.steps, t.clip_norm, t.ema_decay);
  LoaderOptions loading;
  loading.batch_size = t.batch_size;
  loading.shuffle = true;
  loading.seed = recipe_.seed;
  loading.drop_last = true;
  loading.pad_to = pad_length(recipe_, folder_);
  loading.pad_step = pad_step(recipe_, folder_);
  loading.pad_limit = longest_sample(recipe_, folder_);
  loading.symmetries = symmetries_named(recipe_.task.symmetries);
  loading.masking = masking_of(recipe_, folder_);
  loading.prefetch = t.prefetch;
  loader_ = std::make_unique<Loader>(folder_, "train", loading);
  train_step_ = std::make_unique<TrainStep>(*task_, *optimizer_, device_,
                                            StepOptions{t.accumulate, dtype_, recipe_.seed, graph, plan_.recompute});
  progress_.clear();
}

std::string Trainer::device_text() const {
  if (device_ != Device::cuda) return fmt::format("cpu, {} threads", thread_count());
  const CudaInfo gpu = cuda_info(gpu_);
  return fmt::format("cuda, {} (sm_{}, {})", gpu.name, gpu.sm, format_bytes(gpu.memory_bytes));
}

std::string Trainer::describe(int width) const {
  const TrainConfig& t = recipe_.train;
  std::string splits;
  for (const auto& [split, count] : folder_.info().splits)
    splits += fmt::format("{}{} {}", splits.empty() ? "" : ", ", split, count);
  Recipe recipe = recipe_;
  const FieldList list = recipe.fields();
  const auto text = [&](const char* key) {
    const Field* f = list.find(key);
    return f ? (f->is_text ? f->get().get<std::string>() : f->get().dump()) : std::string("-");
  };
  const double epochs =
      static_cast<double>(t.steps * t.accumulate) / static_cast<double>(std::max<int64_t>(loader_->batches_per_epoch(), 1));
  return format_table(
      "run",
      {
          {"folder", run_ ? run_->path() : "-"},
          {"device", device_text()},
          {"data", fmt::format("{} ({}: {})", folder_.path(), folder_.info().name, splits)},
          {"model",
           fmt::format("{}, {} blocks, {} channels, {} heads, {} latents; {} parameters", text("model.mixer"), text("model.blocks"),
                       text("model.channels"), text("model.heads"), text("model.latents"), count_elements(task_->parameters()))},
          {"precision", t.precision},
          {"execution", train_step_->captures() ? "steps captured into CUDA graphs" : "op by op"},
          {"steps", fmt::format("{} of {} x {} samples ({:.2f} epochs)", t.steps, t.batch_size, t.accumulate, epochs)},
          {"optimizer", fmt::format("{}, lr {}, weight decay {}, schedule {}, clip {}", text("optim.name"), text("optim.lr"),
                                    text("optim.weight_decay"), text("optim.schedule.name"), t.clip_norm)},
          {"memory", plan_.text()},
          {"seed", std::to_string(recipe_.seed)},
      },
      width);
}

void Trainer::train_step() {
  for (int64_t micro = 0; micro < recipe_.train.accumulate; ++micro) {
    const Clock::time_point data_start = Clock::now();
    current_ = loader_->next();
    data_seconds_ += seconds_since(data_start);
    train_step_->run(current_, micro);
    ++n_batches_;
    n_samples_ += current_.n_samples;
    n_tokens_ += current_.n_tokens;
    tokens_timed_ += current_.n_tokens;
    epoch_ = current_.epoch;
  }
  ++step_;
  ++steps_timed_;
}

void Trainer::check_numbers() {
  finish_reports(true);
  if (const auto bad = static_cast<int64_t>(optimizer_->bad_step().item()); bad >= 0) fail_not_finite(bad);
}

void Trainer::fail_not_finite(int64_t bad) {
  progress_.clear();
  const double lr = optimizer_->lr().item();
  // The optimizer has changed nothing since that step, so running its batches again shows what happened.
  std::string found;
  const int64_t accumulate_steps = recipe_.train.accumulate;
  fill(optimizer_->step_count(), static_cast<double>(bad));
  loader_->seek(bad * accumulate_steps);
  optimizer_->zero_grad();
  for (int64_t micro = 0; micro < accumulate_steps && found.empty(); ++micro) {
    const Batch batch = to_device(loader_->next(), device_);
    found =
        first_bad_tensor(task_->parameters(), [&](bool* in_backward) { train_step_->forward_backward(batch, micro, in_backward); });
  }
  throw NumericError(cat("step ", bad + 1, ": the loss or its gradient is not finite (lr ", lr, "); first bad tensor: ",
                         found.empty() ? "none in a second pass over the batch: the gradient norm overflowed" : found,
                         "; the last checkpoint stands; try a lower optim.lr or train.clip_norm"));
}

/// `now`: something that is no training step follows, so the steps' time ends here.
void Trainer::log_point(bool now) {
  readback_.queue(
      {train_step_->loss_sum(), train_step_->score_sum(), optimizer_->grad_norm(), optimizer_->lr(), optimizer_->bad_step()});
  fill(train_step_->loss_sum(), 0);
  fill(train_step_->score_sum(), 0);
  if (now) compute_stream(device_).synchronize();
  StepReport r;
  r.step = step_;
  r.steps = recipe_.train.steps;
  r.epoch = epoch_;
  const double seconds = seconds_ + seconds_since(window_start_);
  r.ms_per_step = 1e3 * seconds / static_cast<double>(std::max<int64_t>(steps_timed_, 1));
  r.data_share = seconds > 0 ? data_seconds_ / seconds : 0;
  r.tokens_per_s = seconds > 0 ? static_cast<double>(tokens_timed_) / seconds : 0;
  r.seconds_left = 1e-3 * r.ms_per_step * static_cast<double>(r.steps - r.step);
  r.peak_bytes = memory_stats(device_).peak;
  pending_.push_back({r, std::max<int64_t>(n_batches_, 1), std::max<int64_t>(n_samples_, 1)});
  n_batches_ = n_samples_ = n_tokens_ = steps_timed_ = tokens_timed_ = 0;
  seconds_ = data_seconds_ = 0;
  window_start_ = Clock::now();
}

/// Writes the reports whose figures have come from the device; with `wait` all of them.
void Trainer::finish_reports(bool wait) {
  while (!pending_.empty() && (wait || readback_.ready())) {
    auto [r, n_batches, n_samples] = pending_.front();
    pending_.pop_front();
    const std::vector<double> values = readback_.take();
    if (values[4] >= 0) fail_not_finite(static_cast<int64_t>(values[4]));
    r.loss = values[0] / static_cast<double>(n_batches);
    r.score = values[1] / static_cast<double>(n_samples);
    r.grad_norm = values[2];
    r.lr = values[3];
    run_->append_metrics({{"step", r.step},
                          {"epoch", r.epoch},
                          {"split", "train"},
                          {"loss", r.loss},
                          {task_->score_name(), r.score},
                          {"lr", r.lr},
                          {"grad_norm", r.grad_norm},
                          {"tokens_per_s", r.tokens_per_s},
                          {"ms_per_step", r.ms_per_step},
                          {"data_share", r.data_share},
                          {"peak_bytes", r.peak_bytes}});
    log_debug(format_report(r, task_->score_name()));
    progress_.report(r);
  }
}

std::optional<Json> Trainer::evaluate_split(const std::string& split, const std::string& note) {
  EvaluationOptions options = evaluation_options(recipe_, folder_, dtype_, device_);
  Clock::time_point shown = Clock::now();
  options.on_batch = [&](int64_t i, int64_t n) {
    if (seconds_since(shown) < 0.2) return;
    shown = Clock::now();
    progress_.note(fmt::format("{}: batch {}/{}", note, i, n));
  };
  return evaluate(*task_, folder_, split, options);
}

bool Trainer::validate() {
  if (!folder_.has_split("val") || folder_.count("val") == 0) {
    validated_ = true;
    return true;
  }
  std::optional<Json> result;
  {
    const AveragedWeights averaged(*optimizer_);  // nothing without ema_decay
    result = evaluate_split("val", "validating");
  }
  if (!result) return false;
  const std::string score = task_->score_name();
  const double value = (*result)[score].get<double>();
  run_->append_metrics({{"step", step_}, {"epoch", epoch_}, {"split", "val"}, {"loss", (*result)["loss"]}, {score, value}});
  validated_ = true;
  const bool is_best = best_step_ < 0 || (task_->higher_is_better() ? value > best_ : value < best_);
  progress_.clear();
  log_info("step ", step_, ": val ", score, " ", fmt::format("{:.4f}", value), ", loss ",
           fmt::format("{:.4f}", (*result)["loss"].get<double>()), is_best ? " (best so far)" : "");
  if (is_best) {
    best_ = value;
    best_step_ = step_;
    save("best");
  }
  return true;
}

bool Trainer::run_steps() {
  const TrainConfig& t = recipe_.train;
  try {
    seconds_before_ = recorded_seconds(run_->path());
    window_start_ = started_ = Clock::now();
    const int64_t first_report = (step_ / t.log_every + 1) * t.log_every;
    const auto aside = [&](const auto& body) {  // evaluation and saving do not count as step time
      compute_stream(device_).synchronize();
      seconds_ += seconds_since(window_start_);
      const bool ok = body();
      window_start_ = Clock::now();
      return ok;
    };
    const auto save_last = [&] {
      check_numbers();
      progress_.note("saving");
      save("last");
      return true;
    };
    while (true) {
      if (!validated_ && !stop_requested()) {
        const bool done = aside([&] {
          check_numbers();
          if (!validate()) return false;
          write_summary(false);
          write_report(run_->path());
          return true;
        });
        if (done && (step_ % t.checkpoint_every == 0 || step_ == t.steps)) aside(save_last);
      }
      if (stop_requested()) {
        aside(save_last);
        return false;
      }
      if (step_ == t.steps) return true;
      progress_.step(step_, t.steps, first_report);
      train_step();
      validated_ = step_ % t.eval_every != 0 && step_ != t.steps;
      const bool saves = validated_ && step_ % t.checkpoint_every == 0;
      if (step_ % t.log_every == 0 || step_ == t.steps) log_point(!validated_ || saves);
      finish_reports(false);
      if (saves) aside(save_last);
    }
  } catch (const OutOfMemory& error) { fail_out_of_memory(error); }
}

void Trainer::fail_out_of_memory(const OutOfMemory& error) {
  progress_.clear();
  train_step_->release_graphs();
  optimizer_->zero_grad();
  std::string advice = error.what();
  if (current_.n_samples > 0) {
    try {
      advice =
          cat("out of ", device_, " memory: ",
              what_would_fit(error, current_, device_, recipe_.train.batch_size, recipe_.train.accumulate, [&](const Batch& batch) {
                train_step_->forward_backward(to_device(batch, device_), 0);
                optimizer_->zero_grad();
              }));
    } catch (const std::exception&) {
      // What the allocator said is still true.
    }
  }
  throw DeviceError(cat("step ", step_ + 1, ": ", advice));
}

std::optional<Json> Trainer::test() {
  if (!folder_.has_split("test") || folder_.count("test") == 0) return std::nullopt;
  const char* name = best_step_ >= 0 ? "best" : "last";
  const std::optional<CheckpointFiles> files = run_->load_checkpoint(name);
  check<DataError>(files.has_value(), run_->file(cat("checkpoints/", name)), ": is missing");
  const bool averaged = !files->ema.empty();
  load_parameters(averaged ? files->ema : files->model, run_->file(cat("checkpoints/", name)), task_->model());
  std::optional<Json> result = evaluate_split("test", "testing");
  if (!result) return std::nullopt;
  progress_.clear();
  const int64_t at = best_step_ >= 0 ? best_step_ : step_;
  (*result)["step"] = at;
  (*result)["weights"] = cat("checkpoints/", name, averaged ? "/ema.safetensors" : "/model.safetensors");
  (*result)["chosen_by"] = best_step_ >= 0
                               ? fmt::format("step {}, chosen by {} {:.4f} on the val split", at, task_->score_name(), best_)
                               : std::string("the last step; there is no val split to choose by");
  run_->append_metrics({{"step", step_},
                        {"epoch", epoch_},
                        {"split", "test"},
                        {"loss", (*result)["loss"]},
                        {task_->score_name(), (*result)[task_->score_name()]},
                        {"weights_of_step", at}});
  write_file_atomically(run_->file("eval-test.json"), result->dump(2) + "\n");
  save_panels(*task_, folder_, *result, evaluation_options(recipe_, folder_, dtype_, device_), run_->path());
  return result;
}

TrainOutcome run_training(const TrainOptions& options) {
  const Device device = parse_device(options.device);
  const PreparedFolder folder = open_data(options.recipe);
  const size_t colon = options.device.find(':');
  const int gpu = colon == std::string::npos ? 0 : std::atoi(options.device.c_str() + colon + 1);
  Trainer trainer(options.recipe, folder, device, options.quiet, options.graph, gpu);
  const auto show = [&] {
    const int width = terminal_columns(STDERR_FILENO, 0);
    if (!options.quiet || options.dry_run) std::fputs(trainer.describe(width).c_str(), stderr);
  };
  // Before there is a folder: a wrong path leaves nothing behind.
  std::string initialised = options.resume ? "" : trainer.initialise();
  if (options.dry_run) {
    show();
    return {};
  }
  const RunFolder run =
      options.resume ? RunFolder::resume(options.run, options.recipe) : RunFolder::create(options.run, options.recipe);
  trainer.attach(run, options.recipe_name);
  set_log_file(run.file("log.txt"));
  catch_stop_signals();
  show();
  log_debug(trainer.describe());
  if (options.resume) {
    if (trainer.restore()) {
      log_info("resuming after step ", trainer.step());
    } else {
      log_info("--resume: ", run.path(), " has no checkpoint yet; starting from step 0");
      initialised = trainer.initialise();
    }
  }
  if (!initialised.empty()) log_info(initialised);
  bool finished = trainer.run_steps();
  std::optional<Json> result;
  if (finished) {
    result = trainer.test();
    finished = result || !stop_requested();
  }
  if (!finished) log_info("stopped after step ", trainer.step(), ", saved; continue with --resume --run ", run.path());
  trainer.write_summary(finished);
  write_report(run.path());
  TrainOutcome outcome{finished ? 0 : kExitInterrupted,
                       {{"run", run.path()},
                        {"seed", options.recipe.seed},
                        {"steps", options.recipe.train.steps},
                        {"finished", finished},
                        {"step", trainer.step()},
                        {"report", run.file("report.html")}}};
  if (result) outcome.summary["test"] = std::move(*result);
  return outcome;
}

int train(const TrainOptions& options) {
  const TrainOutcome outcome = run_training(options);
  const Json& summary = outcome.summary;
  if (options.json && !options.dry_run) std::printf("%s\n", summary.dump().c_str());
  if (options.json || summary.empty() || !summary["finished"].get<bool>()) return outcome.exit_code;
  if (summary.contains("test")) {
    std::fputs(format_evaluation(summary["test"]).c_str(), stdout);
    std::printf("       weights of %s\n", summary["test"]["chosen_by"].get<std::string>().c_str());
  }
  std::printf("       report %s\n", summary["report"].get<std::string>().c_str());
  return outcome.exit_code;
}

}  // namespace flare
