#pragma once
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/prepared.h"

namespace flare {

// What the ListOps generator and importer share: the same folder, whatever its origin.

/// dataset.json without source and licence.
DatasetInfo listops_info(int64_t max_length);
/// Adds fields tokens and labels of one split; an expression is a string of token ids.
void add_listops_split(PreparedWriter& writer, const std::string& split, std::span<const std::string_view> expressions,
                       const std::vector<int32_t>& labels);

}  // namespace flare
