/// VTU files, read back byte by byte and, where it is installed, by VTK's own reader; `flare predict` from arrays and from splits.
#include <cstring>
#include <map>
#include <regex>

#include "core/npy.h"
#include "core/rng.h"
#include "datasets/pde/field_set.h"
#include "tests/dataset_fixtures.h"
#include "tests/field_fixtures.h"
#include "tests/train_fixtures.h"
#include "tools/fields/vtu.h"

namespace {

struct VtuArray {
  std::string type;
  int64_t components = 0;
  std::string bytes;
  template <class T> std::vector<T> as() const {
    std::vector<T> out(bytes.size() / sizeof(T));
    std::memcpy(out.data(), bytes.data(), bytes.size());
    return out;
  }
};
struct Vtu {
  int64_t points = 0, cells = 0;
  std::map<std::string, VtuArray> arrays;
  std::vector<std::string> point_data;
};

/// Reads the XML up to the appended data, then each array by its offset; the arrays must fill the data without gaps.
Vtu read_vtu(const std::string& path) {
  const std::string text = read_file(path), mark = "<AppendedData encoding=\"raw\">\n_", end = "\n</AppendedData>\n</VTKFile>\n";
  const size_t at = text.find(mark);
  REQUIRE(at != std::string::npos);
  REQUIRE(text.ends_with(end));
  const std::string xml = text.substr(0, at), data = text.substr(at + mark.size(), text.size() - at - mark.size() - end.size());
  CHECK(contains(xml, "<VTKFile type=\"UnstructuredGrid\" version=\"1.0\" byte_order=\"LittleEndian\" header_type=\"UInt64\">"));
  Vtu vtu;
  std::smatch m;
  REQUIRE(std::regex_search(xml, m, std::regex("<Piece NumberOfPoints=\"(\\d+)\" NumberOfCells=\"(\\d+)\">")));
  vtu.points = std::stoll(m[1]);
  vtu.cells = std::stoll(m[2]);
  const std::regex array(
      "<DataArray type=\"(\\w+)\" Name=\"(\\w+)\" NumberOfComponents=\"(\\d+)\" format=\"appended\" offset=\"(\\d+)\"/>");
  size_t expected = 0;
  for (auto i = std::sregex_iterator(xml.begin(), xml.end(), array); i != std::sregex_iterator(); ++i) {
    const size_t offset = std::stoull((*i)[4]);
    CHECK(offset == expected);
    REQUIRE(offset + 8 <= data.size());
    uint64_t size = 0;
    std::memcpy(&size, data.data() + offset, 8);
    REQUIRE(offset + 8 + size <= data.size());
    expected = offset + 8 + size;
    vtu.arrays[(*i)[2]] = {(*i)[1], std::stoll((*i)[3]), data.substr(offset + 8, size)};
    if (static_cast<size_t>(i->position()) < xml.find("</PointData>")) vtu.point_data.push_back((*i)[2]);
  }
  CHECK(expected == data.size());
  for (const auto& [name, type, size] :
       {std::tuple("points", "Float32", 12 * vtu.points), {"offsets", "Int64", 8 * vtu.cells}, {"types", "UInt8", vtu.cells}}) {
    REQUIRE(vtu.arrays.contains(name));
    CHECK(vtu.arrays[name].type == type);
    CHECK(static_cast<int64_t>(vtu.arrays[name].bytes.size()) == size);
  }
  return vtu;
}

FieldSample small_grid() {
  const auto g = grid_of(
      3, 2,
      [](double i, double j) {
        return std::vector<float>{float(i), float(10 * j), float(100 + i)};
      },
      [](double i, double j) { return i - j; });
  std::vector<std::vector<float>> prediction = g.values;
  for (std::vector<float>& v : prediction) v[0] += 0.5f;
  return sample_of(g.x, prediction, g.values, {3, 2});
}

/// What VTK's reader, or meshio, says of a file: points, cells, their types, and the sum of each array. "" where neither is
/// installed.
std::string independent_reading(const Scratch& scratch, const std::string& file) {
  scratch.write("read.py", R"(
import sys
path = sys.argv[1]
try:
    from vtkmodules.vtkIOXML import vtkXMLUnstructuredGridReader
    from vtkmodules.util.numpy_support import vtk_to_numpy
    r = vtkXMLUnstructuredGridReader(); r.SetFileName(path); r.Update(); g = r.GetOutput()
    types = sorted({g.GetCellType(i) for i in range(g.GetNumberOfCells())})
    d = g.GetPointData()
    sums = {d.GetArrayName(i): vtk_to_numpy(d.GetArray(i)).sum() for i in range(d.GetNumberOfArrays())}
    print("points", g.GetNumberOfPoints(), "cells", g.GetNumberOfCells(), "types", *types, "last", *g.GetPoint(g.GetNumberOfPoints() - 1))
except ImportError:
    import meshio
    m = meshio.read(path)
    number = {"vertex": 1, "quad": 9}
    types = sorted({number[c.type] for c in m.cells})
    sums = {k: v.sum() for k, v in m.point_data.items()}
    print("points", len(m.points), "cells", sum(len(c.data) for c in m.cells), "types", *types, "last", *map(float, m.points[-1]))
for name in sorted(sums): print(name, "%g" % sums[name])
)");
  const std::string command = "cd '" + scratch.file(".") + "' && python3 read.py " + file + " > read.txt 2> read.err";
  const int code = std::system(command.c_str());
  const std::string err = read_file(scratch.file("read.err"));
  if (code != 0 && (contains(err, "No module named") || contains(err, "not found"))) {
    MESSAGE("skipped: neither vtk nor meshio is installed for python3");
    return "";
  }
  INFO(err);
  CHECK(code == 0);
  return read_file(scratch.file("read.txt"));
}

}  // namespace

