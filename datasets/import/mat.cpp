#include "datasets/import/mat.h"

#if defined(FLARE_MATIO)
#include <matio.h>

#include <cstring>
#include <memory>

#include "core/file.h"
#include "core/job.h"
#endif

namespace flare {

#if !defined(FLARE_MATIO)

bool can_read_mat() { return false; }

Tensor read_mat(const std::string& path, const std::string&, const std::vector<int64_t>&) {
  throw DataError(
      cat(path, ": this build has no libmatio; install libmatio-dev, configure and build again, or convert the file to .npy"));
}

#else

namespace {

/// libmatio reads past the end of a cut version 5 file without a word, so the lengths of its elements are followed first.
void check_complete(const std::string& path) {
  const MappedFile file(path);
  const size_t size = file.size();
  constexpr size_t kHeader = 128;
  const auto byte = [&](size_t at) { return std::to_integer<uint32_t>(file.data()[at]); };
  check<DataError>(size >= kHeader, path, ": is not a MATLAB file of version 5 or 7.3 (it has ", size, " bytes)");
  const bool little = byte(126) == 'I' && byte(127) == 'M', big = byte(126) == 'M' && byte(127) == 'I';
  const bool is_hdf5 = size >= 520 && std::memcmp(file.data() + 512, "\x89HDF\r\n\x1a\n", 8) == 0;
  check<DataError>(little || big, path, ": is not a MATLAB file of version 5 or 7.3 (no header)");
  if (is_hdf5) return;  // the HDF5 library compares the size itself
  for (size_t at = kHeader; at < size;) {
    check<DataError>(size - at >= 8, path, ": is truncated after byte ", at, "; copy it again");
    uint32_t length = 0;
    for (size_t i = 0; i < 4; ++i) length |= byte(at + 4 + i) << (little ? 8 * i : 24 - 8 * i);
    check<DataError>(size - at - 8 >= length, path, ": is truncated: the variable at byte ", at, " needs ", length, " bytes, ",
                     size - at - 8, " are left; copy it again");
    at += 8 + length;
  }
}

template <class From, class To> void gather(const matvar_t& v, const std::vector<int64_t>& stride, const Shape& shape, To* out) {
  const From* values = static_cast<const From*>(v.data);
  Shape step = shape, index = shape;  // distance in the column-major source of a step along each axis of the result
  int64_t product = 1;
  for (int a = 0; a < shape.ndim(); ++a) {
    step[a] = product * (stride.empty() ? 1 : stride[static_cast<size_t>(a)]);
    product *= static_cast<int64_t>(v.dims[a]);
    index[a] = 0;
  }
  const int64_t n = shape.numel();
  int64_t at = 0;
  for (int64_t i = 0; i < n; ++i) {
    out[i] = static_cast<To>(values[at]);
    for (int a = shape.ndim() - 1; a >= 0; --a) {
      at += step[a];
      if (++index[a] < shape[a]) break;
      at -= step[a] * shape[a];
      index[a] = 0;
    }
  }
}

}  // namespace

bool can_read_mat() { return true; }

Tensor read_mat(const std::string& path, const std::string& variable, const std::vector<int64_t>& stride) {
  check<DataError>(file_exists(path), path, ": not found");
  Job job(cat(path.substr(path.rfind('/') + 1), ": reading ", variable), 1, "arrays");
  const JobItem item(job);
  check_complete(path);
  Mat_LogInitFunc("flare", [](int, char*) {});  // what goes wrong is said below
  const std::unique_ptr<mat_t, int (*)(mat_t*)> file(Mat_Open(path.c_str(), MAT_ACC_RDONLY), Mat_Close);
  check<DataError>(file != nullptr, path, ": libmatio cannot open it; it is damaged, or not a MATLAB file of version 5 or 7.3");
  const std::unique_ptr<matvar_t, void (*)(matvar_t*)> v(Mat_VarReadInfo(file.get(), variable.c_str()), Mat_VarFree);
  if (!v) {
    size_t n = 0;
    char** names = Mat_GetDir(file.get(), &n);
    std::string known;
    for (size_t i = 0; names && i < n; ++i) known += (known.empty() ? "" : ", ") + quoted(names[i], 40);
    throw DataError(cat(path, ": has no variable ", quoted(variable), "; it has ", known.empty() ? "none" : known));
  }
  const auto where = [&] { return cat(path, ": variable ", variable); };
  check<DataError>(v->class_type != MAT_C_EMPTY, where(), " states no MATLAB class; save the file with MATLAB or scipy");
  const bool is_number = v->class_type >= MAT_C_DOUBLE && v->class_type <= MAT_C_UINT64;
  check<DataError>(is_number && !v->isComplex, where(), " is not an array of real numbers");
  check<DataError>(v->rank >= 1 && v->rank <= kMaxDims, where(), " has ", v->rank, " axes");
  check<ShapeError>(stride.empty() || static_cast<int>(stride.size()) == v->rank, where(), " has ", v->rank, " axes, ",
                    stride.size(), " strides were given");
  Shape shape;
  double elements = 1;
  for (int a = 0; a < v->rank; ++a) {
    const int64_t extent = static_cast<int64_t>(v->dims[a]), s = stride.empty() ? 1 : stride[static_cast<size_t>(a)];
    elements *= static_cast<double>(extent);
    check<DataError>(extent > 0 && elements < 0x1p40, where(), " has the extent ", extent, " along axis ", a);
    shape.push_back((extent + s - 1) / s);
  }
  check<DataError>(Mat_VarReadDataAll(file.get(), v.get()) == 0 && v->data != nullptr &&
                       v->nbytes >= static_cast<size_t>(elements) * static_cast<size_t>(v->data_size),
                   where(), " cannot be read; the file is damaged");
  const Tensor out = Tensor::empty(shape, v->class_type == MAT_C_SINGLE ? DType::f32 : DType::f64);
  switch (v->class_type) {
    case MAT_C_SINGLE: gather<float>(*v, stride, shape, out.data<float>()); break;
    case MAT_C_DOUBLE: gather<double>(*v, stride, shape, out.data<double>()); break;
    case MAT_C_INT8: gather<int8_t>(*v, stride, shape, out.data<double>()); break;
    case MAT_C_UINT8: gather<uint8_t>(*v, stride, shape, out.data<double>()); break;
    case MAT_C_INT16: gather<int16_t>(*v, stride, shape, out.data<double>()); break;
    case MAT_C_UINT16: gather<uint16_t>(*v, stride, shape, out.data<double>()); break;
    case MAT_C_INT32: gather<int32_t>(*v, stride, shape, out.data<double>()); break;
    case MAT_C_UINT32: gather<uint32_t>(*v, stride, shape, out.data<double>()); break;
    case MAT_C_INT64: gather<int64_t>(*v, stride, shape, out.data<double>()); break;
    default: gather<uint64_t>(*v, stride, shape, out.data<double>()); break;
  }
  return out;
}

#endif

}  // namespace flare
