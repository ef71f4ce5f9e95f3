#include "tools/fields/vtu.h"

#include <bit>
#include <cstring>
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

/// The XML of arrays, and the bytes that their offsets point into.
struct Appended {
  std::string bytes;
  template <class T> std::string array(const std::string& name, const std::vector<T>& values, int64_t components = 1) {
    const std::string xml = cat("<DataArray type=\"", kTypeName<T>, "\" Name=\"", name, "\" NumberOfComponents=\"", components,
                                "\" format=\"appended\" offset=\"", bytes.size(), "\"/>\n");
    const uint64_t size = values.size() * sizeof(T);
    bytes.append(reinterpret_cast<const char*>(&size), sizeof(size));
    bytes.append(reinterpret_cast<const char*>(values.data()), size);
    return xml;
  }
};

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

  Appended data;
  std::string xml =
      cat("<?xml version=\"1.0\"?>\n<VTKFile type=\"UnstructuredGrid\" version=\"1.0\" byte_order=\"LittleEndian\" "
          "header_type=\"UInt64\">\n<UnstructuredGrid>\n<Piece NumberOfPoints=\"",
          s.points, "\" NumberOfCells=\"", cells, "\">\n<PointData>\n");
  for (int64_t c = s.coordinates; c < width; ++c) {
    std::vector<float> channel;
    for (int64_t p = 0; p < s.points; ++p) channel.push_back(s.x.data<float>()[p * width + c]);
    xml += data.array(cat("x", c), channel);
  }
  const std::vector<float> prediction = all_of(s.prediction);
  xml += data.array("prediction", prediction, s.channels());
  if (s.truth) {
    const std::vector<float> truth = all_of(s.truth);
    std::vector<float> error;
    for (size_t i = 0; i < truth.size(); ++i) error.push_back(prediction[i] - truth[i]);
    xml += data.array("truth", truth, s.channels());
    xml += data.array("error", error, s.channels());
  }
  xml += "</PointData>\n<Points>\n" + data.array("points", points, 3) + "</Points>\n<Cells>\n";
  xml += data.array("connectivity", connectivity);
  xml += data.array("offsets", offsets);
  xml += data.array("types", std::vector<uint8_t>(static_cast<size_t>(cells), s.is_grid() ? kQuad : kVertex));
  xml += "</Cells>\n</Piece>\n</UnstructuredGrid>\n<AppendedData encoding=\"raw\">\n_";
  AtomicFile file(path);
  file.write(xml);
  file.write(data.bytes);
  file.write("\n</AppendedData>\n</VTKFile>\n");
  file.commit();
}

}  // namespace flare