TEST_CASE("vtu: a grid becomes quads, with the arrays by name") {
  const Scratch scratch;
  write_vtu(scratch.file("grid.vtu"), small_grid());
  Vtu vtu = read_vtu(scratch.file("grid.vtu"));
  CHECK(vtu.points == 6);
  CHECK(vtu.cells == 2);
  CHECK(vtu.arrays["points"].as<float>() == std::vector<float>{0, 0, 0, 0, 10, 0, 1, 0, 0, 1, 10, 0, 2, 0, 0, 2, 10, 0});
  CHECK(vtu.arrays["connectivity"].as<int64_t>() == std::vector<int64_t>{0, 2, 3, 1, 2, 4, 5, 3});  // counter-clockwise
  CHECK(vtu.arrays["offsets"].as<int64_t>() == std::vector<int64_t>{4, 8});
  CHECK(vtu.arrays["types"].as<uint8_t>() == std::vector<uint8_t>{9, 9});
  CHECK(vtu.point_data == std::vector<std::string>{"x2", "prediction", "truth", "error"});
  CHECK(vtu.arrays["x2"].as<float>() == std::vector<float>{100, 100, 101, 101, 102, 102});
  CHECK(vtu.arrays["truth"].as<float>() == std::vector<float>{0, -1, 1, 0, 2, 1});
  CHECK(vtu.arrays["prediction"].as<float>() == std::vector<float>{0.5, -0.5, 1.5, 0.5, 2.5, 1.5});
  CHECK(vtu.arrays["error"].as<float>() == std::vector<float>(6, 0.5f));
  if (const std::string text = independent_reading(scratch, "grid.vtu"); !text.empty())
    CHECK(text == "points 6 cells 2 types 9 last 2.0 10.0 0.0\nerror 3\nprediction 6\ntruth 3\nx2 606\n");
}

