#pragma once
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/file.h"
#include "core/tensor.h"

namespace flare {

// NumPy's array files. Format: numpy.lib.format, versions 1.0, 2.0 and 3.0. Every failure is a DataError naming the path.

/// What the header of a .npy file says, checked against the size of the file.
struct NpyHeader {
  std::string descr;  // as written, e.g. "<f4"
  char kind = 'f';    // f, i, u or b
  int item_size = 4;  // bytes of one stored element
  bool big_endian = false;
  bool fortran_order = false;
  Shape shape;
  DType dtype = DType::f32;  // in memory: f2 is widened to f32, b1 becomes u8
  int64_t data_offset = 0;
};
/// Parses and checks the bytes of a whole file; `name` stands in the messages. Refuses object and structured arrays, dtypes other
/// than f2 f4 f8 i4 i8 u1 b1, more than kMaxDims axes, and data that is not exactly as long as the shape says.
NpyHeader parse_npy_header(std::span<const std::byte> file, const std::string& name);
/// The array as a row-major CPU tensor, from either byte order and either memory order.
Tensor parse_npy(std::span<const std::byte> file, const std::string& name);
Tensor read_npy(const std::string& path);
/// Writes version 1.0 with the data on a 64-byte boundary, in one step. bf16 is written as f32; CUDA tensors are fetched.
void write_npy(const std::string& path, const Tensor& x);

/// A row-major little-endian .npy file used in place, without a copy. DataError for other layouts: read_npy takes those.
class MappedNpy {
 public:
  MappedNpy() = default;
  explicit MappedNpy(const std::string& path);
  const Shape& shape() const { return header_.shape; }
  int64_t size(int axis) const { return header_.shape[axis]; }
  int64_t numel() const { return header_.shape.numel(); }
  DType dtype() const { return header_.dtype; }
  const NpyHeader& header() const { return header_; }
  const void* raw() const { return file_.data() + header_.data_offset; }
  /// Address of element 0; DataError unless T is the dtype.
  template <class T> const T* data() const {
    check<DataError>(dtype_of<T> == dtype(), path_, ": holds ", dtype(), ", not ", dtype_of<T>);
    return static_cast<const T*>(raw());
  }

 private:
  std::string path_;
  MappedFile file_;
  NpyHeader header_;
};

/// Writes an array [rows, row_shape...] whose number of rows is known only at the end. Nothing appears at `path` before commit().
class NpyWriter {
 public:
  /// An empty row_shape makes a 1-D array. dtype may not be bf16, which .npy lacks.
  NpyWriter(const std::string& path, DType dtype, const Shape& row_shape = {});
  /// Appends n_rows * row_shape.numel() elements.
  void append(const void* rows, int64_t n_rows);
  template <class T> void append(std::span<const T> values) {
    check<DataError>(dtype_of<T> == dtype_, path_, ": rows of ", dtype_of<T>, " appended to an array of ", dtype_);
    check<DataError>(row_numel_ > 0 && static_cast<int64_t>(values.size()) % row_numel_ == 0, path_, ": ", values.size(),
                     " values are not whole rows of ", row_numel_);
    append(values.data(), static_cast<int64_t>(values.size()) / row_numel_);
  }
  int64_t rows() const { return rows_; }
  void commit();

 private:
  std::string path_;
  DType dtype_;
  Shape row_shape_;
  int64_t row_numel_, rows_ = 0;
  size_t header_size_;
  AtomicFile file_;
};

}  // namespace flare
