/// Importers of meshes, a .npz file a sample: files written by numpy (tests/golden/published, made by tools/golden/make_arrays.py),
/// and what is said of files that cannot be used.
#include "datasets/import/npz.h"
#include "datasets/loader.h"
#include "datasets/pde/mesh_set.h"
#include "datasets/pde/published.h"
#include "datasets/registry.h"
#include "tests/dataset_fixtures.h"
#include "tests/paths.h"
#include "tools/train/task.h"

namespace {

const std::string kPublished = std::string(kSourceDir) + "/tests/golden/published";

void copy_tree(const std::string& from, const std::string& to) {
  fs::create_directories(to);
  fs::copy(from, to, fs::copy_options::recursive | fs::copy_options::overwrite_existing);
}

}  // namespace

TEST_CASE("drivaerml: runs in the order of their numbers, pressure alone, the published scales") {
  const TemporaryFolder tmp;
  import_drivaerml(kPublished + "/drivaerml", tmp / "out");
  const PreparedFolder folder(tmp / "out");
  CHECK(folder.info().splits == std::map<std::string, int64_t>{{"train", 2}, {"test", 1}});
  CHECK(folder.info().coordinates == 3);
  const Tensor x = read_npy(tmp / "out/train.x.npy"), y = read_npy(tmp / "out/train.y.npy");
  CHECK(x.shape() == Shape{2, 4, 3});  // all cars have as many points: no offsets, and no mask
  CHECK(y.shape() == Shape{2, 4, 1});
  for (int64_t s = 0; s < 2; ++s)
    for (int64_t p = 0; p < 4; ++p) {
      const double start = 1000 * (s == 0 ? 2 : 10);
      for (int64_t c = 0; c < 3; ++c) CHECK(x.item((s * 4 + p) * 3 + c) == start + static_cast<double>(3 * p + c));
      CHECK(y.item(s * 4 + p) == start + 100 + static_cast<double>(4 * p));
    }
  // The ends of the published box become 0 and 1.
  const Normalisation& box = folder.info().normalisation.at("x");
  CHECK(box.mean == std::vector<double>{-0.9425, -1.1314, -0.3176});
  CHECK((4.1325 - box.mean[0]) / box.std[0] == doctest::Approx(1));
  CHECK((1.2445 - box.mean[2]) / box.std[2] == doctest::Approx(1));
  CHECK(folder.info().normalisation.at("y").mean[0] == -229.845718);

  copy_tree(kPublished + "/drivaerml", tmp / "source/drivaerml_surface_presampled_40k");
  copy_tree(kPublished + "/drivaerml/test", tmp / "source/drivaerml_surface_presampled_40k/val");
  data_error([&] { prepare_dataset("drivaerml", tmp / "source", tmp / "bad"); },
             "run_4.npz: a sample of this name is in another split");
  const std::string val = tmp / "source/drivaerml_surface_presampled_40k/val/";
  fs::rename(val + "run_4.npz", val + "run_7.npz");
  prepare_dataset("drivaerml", tmp / "source", tmp / "more");
  CHECK(PreparedFolder(tmp / "more").count("val") == 1);
  CHECK(tmp.entries() == 3);
}

