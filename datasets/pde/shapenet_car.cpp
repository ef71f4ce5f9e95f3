/// ShapeNet-Car (N. Umetani and B. Bickel, SIGGRAPH 2018): points on the surface of a car -> time-averaged pressure there.
#include <algorithm>
#include <filesystem>
#include <optional>

#include "core/file.h"
#include "core/job.h"
#include "datasets/import/npz.h"
#include "datasets/import/vtk.h"
#include "datasets/pde/published.h"
#include "datasets/registry.h"

namespace flare {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSample = "shapenet_car_sample.npz";
constexpr int64_t kCars = 889, kTestCars = 189;

DatasetInfo car_info(const std::string& name) {
  DatasetInfo info;
  info.name = name;
  info.coordinates = 3;
  info.licence = "shapes: ShapeNet's terms of use (research)";
  info.citation = "N. Umetani and B. Bickel, Learning Three-Dimensional Flow for Interactive Aerodynamic Design, ACM TOG 2018";
  // The box that all cars lie in goes to [0,1]³; the pressure's figures are those of the published training split.
  info.normalisation["x"] = {{-2, -1, -4.5}, {4, 5.5, 10.5}};
  info.normalisation["y"] = {{-36.3099}, {48.5743}};
  return info;
}

/// The pressures of a mesh's used points. The published list has an entry for each point of the original mesh, of which 16 … 111
/// belong to no cell; where the mesh was stored without those, the list has 96 entries too many.
std::vector<int64_t> pressure_rows(const std::string& path, const VtkMesh& mesh, int64_t n_pressures) {
  const int64_t n_points = mesh.points.size(0), n_used = static_cast<int64_t>(mesh.used.size());
  if (n_pressures == n_points) return mesh.used;
  std::vector<int64_t> rows;
  if (n_pressures == n_used + 96) {
    for (int64_t i = 0; i < n_pressures; ++i)
      if (i < 16 || i >= 112) rows.push_back(i);
    return rows;
  }
  throw DataError(cat(path, ": holds ", n_pressures, " pressures for a mesh of ", n_points, " points (", n_used, " in cells)"));
}

/// Folders with both files, param0 to param8 in turn, sorted by name within each.
std::vector<std::string> car_folders(const std::string& source_dir) {
  std::string root = source_dir;
  for (const char* inner : {"/mlcfd_data/training_data", "/training_data"})
    if (!directory_exists(root + "/param0") && directory_exists(source_dir + inner + "/param0")) root = source_dir + inner;
  std::vector<std::string> folders;
  for (int p = 0; p < 9; ++p) {
    const std::string part = cat(root, "/param", p);
    if (!directory_exists(part)) continue;
    std::vector<std::string> here;
    for (const fs::directory_entry& entry : fs::directory_iterator(part))
      if (file_exists(entry.path().string() + "/quadpress_smpl.vtk") && file_exists(entry.path().string() + "/press.npy"))
        here.push_back(entry.path().string());
    std::sort(here.begin(), here.end());
    folders.insert(folders.end(), here.begin(), here.end());
  }
  return folders;
}

struct Car {
  Tensor points, pressure;  // f32 [N,3], [N,1]
};

Car read_car(const std::string& folder) {
  const std::string path = folder + "/press.npy";
  const VtkMesh mesh = read_vtk(folder + "/quadpress_smpl.vtk");
  const Tensor stored = read_npy(path);
  check<DataError>(is_float(stored.dtype()) && stored.numel() == stored.size(0), path, ": expected pressures [n] or [n,1], got ",
                   stored.dtype(), " ", stored.shape());
  const Tensor pressure = cast_to(stored, DType::f32);
  const std::vector<int64_t> rows = pressure_rows(path, mesh, pressure.numel());
  const int64_t n = static_cast<int64_t>(mesh.used.size());
  Car car{Tensor::empty({n, 3}, DType::f32), Tensor::empty({n, 1}, DType::f32)};
  for (int64_t i = 0; i < n; ++i) {
    std::copy_n(mesh.points.data<float>() + 3 * mesh.used[static_cast<size_t>(i)], 3, car.points.data<float>() + 3 * i);
    car.pressure.data<float>()[i] = pressure.data<float>()[rows[static_cast<size_t>(i)]];
  }
  return car;
}

void import_sample(const std::string& path, const std::string& out_dir) {
  const NpzFile archive(path);
  const Tensor vertices = archive.read("vertices"), press = archive.read("press");
  check<DataError>(vertices.ndim() == 3 && vertices.size(2) == 3 && vertices.size(0) >= 2 && is_float(vertices.dtype()), path,
                   ": vertices has shape ", vertices.shape(), ", expected [cars,N,3]");
  const int64_t cars = vertices.size(0), n = vertices.size(1);
  check<DataError>(press.shape() == Shape{cars, n} && is_float(press.dtype()), path, ": press has shape ", press.shape(),
                   ", expected ", Shape{cars, n});
  DatasetInfo info = car_info("shapenet-car-sample");
  info.source =
      cat("imported from ", kSample, ": train = ", cars - 1, " cars, test = the last one; too few to measure accuracy on");
  std::vector<FieldSplit> splits;
  for (const SampleRange& r : {SampleRange{"train", 0, cars - 1}, SampleRange{"test", cars - 1, 1}}) {
    FieldSplit split{r.name, Tensor::empty({r.count, n, 3}, DType::f32), Tensor::empty({r.count, n, 1}, DType::f32)};
    fill_channels(vertices.view({r.count, n, 3}, {3 * n, 3, 1}, r.first * 3 * n), split.x, 0);
    fill_channels(press.view({r.count, n, 1}, {n, 1, 1}, r.first * n), split.y, 0);
    splits.push_back(std::move(split));
  }
  write_field_set(out_dir, info, splits);
}

}  // namespace

