/// Pathfinder: what the generator draws, its statistics and repeatability, the importer of the published pictures.
#include <map>
#include <set>

#include "core/parallel.h"
#include "datasets/lra/pathfinder.h"
#include "datasets/lra/pathfinder_stamp.h"
#include "datasets/registry.h"
#include "tests/lra_fixtures.h"

namespace {

double distance(Pixel a, Pixel b) { return std::hypot(a.y - b.y, a.x - b.x); }
int brightness(const PathfinderPicture& p, int size, Pixel at) { return p.pixels[static_cast<size_t>(at.y * size + at.x)]; }

/// Mean grey value of the pixels within a distance: of a disc's inside it is high, of a dash's end low.
double mean_around(const PathfinderPicture& p, int size, Pixel at, double radius) {
  double sum = 0;
  int n = 0;
  for (int y = 0; y < size; ++y)
    for (int x = 0; x < size; ++x)
      if (distance({y, x}, at) <= radius) {
        sum += p.pixels[static_cast<size_t>(y * size + x)];
        ++n;
      }
  return sum / n;
}

std::set<std::string> rows_of(const PreparedFolder& folder, const std::string& split) {
  const Column& c = folder.column(split, "tokens");
  std::set<std::string> out;
  for (int64_t i = 0; i < c.count; ++i) out.emplace(c.row(c.begin(i)), static_cast<size_t>(c.length(i)));
  return out;
}

}  // namespace

TEST_CASE("pathfinder: shrinking keeps a flat picture flat and a centred dot centred") {
  const std::vector<uint8_t> flat(17 * 17, 200);
  for (uint8_t v : shrink(flat, 17, 9)) CHECK(v == 200);
  std::vector<uint8_t> dot(17 * 17, 0);
  dot[8 * 17 + 8] = 255;
  const std::vector<uint8_t> small = shrink(dot, 17, 9);
  CHECK(std::max_element(small.begin(), small.end()) - small.begin() == 4 * 9 + 4);
  for (size_t y = 0; y < 9; ++y)
    for (size_t x = 0; x < 9; ++x) CHECK(small[y * 9 + x] == small[x * 9 + y]);  // both passes weigh alike
}

TEST_CASE("pathfinder: paths, distractors, contrast and markers follow the published rules") {
  for (const int size : {32, 64, 128}) {
    INFO("size ", size);
    const PathfinderRules rules = pathfinder_rules(size);
    const PathfinderArtist artist(rules);
    const int n = size == 32 ? 400 : 40;
    std::map<int, int> margins;
    std::map<size_t, int> distractors;
    double lit = 0, peak = 0;
    for (int i = 0; i < n; ++i) {
      const PathfinderPicture p = artist.draw(11, static_cast<uint64_t>(i), i % 2);
      ++margins[p.margin];
      ++distractors[p.shorter.size()];
      REQUIRE(p.pixels.size() == static_cast<size_t>(size * size));
      CHECK(*std::max_element(p.pixels.begin(), p.pixels.end()) == 255);
      lit += static_cast<double>(std::count_if(p.pixels.begin(), p.pixels.end(), [](uint8_t v) { return v > 64; })) / (size * size);

      // Two paths of 14 dashes each; neighbouring ends are a dash and two margins apart, up to rounding and bends.
      const double step = rules.segment_length + 2 * p.margin;
      for (const std::vector<Pixel>& path : p.paths) {
        REQUIRE(path.size() == 14);
        for (size_t k = 1; k < path.size(); ++k) {
          CHECK(distance(path[k - 1], path[k]) > 0.4 * step);
          CHECK(distance(path[k - 1], path[k]) < 2.1 * step);
        }
        for (const Pixel tip : path) CHECK((tip.y >= 0 && tip.y < size && tip.x >= 0 && tip.x < size));
        for (const Pixel tip : path) peak += brightness(p, size, tip) / (28.0 * n);
      }
      CHECK(distance(p.paths[0][0], p.paths[1][0]) == doctest::Approx(rules.seed_distance).epsilon(0.12));
      CHECK(p.shorter.size() <= static_cast<size_t>(rules.distractors));
      for (const std::vector<Pixel>& path : p.shorter) CHECK(path.size() == 4);

      // The label says whether both discs lie on one path, and the discs are where the record says: bright throughout.
      CHECK((p.marked[0] == p.marked[1]) == (i % 2 == 1));
      const Pixel first = p.paths[static_cast<size_t>(p.marked[0])].front(),
                  last = p.paths[static_cast<size_t>(p.marked[1])].back();
      for (const Pixel disc : {first, last}) CHECK(mean_around(p, size, disc, rules.marker_radius - 0.5) > 150);
      const Pixel other_first = p.paths[static_cast<size_t>(1 - p.marked[0])].front();
      if (distance(other_first, first) > 2.5 * rules.marker_radius && distance(other_first, last) > 2.5 * rules.marker_radius)
        CHECK(mean_around(p, size, other_first, rules.marker_radius - 0.5) < 200);
    }
    CHECK(margins.size() == rules.margins.size());
    CHECK(distractors.rbegin()->first == static_cast<size_t>(rules.distractors));
    double mean_distractors = 0;
    for (const auto& [count, times] : distractors) mean_distractors += static_cast<double>(count) * times / n;
    INFO("distractors ", mean_distractors, ", share of pixels lit ", lit / n, ", grey value at the tips ", peak);
    CHECK(mean_distractors > 0.85 * rules.distractors);  // crowded pictures lack a few
    CHECK(lit / n > 0.02);
    CHECK(lit / n < 0.35);
    CHECK(peak > 60);
  }
}

