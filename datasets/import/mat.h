#pragma once
#include <string>
#include <vector>

#include "core/tensor.h"

namespace flare {

/// Whether this build has libmatio.
bool can_read_mat();

/// A variable of a MATLAB file, version 5 (compressed or not) or 7.3 (HDF5), through libmatio: real numbers of any width ->
/// f32 if stored as single, else f64; row-major, axes in MATLAB's order. `stride`, one entry an axis, keeps elements 0, s, 2s, …
/// (empty: all). DataError naming the file for anything that is not such a file or cut short, a missing variable (with those there
/// are), a variable of another kind, and in a build without libmatio.
Tensor read_mat(const std::string& path, const std::string& variable, const std::vector<int64_t>& stride = {});

}  // namespace flare
