/// What a checkpoint of a run holds, and continuing from it: weights, optimizer state, the position in the data, sums not yet
/// logged.
#include <fmt/format.h>

#include "core/file.h"
#include "core/log.h"
#include "nn/checkpoint.h"
#include "tools/train/trainer.h"

namespace flare {
namespace {

Tensor one_integer(int64_t value) { return Tensor::from<int64_t>({value}, {1}); }

std::vector<NamedTensor> named(const std::vector<std::pair<std::string, Tensor>>& pairs, const std::string& prefix = "") {
  std::vector<NamedTensor> out;
  for (const auto& [name, value] : pairs) out.push_back({prefix + name, value});
  return out;
}

}  // namespace

std::vector<NamedTensor> Trainer::averages() {
  std::vector<NamedTensor> all = named(optimizer_->ema());
  for (const NamedTensor& buffer : task_->model().buffers()) all.push_back(buffer);
  return all;
}

void Trainer::save(const std::string& name) {
  CheckpointFiles files;
  files.model = task_->model().state();
  if (averages_weights()) files.ema = averages();
  files.trainer = named(optimizer_->state(), "optimizer.");
  const auto add = [&](const char* key, const Tensor& value) { files.trainer.push_back({std::string("trainer.") + key, value}); };
  add("step", one_integer(step_));
  add("position", one_integer(loader_->position()));
  add("epoch", one_integer(epoch_));
  add("validated", one_integer(validated_));
  add("best", Tensor::from<double>({best_}, {1}));
  add("best_step", one_integer(best_step_));
  add("loss_sum", train_step_->loss_sum());
  add("score_sum", train_step_->score_sum());
  add("counts", Tensor::from<int64_t>({n_batches_, n_samples_, n_tokens_}, {3}));
  files.metadata = {{"format", "pt"},
                    {"flare_version", recipe_.version},
                    {"step", std::to_string(step_)},
                    {"seed", std::to_string(recipe_.seed)},
                    {"config_sha256", recipe_hash(recipe_)},
                    {"device", cat(device_)}};
  if (best_step_ >= 0)
    files.metadata["best"] = fmt::format("step {}, chosen by {} {:.6g} on the val split", best_step_, task_->score_name(), best_);
  files.metadata.merge(task_->metadata());
  run_->save_checkpoint(name, files);
}

std::string Trainer::initialise() {
  std::string from = recipe_.train.init;
  if (from.empty()) return "";
  // The name of several seeds' runs stands for the one of this run's seed, so that a chain of recipes works under --seeds too.
  if (const std::string own = seed_folder(from, recipe_.seed); !is_run_folder(from) && is_run_folder(own)) from = own;
  const bool is_run = is_run_folder(from);
  check<DataError>(is_run || file_exists(from), "train.init: ", from,
                   ": is neither a run folder nor a .safetensors file; train that run first, or "
                   "begin without it: --set train.init=");
  const std::string path = is_run ? weights_of_run(from) : from;
  const std::vector<std::string> kept = load_shared_parameters(read_safetensors(path).tensors, path, task_->model());
  const NoGrad no_grad;
  const auto averages = optimizer_->ema();  // made with the optimizer, of the weights before
  for (size_t i = 0; i < averages.size(); ++i) copy(optimizer_->parameters()[i].value, averages[i].second);
  return fmt::format("train.init: {} tensors from {}; left as initialised: {}", task_->model().state().size() - kept.size(), path,
                     kept.empty() ? "none" : fmt::format("{}", fmt::join(kept, ", ")));
}

bool Trainer::restore() {
  const std::optional<CheckpointFiles> files = run_->load_checkpoint("last");
  if (!files) {
    run_->truncate_metrics(-1, false);
    return false;
  }
  const std::string where = run_->file("checkpoints/last");
  check<DataError>(!files->trainer.empty(), where, "/trainer.safetensors: missing or empty; this checkpoint cannot be continued");
  const auto hash = files->metadata.find("config_sha256");
  check<ConfigError>(hash == files->metadata.end() || hash->second == recipe_hash(recipe_), where,
                     ": was written under another configuration than the folder's config.json; choose another folder with --run");
  const auto device = files->metadata.find("device");
  if (device != files->metadata.end() && device->second != cat(device_))
    log_warning("the checkpoint was made on ", device->second,
                ": from here on the numbers differ in the last bits from a run on one device");
  load_parameters(files->model, where + "/model.safetensors", task_->model());
  task_->adopt(files->metadata);
  if (averages_weights()) load_values(averages(), files->ema, where + "/ema.safetensors");
  // Everything is read into host variables through the same checks as the weights.
  Tensor step = one_integer(0), position = one_integer(0), epoch = one_integer(0), validated = one_integer(0),
         best_step = one_integer(0);
  Tensor best = Tensor::zeros({1}, DType::f64), counts = Tensor::zeros({3}, DType::i64);
  std::vector<NamedTensor> targets = named(optimizer_->state(), "optimizer.");
  for (const auto& [key, value] : std::initializer_list<std::pair<const char*, Tensor>>{{"step", step},
                                                                                        {"position", position},
                                                                                        {"epoch", epoch},
                                                                                        {"validated", validated},
                                                                                        {"best", best},
                                                                                        {"best_step", best_step},
                                                                                        {"loss_sum", train_step_->loss_sum()},
                                                                                        {"score_sum", train_step_->score_sum()},
                                                                                        {"counts", counts}})
    targets.push_back({std::string("trainer.") + key, value});
  load_values(targets, files->trainer, where + "/trainer.safetensors");
  step_ = step.data<int64_t>()[0];
  epoch_ = epoch.data<int64_t>()[0];
  validated_ = validated.data<int64_t>()[0] != 0;
  best_ = best.data<double>()[0];
  best_step_ = best_step.data<int64_t>()[0];
  n_batches_ = counts.data<int64_t>()[0];
  n_samples_ = counts.data<int64_t>()[1];
  n_tokens_ = counts.data<int64_t>()[2];
  check<DataError>(step_ >= 0 && step_ <= recipe_.train.steps && position.data<int64_t>()[0] >= 0, where,
                   "/trainer.safetensors: step ", step_, " of ", recipe_.train.steps, " makes no sense");
  loader_->seek(position.data<int64_t>()[0]);
  run_->truncate_metrics(step_, validated_);
  return true;
}

}  // namespace flare