TEST_CASE("pathfinder: where the discs lie tells nothing of the label by itself") {
  const PathfinderArtist artist(pathfinder_rules(32));
  double apart[2] = {};
  constexpr int n = 2000;
  for (int i = 0; i < n; ++i) {
    const PathfinderPicture p = artist.draw(3, static_cast<uint64_t>(i), i % 2);
    apart[i % 2] +=
        distance(p.paths[static_cast<size_t>(p.marked[0])].front(), p.paths[static_cast<size_t>(p.marked[1])].back()) / (n / 2);
  }
  CHECK(apart[0] == doctest::Approx(apart[1]).epsilon(0.06));
}

TEST_CASE("pathfinder: exact balance, no picture twice, the seed alone decides") {
  const TemporaryFolder tmp;
  const PathfinderOptions o{.size = 32, .seed = 5, .train = 300, .val = 40, .test = 51};
  const int threads = thread_count();
  set_thread_count(1);
  generate_pathfinder(o, tmp / "a");
  set_thread_count(3);
  generate_pathfinder(o, tmp / "b");
  set_thread_count(threads);
  const PreparedFolder a(tmp / "a");
  a.verify_checksums();
  CHECK(a.info().name == "pathfinder32");
  CHECK(a.info().max_length == 1024);
  CHECK(statistics_of(a, "train").labels == std::vector<int64_t>{150, 150});
  CHECK(statistics_of(a, "test").labels == std::vector<int64_t>{26, 25});
  std::set<std::string> all;
  for (const char* split : {"train", "val", "test"}) all.merge(rows_of(a, split));
  CHECK(all.size() == 391);
  for (const char* file : {"dataset.json", "train.tokens.npy", "train.labels.npy", "val.tokens.npy", "test.tokens.npy"})
    CHECK(sha256_of_file(tmp / ("a/" + std::string(file))) == sha256_of_file(tmp / ("b/" + std::string(file))));

  PathfinderOptions more = o;
  more.train = 400;
  generate_pathfinder(more, tmp / "c");
  CHECK(sha256_of_file(tmp / "a/test.tokens.npy") == sha256_of_file(tmp / "c/test.tokens.npy"));
  more.seed = 6;
  generate_pathfinder(more, tmp / "d");
  CHECK(sha256_of_file(tmp / "a/test.tokens.npy") != sha256_of_file(tmp / "d/test.tokens.npy"));

  generate_dataset("pathfinder", {.seed = 5, .train = 300, .val = 40, .test = 51, .extra = {{"size", "32"}}}, tmp / "e");
  CHECK(sha256_of_file(tmp / "a/dataset.json") == sha256_of_file(tmp / "e/dataset.json"));
  CHECK_SAYS(2, "size is 48; choose 16, 32, 64 or 128", generate_dataset("pathfinder", {.extra = {{"size", "48"}}}, tmp / "x"));
  CHECK_SAYS(2, "must not be negative, nor all zero", generate_pathfinder({.train = 0, .val = 0, .test = 0}, tmp / "x"));
  CHECK_FALSE(fs::exists(tmp / "x"));
}

