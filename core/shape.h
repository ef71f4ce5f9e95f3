#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <initializer_list>
#include <limits>
#include <ostream>
#include <span>

#include "core/check.h"

namespace flare {

inline constexpr int kMaxDims = 6;

/// Up to six extents (or strides, in elements), row-major, held inline. Negative indices count from the end.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims) {
    for (int64_t d : dims) push_back(d);
  }
  explicit Shape(std::span<const int64_t> dims) {
    for (int64_t d : dims) push_back(d);
  }

  int ndim() const { return n_; }
  bool empty() const { return n_ == 0; }
  int64_t operator[](int i) const { return dims_[axis(i)]; }
  int64_t& operator[](int i) { return dims_[axis(i)]; }
  const int64_t* begin() const { return dims_.data(); }
  const int64_t* end() const { return dims_.data() + n_; }

  void push_back(int64_t d) {
    check(n_ < kMaxDims, "shape: more than ", kMaxDims, " dimensions");
    dims_[n_++] = d;
  }
  /// Index of axis i, negative counted from the end; ShapeError when outside.
  int axis(int i) const {
    const int j = i < 0 ? i + n_ : i;
    check(j >= 0 && j < n_, "shape: axis ", i, " is outside ", *this);
    return j;
  }
  /// Product of the extents; ShapeError on a negative extent or overflow. 1 for a scalar.
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t d : *this) {
      check(d >= 0, "shape: negative extent in ", *this);
      check(d == 0 || n <= std::numeric_limits<int64_t>::max() / d, "shape: the size of ", *this, " overflows");
      n *= d;
    }
    return n;
  }
  /// Row-major contiguous strides, in elements.
  Shape strides() const {
    Shape s = *this;
    int64_t step = 1;
    for (int i = n_ - 1; i >= 0; --i) {
      s.dims_[i] = step;
      step *= dims_[i];
    }
    return s;
  }
  Shape without(int i) const {
    const int drop = axis(i);
    Shape s;
    for (int j = 0; j < n_; ++j)
      if (j != drop) s.push_back(dims_[j]);
    return s;
  }

  friend bool operator==(const Shape& a, const Shape& b) { return std::equal(a.begin(), a.end(), b.begin(), b.end()); }
  friend std::ostream& operator<<(std::ostream& out, const Shape& s) {
    out << '[';
    for (int i = 0; i < s.n_; ++i) out << (i ? "," : "") << s.dims_[i];
    return out << ']';
  }

 private:
  std::array<int64_t, kMaxDims> dims_{};
  int n_ = 0;
};

/// The common shape of a and b under the NumPy rule (trailing axes aligned, 1 stretches); ShapeError naming `who` otherwise.
inline Shape broadcast_shape(const Shape& a, const Shape& b, const char* who) {
  const int n = std::max(a.ndim(), b.ndim());
  Shape out;
  for (int i = 0; i < n; ++i) {
    const int ia = i - (n - a.ndim()), ib = i - (n - b.ndim());
    const int64_t da = ia >= 0 ? a[ia] : 1, db = ib >= 0 ? b[ib] : 1;
    check(da == db || da == 1 || db == 1, who, ": shapes ", a, " and ", b, " do not broadcast (axis ", i, ": ", da, " against ", db,
          ")");
    out.push_back(da == 1 ? db : da);
  }
  return out;
}

}  // namespace flare