TEST_CASE("vtu: a cloud becomes vertices, in 3-D too, with as many components as there are channels") {
  const Scratch scratch;
  write_vtu(scratch.file("cloud.vtu"), sample_of({{1, 2, 3}, {4, 5, 6}, {7, 8, 9}}, {{1, 2}, {3, 4}, {5, 6}}, {}));
  Vtu vtu = read_vtu(scratch.file("cloud.vtu"));
  CHECK(vtu.points == 3);
  CHECK(vtu.cells == 3);
  CHECK(vtu.arrays["points"].as<float>() == std::vector<float>{1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(vtu.arrays["connectivity"].as<int64_t>() == std::vector<int64_t>{0, 1, 2});
  CHECK(vtu.arrays["types"].as<uint8_t>() == std::vector<uint8_t>{1, 1, 1});
  CHECK(vtu.point_data == std::vector<std::string>{"prediction"});  // no truth: no error
  CHECK(vtu.arrays["prediction"].components == 2);
  if (const std::string text = independent_reading(scratch, "cloud.vtu"); !text.empty())
    CHECK(text == "points 3 cells 3 types 1 last 7.0 8.0 9.0\nprediction 21\n");
  // A stated grid that is not that of these points is none.
  write_vtu(scratch.file("other.vtu"), sample_of({{1, 2}, {4, 5}, {7, 8}}, {{1}, {3}, {5}}, {}, {2, 2}));
  CHECK(read_vtu(scratch.file("other.vtu")).cells == 3);
}

TEST_CASE("vtu: predictions of a split and of an array, as .vtu and as .npy, agree") {
  const Scratch scratch;
  make_field_run(scratch);
  const auto predict = [&](const std::vector<std::string>& more) {
    std::vector<std::string> args = {"predict", "run", "--device", "cpu"};
    args.insert(args.end(), more.begin(), more.end());
    return scratch.run(args);
  };
  const std::string input = "data/test.x.npy";
  REQUIRE(predict({"--input", input, "--output", "y.npy"}).code == 0);
  REQUIRE(predict({"--split", "test", "--output", "split.npy"}).code == 0);
  REQUIRE(predict({"--split", "test", "--sample", "3", "--output", "one.npy"}).code == 0);
  REQUIRE(predict({"--split", "test", "--sample", "3", "--output", "one.vtu"}).code == 0);
  REQUIRE(predict({"--input", input, "--sample", "3", "--output", "row.vtu"}).code == 0);
  const Outcome all = predict({"--split", "test", "--output", "all.vtu"});
  REQUIRE(all.code == 0);
  CHECK(contains(all.out, "all-0000.vtu to all-0004.vtu"));
  CHECK(!fs::exists(scratch.file("all.vtu")));
  const Tensor y = read_npy(scratch.file("y.npy")), truth = read_npy(scratch.file("data/test.y.npy"));
  REQUIRE(y.shape() == Shape{5, 64, 1});
  CHECK(read_npy(scratch.file("one.npy")).shape() == Shape{1, 64, 1});
  const Json evaluation = Json::parse(read_file(scratch.file("run/eval-test.json")));
  for (int64_t i = 0; i < 5; ++i) {
    Vtu vtu = read_vtu(scratch.file("all-000" + std::to_string(i) + ".vtu"));
    CHECK(vtu.cells == 49);
    CHECK(vtu.point_data == std::vector<std::string>{"x2", "prediction", "truth", "error"});
    const std::vector<float> p = vtu.arrays["prediction"].as<float>(), t = vtu.arrays["truth"].as<float>();
    double error = 0, size = 0;
    for (int64_t n = 0; n < 64; ++n) {
      CHECK(p[size_t(n)] == doctest::Approx(y.item(64 * i + n)).epsilon(1e-5));
      CHECK(t[size_t(n)] == truth.item(64 * i + n));
      error += (p[size_t(n)] - t[size_t(n)]) * (p[size_t(n)] - t[size_t(n)]);
      size += t[size_t(n)] * t[size_t(n)];
    }
    CHECK(std::sqrt(error / size) == doctest::Approx(evaluation["errors"][size_t(i)].get<double>()).epsilon(1e-4));
  }
  Vtu one = read_vtu(scratch.file("one.vtu")), row = read_vtu(scratch.file("row.vtu"));
  CHECK(one.arrays["truth"].as<float>()[10] == truth.item(64 * 3 + 10));
  CHECK(row.point_data == std::vector<std::string>{"x2", "prediction"});
  for (int64_t n = 0; n < 64; ++n) {
    CHECK(row.arrays["prediction"].as<float>()[size_t(n)] == doctest::Approx(one.arrays["prediction"].as<float>()[size_t(n)]));
    CHECK(read_npy(scratch.file("one.npy")).item(n) == doctest::Approx(y.item(64 * 3 + n)).epsilon(1e-5));
    CHECK(read_npy(scratch.file("split.npy")).item(64 * 4 + n) == doctest::Approx(y.item(64 * 4 + n)).epsilon(1e-5));
  }
  independent_reading(scratch, "one.vtu");

  // Bad input.
  check_failure(predict({"--output", "y.npy"}), 2, {"--input", "--split"});
  check_failure(predict({"--input", input, "--split", "test", "--output", "z.vtu"}), 2, {"--input", "--split"});
  check_failure(predict({"--input", input}), 2, {"--output"});
  check_failure(predict({"--input", input, "--output", "z.vtk"}), 2, {"z.vtk", ".npy or .vtu"});
  check_failure(predict({"--input", input, "--output", "z"}), 2, {".npy or .vtu"});
  check_failure(predict({"--input", input, "--sample", "5", "--output", "z.vtu"}), 2, {"--sample 5", "0 to 4"});
  check_failure(predict({"--split", "test", "--sample", "5", "--output", "z.vtu"}), 2,
                {"--sample 5: split test has samples 0 to 4"});
  check_failure(predict({"--split", "test", "--sample", "-1", "--output", "z.vtu"}), 2, {"--sample"});
  check_failure(predict({"--split", "dev", "--output", "z.vtu"}), 3, {"there is no split \"dev\""});
  check_failure(predict({"--split", "test", "--output", "nowhere/z.vtu"}), 3, {"nowhere"});
  scratch.write("occupied", "");
  check_failure(predict({"--split", "test", "--sample", "0", "--output", "occupied/z.vtu"}), 3, {"occupied"});
  // A split without y: the description says so, and nothing runs.
  Json description = Json::parse(read_file(scratch.file("data/dataset.json")));
  description["fields"].erase(1);
  scratch.write("data/dataset.json", description.dump());
  check_failure(predict({"--split", "test", "--output", "z.vtu"}), 3, {"needs fields x and y"});
  CHECK(!fs::exists(scratch.file("z.vtu")));
}

TEST_CASE("vtu: meshes of differing size lose their padding; tokens have no points") {
  const Scratch scratch;
  DatasetInfo info;
  info.name = "clouds";
  info.kind = "field_regression";
  std::vector<float> x, y;
  std::vector<int64_t> offsets = {0};
  Rng rng(1);
  for (int64_t s = 0; s < 6; ++s) {
    for (int64_t p = 0; p < 5 + 3 * s; ++p) {
      x.push_back(static_cast<float>(rng.uniform()));
      x.push_back(static_cast<float>(rng.uniform()));
      y.push_back(1 + x.back());
    }
    offsets.push_back(static_cast<int64_t>(y.size()));
  }
  {
    PreparedWriter writer(scratch.file("data"), info);
    const int64_t n = static_cast<int64_t>(y.size());
    for (const char* split : {"train", "test"}) {
      writer.add_ragged(split, "x", Tensor::from(x, {n, 2}), Tensor::from(offsets, {7}));
      writer.add_ragged(split, "y", Tensor::from(y, {n, 1}), Tensor::from(offsets, {7}));
    }
    writer.commit();
  }
  scratch.write("tiny.json", kTinyFields);
  make_field_run(scratch);
  CHECK(fs::exists(scratch.file("run/panels/test-worst.png")));
  REQUIRE(scratch.run({"predict", "run", "--split", "test", "--output", "z.vtu", "--device", "cpu"}).code == 0);
  for (int64_t s = 0; s < 6; ++s) {
    Vtu vtu = read_vtu(scratch.file("z-000" + std::to_string(s) + ".vtu"));
    CHECK(vtu.points == 5 + 3 * s);
    CHECK(vtu.arrays["truth"].as<float>().back() == y[static_cast<size_t>(offsets[static_cast<size_t>(s + 1)] - 1)]);
  }
  check_failure(scratch.run({"predict", "run", "--split", "test", "--output", "z.npy", "--device", "cpu"}), 2, {"--sample"});
  REQUIRE(scratch.run({"predict", "run", "--split", "test", "--sample", "2", "--output", "z.npy", "--device", "cpu"}).code == 0);
  CHECK(read_npy(scratch.file("z.npy")).shape() == Shape{1, 11, 1});

  const TrainFixture f("vtu_tokens");
  RunFolder::create(f.path + "/run", f.recipe);
  const Outcome tokens = scratch.run({"predict", f.path + "/run", "--split", "test", "--output", "t.vtu", "--device", "cpu"});
  check_failure(tokens, 2, {"t.vtu", "holds no fields"});
}