TEST_CASE("pathfinder: shorter paths, in all splits or in train alone") {
  const PathfinderRules hard = pathfinder_rules(32), nine = with_segments(hard, 9), six = with_segments(hard, 6);
  CHECK((nine.path_segments == 9 && nine.distractor_segments == 3 && nine.distractors == 6));
  CHECK((six.path_segments == 6 && six.distractor_segments == 2 && six.distractors == 10));
  for (const int size : {32, 128}) {
    const PathfinderRules rules = pathfinder_rules(size), again = with_segments(rules, 14);
    CHECK((again.distractor_segments == rules.distractor_segments && again.distractors == rules.distractors));
  }
  const PathfinderArtist artist(six);
  PathfinderRules mixed = hard;
  mixed.shortest = 4;
  const PathfinderArtist mixing(mixed);
  std::map<size_t, int> lengths;
  for (int i = 0; i < 220; ++i) {
    const PathfinderPicture p = artist.draw(2, static_cast<uint64_t>(i), i % 2),
                            m = mixing.draw(2, static_cast<uint64_t>(i), i % 2);
    for (const std::vector<Pixel>& path : p.paths) CHECK(path.size() == 6);
    for (const std::vector<Pixel>& path : p.shorter) CHECK(path.size() == 2);
    CHECK(m.paths[0].size() == m.paths[1].size());
    ++lengths[m.paths[0].size()];
    for (const std::vector<Pixel>& path : m.shorter) CHECK(path.size() == std::max<size_t>(1, m.paths[0].size() / 3));
    CHECK((m.marked[0] == m.marked[1]) == (i % 2 == 1));
  }
  CHECK(lengths.begin()->first == 4);
  CHECK(lengths.rbegin()->first == 14);
  CHECK(lengths.size() == 11);
  for (const auto& [length, times] : lengths) CHECK((times > 5 && times < 45));

  // Options: the full length is the default, and shorter paths in train leave val and test alone.
  const TemporaryFolder tmp;
  const auto make = [&](const std::string& name, std::map<std::string, std::string> extra) {
    generate_dataset("pathfinder", {.seed = 8, .train = 30, .val = 10, .test = 10, .extra = std::move(extra)}, tmp / name);
    return sha256_of_file(tmp / (name + "/train.tokens.npy")) + " " + sha256_of_file(tmp / (name + "/test.tokens.npy")) +
           sha256_of_file(tmp / (name + "/val.tokens.npy"));
  };
  const std::string plain = make("plain", {}), full = make("full", {{"segments", "14"}}),
                    six_dashes = make("six", {{"segments", "6"}}), easier = make("easier", {{"shortest", "4"}});
  CHECK(full == plain);
  CHECK(six_dashes.substr(0, 64) != plain.substr(0, 64));
  CHECK(six_dashes.substr(65) != plain.substr(65));
  CHECK(easier.substr(0, 64) != plain.substr(0, 64));
  CHECK(easier.substr(65) == plain.substr(65));
  CHECK(PreparedFolder(tmp / "plain").info().source.ends_with("5 distractors of 4 dashes at most"));
  CHECK(PreparedFolder(tmp / "easier").info().source.ends_with("in train also shorter paths, from 4 dashes on"));
  CHECK_SAYS(2, "paths of 15 dashes; at most 14", make("x", {{"segments", "15"}}));
  CHECK_SAYS(2, "paths of 1 dashes, the shortest of 0", make("x", {{"segments", "1"}}));
  CHECK_SAYS(2, "paths of 6 dashes, the shortest of 7", make("x", {{"segments", "6"}, {"shortest", "7"}}));
  CHECK_FALSE(fs::exists(tmp / "x"));
}

