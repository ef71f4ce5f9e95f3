#include "tools/train/task.h"

#include <map>

#include "core/file.h"
#include "core/gemm.h"
#include "datasets/registry.h"

namespace flare {
namespace {

std::map<std::string, TaskFactory>& factories() {
  static std::map<std::string, TaskFactory> all;  // filled while other files initialise
  return all;
}

}  // namespace

bool register_task(const std::string& kind, TaskFactory factory) { return factories().emplace(kind, std::move(factory)).second; }

std::unique_ptr<Task> make_task(const Recipe& recipe, const PreparedFolder& folder) {
  const bool restores = recipe.task.objective == "reconstruct";
  const auto found = factories().find(folder.info().kind + (restores ? kReconstruct : ""));
  check<ConfigError>(!restores || found != factories().end(), "task.objective: reconstruct needs single sequences of tokens; ",
                     folder.path(), " is data of kind ", quoted(folder.info().kind));
  if (found == factories().end()) {
    std::string known;
    for (const auto& [kind, factory] : factories())
      if (!kind.ends_with(kReconstruct)) known += (known.empty() ? "" : ", ") + kind;
    throw ConfigError(cat(folder.path(), ": data of kind ", quoted(folder.info().kind), " has no task; known kinds: ", known));
  }
  return found->second(recipe, folder);
}

PreparedFolder open_data(const Recipe& recipe) {
  const std::string& dir = recipe.task.data;
  if (!is_prepared_folder(dir)) {
    std::string command = recipe.task.generate.empty() ? "" : "generate " + recipe.task.generate;
    for (const DatasetEntry& entry : registered_datasets())
      if (command.empty() && entry.name == recipe.task.name)
        command = entry.generate ? "generate " + entry.name : "prepare " + entry.name + " --source DIR";
    check<DataError>(!command.empty(), dir, ": no prepared data set there (task.data); flare data list says what can be made");
    throw DataError(cat(dir, ": no prepared data set there; make it with: flare data ", command, " --out ", dir));
  }
  return PreparedFolder(dir);
}

DType apply_precision(const std::string& precision) {
  set_tf32(precision == "tf32");
  return precision == "bf16" ? DType::bf16 : DType::f32;
}

Batch to_device(const Batch& batch, Device device) {
  Batch out = batch;
  for (Tensor* t : {&out.tokens, &out.mask, &out.tokens_b, &out.mask_b, &out.labels, &out.x, &out.y, &out.masked})
    if (*t) *t = to_device(*t, device);
  return out;
}

Batch slice_batch(const Batch& batch, int64_t start, int64_t n) {
  check(start >= 0 && n >= 0 && start + n <= batch.n_samples, "slice_batch: samples [", start, ",", start + n, ") of ",
        batch.n_samples);
  Batch out = batch;
  out.n_samples = n;
  out.n_tokens = batch.n_samples ? batch.n_tokens * n / batch.n_samples : 0;
  for (Tensor* t : {&out.tokens, &out.mask, &out.tokens_b, &out.mask_b, &out.labels, &out.x, &out.y, &out.masked}) {
    if (!*t) continue;
    const Tensor whole = contiguous(*t);
    Shape shape = whole.shape();
    shape[0] = n;
    *t = clone(whole.view(shape, whole.strides(), start * whole.strides()[0]));
  }
  if (out.masked && start > 0) {  // rows of tokens that now begin later
    const Tensor rows = to_device(out.masked, Device::cpu);
    for (int64_t i = 0; i < rows.numel(); ++i) rows.data<int64_t>()[i] -= start * out.tokens.size(1);
    out.masked = to_device(rows, out.masked.device());
  }
  return out;
}

void load_values(const std::vector<NamedTensor>& targets, const std::vector<NamedTensor>& source, const std::string& where) {
  std::map<std::string, const Tensor*> by_name;
  for (const NamedTensor& t : source) by_name[t.name] = &t.value;
  // Everything is checked before anything is written.
  for (const NamedTensor& target : targets) {
    const auto found = by_name.find(target.name);
    check<DataError>(found != by_name.end(), where, ": has no tensor ", target.name, " ", target.value.shape(),
                     "; it belongs to another model");
    check<DataError>(found->second->shape() == target.value.shape(), where, ": ", target.name, " is ", found->second->shape(),
                     ", the model's is ", target.value.shape());
    check<DataError>(is_float(found->second->dtype()) == is_float(target.value.dtype()), where, ": ", target.name, " is ",
                     found->second->dtype(), ", the model's is ", target.value.dtype());
    by_name.erase(found);
  }
  check<DataError>(by_name.empty(), where, ": has a tensor ", by_name.empty() ? std::string() : quoted(by_name.begin()->first),
                   " that the model lacks");
  for (const NamedTensor& t : source) by_name[t.name] = &t.value;
  const NoGrad no_grad;
  for (const NamedTensor& target : targets) copy(*by_name.at(target.name), target.value);
}

int64_t count_elements(const std::vector<Parameter>& parameters) {
  int64_t n = 0;
  for (const Parameter& p : parameters) n += p.value.numel();
  return n;
}

}  // namespace flare
