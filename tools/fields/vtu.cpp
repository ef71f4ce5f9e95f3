#include "tools/fields/vtu.h"

#include <array>
#include <bit>
#include <cstring>
#include <utility>
#include <vector>

#include "core/file.h"

namespace flare {
namespace {

static_assert(std::endian::native == std::endian::little, "arrays are written as they lie in memory");

constexpr uint8_t kVertex = 1, kQuad = 9;  // VTK's numbers of cell types

template <class T> constexpr const char* kTypeName = nullptr;
template <> constexpr const char* kTypeName<float> = "Float32";
template <> constexpr const char* kTypeName<int64_t> = "Int64";
template <> constexpr const char* kTypeName<uint8_t> = "UInt8";

struct Array {
  std::string xml;    // its element, up to the offset
  std::string bytes;  // length and values
};
template <class T> Array array_of(const std::string& name, const std::vector<T>& values, int64_t components = 1) {
  const uint64_t size = values.size() * sizeof(T);
  Array a{cat("<DataArray type=\"", kTypeName<T>, "\" Name=\"", name, "\" NumberOfComponents=\"", components,
              "\" format=\"appended\" offset=\""),
          std::string(sizeof(size) + size, '\0')};
  std::memcpy(a.bytes.data(), &size, sizeof(size));
  std::memcpy(a.bytes.data() + sizeof(size), values.data(), size);
  return a;
}

std::vector<float> all_of(const Tensor& values) { return {values.data<float>(), values.data<float>() + values.numel()}; }

}  // namespace

void write_vtu(const std::string& path, const FieldSample& s) {
  const int64_t width = s.x.size(1);
  std::vector<float> points;
  for (int64_t p = 0; p < s.points; ++p)
    for (int64_t c = 0; c < 3; ++c) points.push_back(static_cast<float>(s.position(p, c)));
  std::vector<int64_t> connectivity, offsets;
  const int64_t corners = s.is_grid() ? 4 : 1;
  if (s.is_grid()) {
    for (int64_t i = 0; i + 1 < s.rows; ++i)
      for (int64_t j = 0; j + 1 < s.columns; ++j) {
        const int64_t p = i * s.columns + j;
        for (const int64_t corner : {p, p + s.columns, p + s.columns + 1, p + 1}) connectivity.push_back(corner);
      }
  } else {
    for (int64_t p = 0; p < s.points; ++p) connectivity.push_back(p);
  }
  const int64_t cells = static_cast<int64_t>(connectivity.size()) / corners;
  for (int64_t c = 1; c <= cells; ++c) offsets.push_back(c * corners);

  std::vector<Array> point_data;
  for (int64_t c = s.coordinates; c < width; ++c) {
    std::vector<float> channel;
    for (int64_t p = 0; p < s.points; ++p) channel.push_back(s.x.data<float>()[p * width + c]);
    point_data.push_back(array_of(cat("x", c), channel));
  }
  const std::vector<float> prediction = all_of(s.prediction);
  point_data.push_back(array_of("prediction", prediction, s.channels()));
  if (s.truth) {
    const std::vector<float> truth = all_of(s.truth);
    std::vector<float> error;
    for (size_t i = 0; i < truth.size(); ++i) error.push_back(prediction[i] - truth[i]);
    point_data.push_back(array_of("truth", truth, s.channels()));
    point_data.push_back(array_of("error", error, s.channels()));
  }
  const std::vector<Array> geometry = {array_of("points", points, 3)};
  const std::vector<Array> topology = {
      array_of("connectivity", connectivity), array_of("offsets", offsets),
      array_of("types", std::vector<uint8_t>(static_cast<size_t>(cells), s.is_grid() ? kQuad : kVertex))};

  // The data lie in the reverse order of the elements: meshio 5.3 rewrites offsets one by one while it looks arrays up by theirs,
  // and takes the first that fits.
  std::string xml, data;
  const std::array<std::pair<const char*, const std::vector<Array>*>, 3> sections = {
      {{"Cells", &topology}, {"Points", &geometry}, {"PointData", &point_data}}};
  for (const auto& [tag, arrays] : sections) {
    std::string section;
    for (auto a = arrays->rbegin(); a != arrays->rend(); ++a) {
      section = cat(a->xml, data.size(), "\"/>\n", section);
      data += a->bytes;
    }
    xml = cat("<", tag, ">\n", section, "</", tag, ">\n", xml);
  }
  AtomicFile file(path);
  file.write(cat(
      "<?xml version=\"1.0\"?>\n<VTKFile type=\"UnstructuredGrid\" version=\"1.0\" byte_order=\"LittleEndian\" "
      "header_type=\"UInt64\">\n<UnstructuredGrid>\n<Piece NumberOfPoints=\"",
      s.points, "\" NumberOfCells=\"", cells, "\">\n", xml, "</Piece>\n</UnstructuredGrid>\n<AppendedData encoding=\"raw\">\n_"));
  file.write(data);
  file.write("\n</AppendedData>\n</VTKFile>\n");
  file.commit();
}

}  // namespace flare
