#pragma once
#include <array>
#include <string>
#include <vector>

#include "tools/fields/canvas.h"
#include "tools/fields/field_sample.h"

namespace flare {

struct Panels {
  Canvas canvas;
  std::vector<std::array<Rect, 3>> rows;  // where field, prediction and error of each row stand
  std::vector<int64_t> channels;          // which output channel each row shows
};

/// A picture 1200 pixels wide under a title: field, prediction and error = prediction − field, a row for each output channel, or
/// for four spread evenly over more. Field and prediction share one scale, from the least to the greatest value of both; that of
/// the error is symmetric about 0. Each panel's own range stands above it. Values that are not finite are grey. Needs the truth.
Panels draw_panels(const FieldSample& sample, const std::string& title);

}  // namespace flare