TEST_CASE("lpbf: meshes of different size, the pickled member left alone") {
  const TemporaryFolder tmp;
  const std::string source = kPublished + "/lpbf";
  CHECK(NpzFile(source + "/train/part_1.npz").is_pickled("_metadata"));
  import_lpbf(source, tmp / "out", {2, 1});
  const PreparedFolder folder(tmp / "out");
  CHECK(folder.info().name == "lpbf");
  CHECK(read_npy(tmp / "out/train.x.npy").shape() == Shape{8, 3});
  CHECK(read_npy(tmp / "out/train.x_offsets.npy").to_vector() == std::vector<double>{0, 3, 8});
  CHECK(read_npy(tmp / "out/train.y.npy").to_vector() == std::vector<double>{1102, 1105, 1108, 2102, 2105, 2108, 2111, 2114});
  CHECK(read_npy(tmp / "out/test.x.npy").to_vector() == std::vector<double>{3000, 3001, 3002, 3003, 3004, 3005});
  CHECK(folder.info().normalisation.at("x").std == std::vector<double>{30, 30, 60});
  // Displacements 1102, 1105, 1108 and 2102, 2105, …, 2114: the mean of both means, and of both deviations.
  CHECK(folder.info().normalisation.at("y").mean[0] == doctest::Approx((1105 + 2108) / 2.0));
  CHECK(folder.info().normalisation.at("y").std[0] == doctest::Approx((3 + std::sqrt(22.5)) / 2));
  // Mean and deviation (with n - 1) of 0.496257, 0.768222, 0.088477: what the published code decodes by.
  REQUIRE(folder.info().warp.mean.size() == 1);
  CHECK(folder.info().warp.mean[0] == doctest::Approx(0.45098527).epsilon(1e-7));
  CHECK(folder.info().warp.std[0] == doctest::Approx(0.34212603).epsilon(1e-7));

  Loader loader(folder, "train", {.batch_size = 2, .shuffle = false, .prefetch = false});
  const Batch batch = loader.next();
  CHECK(batch.x.shape() == Shape{2, 5, 3});
  CHECK(batch.mask.to_vector() == std::vector<double>{1, 1, 1, 0, 0, 1, 1, 1, 1, 1});

  // Lists of files in place of folders, in their order; fewer parts than were published have another name.
  copy_tree(source, tmp / "source");
  put(tmp / "source/train.txt", "train/part_2.npz\r\n\ntrain/part_1.npz\n");
  put(tmp / "source/test.txt", "test/part_3.npz");
  prepare_dataset("lpbf", tmp / "source", tmp / "listed");
  CHECK(PreparedFolder(tmp / "listed").info().name == "lpbf-part");
  CHECK(read_npy(tmp / "listed/train.x_offsets.npy").to_vector() == std::vector<double>{0, 5, 8});
  put(tmp / "source/test.txt", "test/part_4.npz\n");
  data_error([&] { import_lpbf(tmp / "source", tmp / "bad", {2, 1}); }, "test.txt: lists \"test/part_4.npz\", which is not found");
  put(tmp / "source/test.txt", "train/part_1.npz\n");
  data_error([&] { import_lpbf(tmp / "source", tmp / "bad", {2, 1}); }, "part_1.npz: a sample of this name is in another split");
  CHECK(tmp.entries() == 3);
}

TEST_CASE("meshes of different size are trained on: padding changes no error") {
  const TemporaryFolder tmp;
  import_lpbf(kPublished + "/lpbf", tmp / "out", {2, 1});
  const PreparedFolder folder(tmp / "out");
  const Recipe recipe = parse_recipe(R"({"model": {"blocks": 1, "channels": 8, "heads": 2, "latents": 4}})", "test", {});
  const std::unique_ptr<Task> task = make_task(recipe, folder);
  Context context;
  const auto error_of = [&](int64_t batch_size, int64_t pad_to) {
    Loader loader(folder, "train", {.batch_size = batch_size, .shuffle = false, .pad_to = pad_to, .prefetch = false});
    double sum = 0;
    for (int64_t done = 0; done < 2; done += batch_size) {
      const Batch batch = loader.next();
      sum += task->score_sum(task->forward(batch, context), batch).item();
    }
    return sum;
  };
  CHECK(error_of(2, 0) == doctest::Approx(error_of(1, 0)).epsilon(1e-6));
  CHECK(error_of(2, 16) == doctest::Approx(error_of(1, 0)).epsilon(1e-6));
}