void import_shapenet_car(const std::string& source_dir, const std::string& out_dir, int64_t cars, int64_t test_cars) {
  check<DataError>(directory_exists(source_dir), source_dir, ": no such folder");
  if (file_exists(source_dir + "/" + kSample)) return import_sample(source_dir + "/" + kSample, out_dir);
  const std::vector<std::string> folders = car_folders(source_dir);
  check<DataError>(static_cast<int64_t>(folders.size()) == cars, source_dir, ": has ", folders.size(),
                   " cars with quadpress_smpl.vtk and press.npy in "
                   "param0 to param8, expected ",
                   cars, " (mlcfd_data/training_data of the published archive), or ", kSample);
  const std::vector<int64_t> test = torch_randperm(cars, 0, test_cars);
  std::vector<int64_t> train;
  for (int64_t i = 0; i < cars; ++i)
    if (std::find(test.begin(), test.end(), i) == test.end()) train.push_back(i);
  DatasetInfo info = car_info("shapenet-car");
  info.source = cat("imported from quadpress_smpl.vtk and press.npy of ", cars, " cars; test = the first ", test_cars,
                    " of torch.randperm(", cars, ") from seed 0");
  std::vector<FieldSplit> splits;
  std::optional<Job> job(std::in_place, info.name, cars, "cars");
  for (const auto& [name, members] : {std::pair("train", train), std::pair("test", test)}) {
    FieldSplit split{name, {}, {}};
    const int64_t count = static_cast<int64_t>(members.size());
    for (int64_t i = 0; i < count; ++i) {
      const JobItem item(*job);
      const std::string& folder = folders[static_cast<size_t>(members[static_cast<size_t>(i)])];
      const Car car = read_car(folder);
      const int64_t n = car.points.size(0);
      check<DataError>(splits.empty() || n == splits[0].x.size(1), folder, ": the mesh has ", n,
                       " points in cells, the others have ", splits.empty() ? n : splits[0].x.size(1));
      if (i == 0) split.x = Tensor::empty({count, n, 3}, DType::f32), split.y = Tensor::empty({count, n, 1}, DType::f32);
      check<DataError>(n == split.x.size(1), folder, ": the mesh has ", n, " points in cells, the others have ", split.x.size(1));
      std::copy_n(car.points.data<float>(), 3 * n, split.x.data<float>() + i * 3 * n);
      std::copy_n(car.pressure.data<float>(), n, split.y.data<float>() + i * n);
    }
    splits.push_back(std::move(split));
  }
  job.reset();
  write_field_set(out_dir, info, splits);
}

static DatasetEntry shapenet_car_entry() {
  DatasetEntry e;
  e.name = "shapenet-car";
  e.kind = "field_regression";
  e.description = "Pressure on the surfaces of cars, 3586 points (the published archive, or a sample of four cars)";
  e.licence = "shapes: ShapeNet's terms of use (research)";
  e.citation = "N. Umetani and B. Bickel, ACM TOG 2018";
  e.prepare = [](const std::string& source, const std::string& out) { import_shapenet_car(source, out, kCars, kTestCars); };
  return e;
}
FLARE_REGISTER_DATASET(shapenet_car_entry());

}  // namespace flare
