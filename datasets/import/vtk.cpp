#include "datasets/import/vtk.h"

#include <algorithm>
#include <bit>
#include <charconv>
#include <string_view>
#include <type_traits>

#include "core/file.h"

namespace flare {
namespace {

class VtkReader {
 public:
  explicit VtkReader(const std::string& path)
      : path_(path), file_(path), text_(reinterpret_cast<const char*>(file_.data()), file_.size()) {}

  VtkMesh read() {
    check<DataError>(line().starts_with("# vtk DataFile Version"), path_,
                     ": is not a legacy VTK file (it does not begin with # vtk)");
    line();  // title
    const std::string_view format = word();
    check<DataError>(format == "ASCII" || format == "BINARY", path_, ": expected ASCII or BINARY, found ", quoted(format, 20));
    is_binary_ = format == "BINARY";
    VtkMesh mesh;
    std::vector<bool> used;
    bool has_cells = false;
    while (true) {
      const std::string_view key = word();
      if (key.empty() || key == "POINT_DATA" || key == "CELL_DATA") break;
      if (key == "POINTS") {
        const int64_t n = count();
        const std::string_view type = word();
        check<DataError>(type == "float" || type == "double", path_, ": POINTS of type ", quoted(type, 20), " are not supported");
        mesh.points = Tensor::empty({n, 3}, DType::f32);
        begin_data();
        for (int64_t i = 0; i < 3 * n; ++i)
          mesh.points.data<float>()[i] = static_cast<float>(type == "float" ? number<float>() : number<double>());
        used.assign(static_cast<size_t>(n), false);
      } else if (key == "CELLS" || key == "POLYGONS" || key == "LINES" || key == "VERTICES") {
        cells(used);
        has_cells = true;
      } else if (key == "CELL_TYPES") {
        const int64_t n = count();
        begin_data();
        for (int64_t i = 0; i < n; ++i) number<int32_t>();
      } else if (key != "DATASET" && key != "UNSTRUCTURED_GRID" && key != "POLYDATA") {
        throw DataError(cat(path_, ": the section ", quoted(key, 30), " is not supported; expected POINTS and CELLS or POLYGONS"));
      }
    }
    check<DataError>(mesh.points.defined() && mesh.points.size(0) > 0, path_, ": has no POINTS");
    for (size_t i = 0; i < used.size(); ++i)
      if (used[i] || !has_cells) mesh.used.push_back(static_cast<int64_t>(i));
    return mesh;
  }

 private:
  static bool is_space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }
  std::string_view line() {
    const size_t end = std::min(text_.find('\n', at_), text_.size());
    const std::string_view out = text_.substr(at_, end - at_);
    at_ = std::min(end + 1, text_.size());
    return out;
  }
  std::string_view word() {
    while (at_ < text_.size() && is_space(text_[at_])) ++at_;
    const size_t begin = at_;
    while (at_ < text_.size() && !is_space(text_[at_])) ++at_;
    return text_.substr(begin, at_ - begin);
  }
  [[noreturn]] void fail_truncated() const { throw DataError(cat(path_, ": is truncated after byte ", at_, "; copy it again")); }
  int64_t count() {
    int64_t n = -1;
    const std::string_view w = word();
    if (w.empty()) fail_truncated();
    std::from_chars(w.data(), w.data() + w.size(), n);
    // An element takes a byte at least, so no honest count exceeds the size of the file.
    check<DataError>(n >= 0 && n <= static_cast<int64_t>(text_.size()), path_, ": ", quoted(w, 20), " is no count (at byte ", at_,
                     ")");
    return n;
  }
  /// Binary data begin right after the end of the line.
  void begin_data() {
    if (is_binary_) line();
  }
  template <class T> T number() {
    if (is_binary_) {  // big-endian
      if (text_.size() - at_ < sizeof(T)) fail_truncated();
      std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t> bits = 0;
      for (size_t i = 0; i < sizeof(T); ++i) bits = bits << 8 | static_cast<unsigned char>(text_[at_ + i]);
      at_ += sizeof(T);
      return std::bit_cast<T>(bits);
    }
    const std::string_view w = word();
    if (w.empty()) fail_truncated();
    T value{};
    const auto [end, error] = std::from_chars(w.data(), w.data() + w.size(), value);
    check<DataError>(error == std::errc{} && end == w.data() + w.size(), path_, ": ", quoted(w, 20), " is no number (at byte ", at_,
                     ")");
    return value;
  }
  void use(int64_t point, std::vector<bool>& used) const {
    check<DataError>(point >= 0 && point < static_cast<int64_t>(used.size()), path_, ": a cell uses point ", point, " of ",
                     used.size());
    used[static_cast<size_t>(point)] = true;
  }
  void cells(std::vector<bool>& used) {
    const int64_t a = count(), b = count();
    const size_t before = at_;
    if (word() == "OFFSETS") {  // version 5.1: a offsets, then b connectivities, each with its type
      const auto integers = [&](int64_t n, bool are_points) {
        const std::string_view type = word();
        begin_data();
        for (int64_t i = 0; i < n; ++i) {
          const int64_t value = type == "vtktypeint64" ? number<int64_t>() : number<int32_t>();
          if (are_points) use(value, used);
        }
      };
      integers(a, false);
      check<DataError>(word() == "CONNECTIVITY", path_, ": expected CONNECTIVITY (at byte ", at_, ")");
      integers(b, true);
      return;
    }
    at_ = before;  // version 4: b integers, each of the a cells preceded by its number of points
    begin_data();
    int64_t left = b;
    for (int64_t c = 0; c < a; ++c) {
      const int64_t n = number<int32_t>();
      check<DataError>(n >= 0 && n < left, path_, ": cell ", c, " has ", n, " points, more than its section holds");
      for (int64_t i = 0; i < n; ++i) use(number<int32_t>(), used);
      left -= n + 1;
    }
  }

  std::string path_;
  MappedFile file_;
  std::string_view text_;
  size_t at_ = 0;
  bool is_binary_ = false;
};

}  // namespace

VtkMesh read_vtk(const std::string& path) {
  check<DataError>(file_exists(path), path, ": not found");
  return VtkReader(path).read();
}

}  // namespace flare