TEST_CASE("meshes: what is said of files that cannot be used") {
  const TemporaryFolder tmp;
  const std::string source = tmp / "source", part = source + "/train/part_1.npz",
                    good = read_file(kPublished + "/lpbf/train/part_1.npz");
  const auto import = [&] { import_lpbf(source, tmp / "bad", {2, 1}); };
  data_error(import, "source: no such folder");
  fs::create_directories(source);
  data_error(import, "source: has no train samples; lpbf needs train.txt and test.txt");
  data_error([&] { import_drivaerml(source, tmp / "bad"); }, "has no train samples; drivaerml needs train/run_<k>.npz");
  copy_tree(kPublished + "/lpbf", source);
  for (const double share : {0.0, 0.2, 0.5, 0.9, 0.99}) {
    put(part, std::string_view(good).substr(0, static_cast<size_t>(share * static_cast<double>(good.size()))));
    data_error(import, "part_1.npz: ");
  }
  fs::copy_file(kPublished + "/drivaerml/train/run_2.npz", part, fs::copy_options::overwrite_existing);
  data_error(import, "part_1.npz: has no member \"pos\"; it has \"surface_fields\", \"surface_mesh_centers\"");
  CHECK(tmp.entries() == 1);
}

TEST_CASE("meshes: damaged samples that numpy writes while the tests run") {
  const TemporaryFolder tmp;
  const std::string source = tmp / "source";
  copy_tree(kPublished + "/lpbf", source);
  put(tmp / "write.py", R"(
import sys, numpy as np
out = sys.argv[1]
pos, disp = np.arange(12.).reshape(4, 3), np.ones((4, 3))
hole = disp.copy()
hole[2, 2] = np.nan
np.savez(out + '/nan.npz', pos=pos, disp=hole)
np.savez(out + '/other.npz', pos=pos, disp=np.where(np.isnan(hole), 5, hole) + np.array([np.inf, 0, 0]))
np.savez(out + '/rows.npz', pos=pos, disp=disp[:3])
np.savez(out + '/flat.npz', pos=pos.ravel(), disp=disp)
np.savez(out + '/whole.npz', pos=pos.astype(int), disp=disp)
np.savez(out + '/none.npz', pos=pos[:0], disp=disp[:0])
np.savez_compressed(out + '/pickled.npz', pos=np.array([pos, None], dtype=object), disp=disp)
np.savez_compressed(out + '/swapped.npz', pos=np.asfortranarray(pos).astype('>f4'), disp=disp.astype(np.float16))
)");
  if (std::system(("python3 " + (tmp / "write.py") + " " + tmp.path + " >/dev/null 2>&1").c_str()) != 0) {
    std::printf("skipped: damaged meshes written by python3 (it lacks numpy)\n");
    return;
  }
  const auto says = [&](const std::string& file, const std::string& text) {
    fs::copy_file(tmp / file, source + "/train/part_2.npz", fs::copy_options::overwrite_existing);
    data_error([&] { import_lpbf(source, tmp / "bad", {2, 1}); }, "part_2.npz: " + text);
    CHECK_FALSE(fs::exists(tmp / "bad"));
  };
  says("nan.npz", "disp is not finite at point 2, column 2");
  says("rows.npz", "disp has 3 rows for 4 nodes");
  says("flat.npz", "pos is f64 [12], expected floating-point numbers [N,3]");
  says("whole.npz", "pos is i64 [4,3], expected floating-point numbers [N,3]");
  says("none.npz", "pos is f64 [0,3], expected");
  says("pickled.npz", "member \"pos\": holds Python objects");
  fs::copy_file(tmp / "swapped.npz", source + "/train/part_2.npz", fs::copy_options::overwrite_existing);
  import_lpbf(source, tmp / "fine", {2, 1});
  CHECK(read_npy(tmp / "fine/train.x.npy").item(9 + 7) == 7);
  // What is not finite in a column that is not read does not matter.
  fs::copy_file(tmp / "other.npz", source + "/train/part_2.npz", fs::copy_options::overwrite_existing);
  import_lpbf(source, tmp / "fine", {2, 1});
  CHECK(read_npy(tmp / "fine/train.y.npy").item(3 + 2) == 6 - 1);
}
