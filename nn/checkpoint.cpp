#include "nn/checkpoint.h"

#include <algorithm>
#include <unordered_map>

namespace flare {
namespace {

void replace_piece(std::string& name, const std::string& from, const std::string& to) {
  const size_t at = name.find(from);
  if (at != std::string::npos) name.replace(at, from.size(), to);
}

/// The name a tensor of FLARE.py's PDE transformer has here.
std::string own_name(std::string name) {
  replace_piece(name, ".ln1.", ".norm1.");
  replace_piece(name, ".ln2.", ".norm2.");
  if (name.starts_with("out_proj.")) {
    replace_piece(name, "out_proj.ln.", "out_proj.0.");
    replace_piece(name, "out_proj.mlp.", "out_proj.1.");
  }
  return name;
}

/// "a, b, c and 4 more"
std::string first_few(const std::vector<std::string>& names) {
  std::string text;
  const size_t shown = std::min<size_t>(names.size(), 3);
  for (size_t i = 0; i < shown; ++i) text += (i ? ", " : "") + names[i];
  return names.size() > shown ? cat(text, " and ", names.size() - shown, " more") : text;
}

}  // namespace

void save_parameters(const std::string& path, const Module& model, const std::map<std::string, std::string>& metadata) {
  write_safetensors(path, model.state(), metadata);
}

void load_parameters(const std::string& path, Module& model) { load_parameters(read_safetensors(path).tensors, path, model); }

void load_parameters(const std::vector<NamedTensor>& tensors, const std::string& where, Module& model) {
  std::unordered_map<std::string, const Tensor*> given;
  for (const NamedTensor& t : tensors) given.emplace(own_name(t.name), &t.value);
  const std::vector<NamedTensor> own = model.state();
  std::vector<std::string> missing, unexpected, misshapen;
  for (const NamedTensor& t : own) {
    const auto found = given.find(t.name);
    if (found == given.end())
      missing.push_back(t.name);
    else if (found->second->shape() != t.value.shape())
      misshapen.push_back(cat(t.name, " is ", found->second->shape(), " in the file and ", t.value.shape(), " in the model"));
    else if (!is_float(found->second->dtype()))
      misshapen.push_back(cat(t.name, " holds ", found->second->dtype()));
  }
  if (given.size() + missing.size() > own.size()) {
    std::unordered_map<std::string, bool> known;
    for (const NamedTensor& t : own) known[t.name] = true;
    for (const NamedTensor& t : tensors)
      if (!known.contains(own_name(t.name))) unexpected.push_back(t.name);
  }
  std::string problem;
  const auto say = [&problem](const char* what, const std::vector<std::string>& names) {
    if (!names.empty()) problem += cat(problem.empty() ? "" : "; ", what, " ", first_few(names));
  };
  say("missing:", missing);
  say("unexpected:", unexpected);
  say("wrong shape:", misshapen);
  check<DataError>(problem.empty(), where, ": the weights do not fit this model: ", problem);
  for (const NamedTensor& t : own) copy(*given.at(t.name), t.value);
}

std::vector<std::string> load_shared_parameters(const std::vector<NamedTensor>& tensors, const std::string& where, Module& model) {
  std::unordered_map<std::string, const Tensor*> given;
  for (const NamedTensor& t : tensors) given.emplace(own_name(t.name), &t.value);
  const std::vector<NamedTensor> own = model.state();
  std::vector<std::string> kept;
  for (const NamedTensor& t : own) {
    const auto found = given.find(t.name);
    if (found == given.end() || !is_float(found->second->dtype()))
      kept.push_back(t.name);
    else if (found->second->shape() != t.value.shape())
      kept.push_back(cat(t.name, " ", t.value.shape(), " (", found->second->shape(), " in the file)"));
    else
      copy(*found->second, t.value);
  }
  check<DataError>(kept.size() < own.size(), where, ": has none of this model's weights, such as ", first_few(kept));
  return kept;
}

}  // namespace flare
