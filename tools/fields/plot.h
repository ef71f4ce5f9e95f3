#pragma once
#include <functional>
#include <vector>

#include "tools/fields/canvas.h"
#include "tools/fields/field_sample.h"

namespace flare {

/// Where the points of a sample lie on a sheet of paper, and how their values are spread between them.
///   cells   an upright grid: each pixel takes the value of the nearest node
///   mesh    a grid of curved lines: values interpolated within triangles
///   cloud   2-D: the nearest point, where one is about as near as its neighbours are to it; 3-D: spheres of that radius, seen from
///   the
///           side and a little from above, the longest axis across and the shortest up, the nearer ones in front
/// The first coordinate runs to the right, the second up. A mesh much denser somewhere (around an airfoil) is shown there only.
class Plot {
 public:
  explicit Plot(const FieldSample& sample);
  /// Height over width of what is shown.
  double aspect() const { return (top_ - bottom_) / (right_ - left_); }
  /// Paints `values`, one a point, into the box, keeping proportions. Pixels that belong to no point stay.
  void paint(Canvas& canvas, const Rect& box, const std::vector<double>& values, const std::function<Ink(double)>& ink) const;

 private:
  enum class Kind { cells, mesh, cloud };
  struct Scale;  // between the sheet and pixels
  void lay_out_grid();
  bool find_cells();
  void show_dense_part();
  void project();
  void set_bounds();
  void set_radii(const std::vector<double>& x, const std::vector<double>& y, const std::vector<double>& z);
  void paint_cells(Canvas& canvas, const Scale& scale, const std::vector<double>& values,
                   const std::function<Ink(double)>& ink) const;
  void paint_mesh(Canvas& canvas, const Scale& scale, const std::vector<double>& values,
                  const std::function<Ink(double)>& ink) const;
  void paint_cloud(Canvas& canvas, const Scale& scale, const std::vector<double>& values,
                   const std::function<Ink(double)>& ink) const;

  Kind kind_ = Kind::cloud;
  int64_t rows_, columns_;
  std::vector<double> u_, v_, depth_;  // of each point: right, up, away (empty in 2-D)
  double left_ = 0, right_ = 1, bottom_ = 0, top_ = 1;
  std::vector<double> radius_;                                  // of a cloud's points
  bool u_follows_rows_ = true;                                  // cells
  double u_first_ = 0, u_step_ = 1, v_first_ = 0, v_step_ = 1;  // cells
};

}  // namespace flare
