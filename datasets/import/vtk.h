#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace flare {

/// Points and which of them belong to a cell. Points that no cell uses are left over from some meshing and carry no field.
struct VtkMesh {
  Tensor points;              // f32 [n,3]
  std::vector<int64_t> used;  // indices of the points that cells use, ascending
};

/// Reads a legacy VTK file (ASCII or binary, UNSTRUCTURED_GRID or POLYDATA, cells in the form of version 4 or 5.1). Source: VTK
/// User's Guide, "VTK File Formats". DataError naming the file for anything else, and where it is cut short.
VtkMesh read_vtk(const std::string& path);

}  // namespace flare
