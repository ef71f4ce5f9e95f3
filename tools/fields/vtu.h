#pragma once
#include <string>

#include "tools/fields/field_sample.h"

namespace flare {

/// Writes a sample as a VTK unstructured grid (.vtu: XML with the arrays appended raw, little-endian, UInt64 headers), in one step.
/// Points: the coordinates, 0 where there are fewer than three. Cells: the quads of a grid of two axes, else a vertex a point.
/// Point data, Float32: `x<c>` for each channel c of x beyond the coordinates, `prediction`, and with a truth also `truth` and
/// `error` = prediction − truth, of as many components as there are output channels.
void write_vtu(const std::string& path, const FieldSample& sample);

}  // namespace flare
