#pragma once
#include <cstdint>

#include "datasets/prepared.h"

namespace flare {

// What the Pathfinder generator and importer share: the same folder, whatever its origin.

/// dataset.json without source and licence.
DatasetInfo pathfinder_info(int64_t size);

}  // namespace flare
