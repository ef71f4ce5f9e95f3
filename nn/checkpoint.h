#pragma once
#include <map>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "nn/module.h"

namespace flare {

/// Writes parameters and buffers under their dotted names, which are those of FLARE.py's state_dict.
void save_parameters(const std::string& path, const Module& model, const std::map<std::string, std::string>& metadata = {});
/// Copies a file's tensors into parameters and buffers, converting dtype and device. DataError naming the file and the first
/// missing, unexpected or differently shaped names (and how many there are); then nothing has been changed. The names that
/// FLARE.py's PDE transformer uses for norms and output (ln1, ln2, out_proj.ln, out_proj.mlp) are understood.
void load_parameters(const std::string& path, Module& model);
void load_parameters(const std::vector<NamedTensor>& tensors, const std::string& where, Module& model);
/// Copies what a file and the model share, by name and shape; the rest of the model stays as it is, and its names are returned,
/// with the file's shape where only that differs. DataError when nothing is shared.
std::vector<std::string> load_shared_parameters(const std::vector<NamedTensor>& tensors, const std::string& where, Module& model);

}  // namespace flare