TEST_CASE("pathfinder: the published pictures are imported in the order of their lists") {
  const TemporaryFolder tmp;
  write_pathfinder(tmp / "curv_contour_length_14", 20);
  write_bytes(tmp / "curv_contour_length_14/imgs/0/sample_5.png", "");  // the release has one such file
  prepare_dataset("pathfinder", tmp.path, tmp / "out");
  const PreparedFolder folder(tmp / "out");
  CHECK(folder.info().name == "pathfinder32");
  CHECK(folder.count("train") == 31);
  CHECK(folder.count("val") == 3);
  CHECK(folder.count("test") == 5);
  const Column &c = folder.column("train", "tokens"), &labels = folder.column("train", "labels");
  for (const int64_t i : {0, 4, 5, 30}) {
    const int64_t number = i + (i >= 5);  // in list 0 and then list 1, without the empty one
    CHECK(c.integer(c.begin(i) + 100) == (700 + number * 13) % 251);
    CHECK(labels.integer(i) == number % 20 % 2);
  }
  CHECK(rows_of(folder, "test").size() == 5);
}

TEST_CASE("pathfinder: damaged, mislabelled, duplicated and oversized pictures are refused") {
  const TemporaryFolder tmp;
  const std::string dir = tmp / "level", list = dir + "/metadata/1.npy", png = dir + "/imgs/1/sample_3.png";
  const auto says = [&](const auto& damage) {
    fs::remove_all(dir);
    write_pathfinder(dir, 10);
    damage();
    const std::string message = message_of([&] { import_pathfinder(dir, tmp / "out"); }, 3);
    CHECK(message.find('\n') == std::string::npos);
    CHECK_FALSE(fs::exists(tmp / "out"));
    return message;
  };
  const auto check_says = [&](const std::string& part, const auto& damage) {
    const std::string message = says(damage);
    CHECK_MESSAGE(message.find(part) != std::string::npos, message);
  };
  const std::string whole = "imgs/1 sample_3.png 3 1\n";
  check_says("not found: metadata; needed are metadata/*.npy (200 lists)", [&] { fs::remove_all(dir + "/metadata"); });
  check_says("not found: imgs", [&] { fs::remove_all(dir + "/imgs"); });
  check_says("sample_3.png: not found; ", [&] { fs::remove(png); });
  check_says("1.npy:1: has 2 columns", [&] { write_bytes(list, "imgs/1 sample_3.png\n"); });
  check_says("1.npy: truncated: its last line has no end", [&] { write_bytes(list, "imgs/1 sample_3.png 3 1"); });
  check_says("1.npy:1: mislabelled: \"2\"", [&] { write_bytes(list, "imgs/1 sample_3.png 3 2\n"); });
  check_says("1.npy:2: duplicated: imgs/1/sample_3.png is listed at", [&] { write_bytes(list, whole + whole); });
  check_says("1.npy: is a NumPy array", [&] { write_bytes(list, "\x93NUMPY....."); });
  check_says("1.npy:1: leads out of the folder", [&] { write_bytes(list, "imgs/../../x a.png 3 1\n"); });
  check_says("notes.txt: is no list of pictures", [&] { write_bytes(dir + "/metadata/notes.txt", "x"); });
  check_says("sample_3.png: duplicated: it shows the same as",
             [&] { fs::copy_file(dir + "/imgs/0/sample_0.png", png, fs::copy_options::overwrite_existing); });
  check_says("sample_3.png: truncated or damaged", [&] { fs::resize_file(png, fs::file_size(png) - 30); });
  check_says("sample_3.png: is no PNG picture", [&] { write_bytes(png, "no picture"); });
  check_says("sample_3.png: has sides of 16 pixels, the pictures before it 32",
             [&] { write_grey_png(png, 16, 16, std::vector<uint8_t>(256, 9)); });
  check_says("sample_3.png: oversized or not square: is 300 x 300",
             [&] { write_grey_png(png, 300, 300, std::vector<uint8_t>(90000, 9)); });
  check_says("sample_3.png: oversized: has 1100000 bytes", [&] { write_bytes(png, std::string(1100000, 'x')); });
  check_says("truncated: is empty (one empty file", [&] {
    write_bytes(png, "");
    write_bytes(dir + "/imgs/0/sample_1.png", "");
  });
}
