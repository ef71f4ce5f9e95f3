/// Pictures of fields: the colours, the letters, where values land on the paper, and the files that training and evaluation leave.
#include <png.h>

#include <cmath>
#include <limits>
#include <set>

#include "core/npy.h"
#include "core/rng.h"
#include "datasets/pde/field_set.h"
#include "tests/dataset_fixtures.h"
#include "tests/field_fixtures.h"
#include "tests/pde_fixtures.h"
#include "tests/train_fixtures.h"
#include "tools/fields/font.h"
#include "tools/fields/panels.h"

namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

/// CIE lightness of a colour, by another way than that which made it.
double lightness(Rgb c) {
  const auto linear = [](uint8_t byte) {
    const double v = byte / 255.0;
    return v <= 0.04045 ? v / 12.92 : std::pow((v + 0.055) / 1.055, 2.4);
  };
  const double y = 0.2126 * linear(c.r) + 0.7152 * linear(c.g) + 0.0722 * linear(c.b);
  return y > 0.008856 ? 116 * std::cbrt(y) - 16 : 903.3 * y;
}

struct Picture {
  int width = 0, height = 0;
  std::vector<uint8_t> rgb;
};
Picture decode(const std::string& bytes) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  REQUIRE(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()) != 0);
  image.format = PNG_FORMAT_RGB;
  Picture p{static_cast<int>(image.width), static_cast<int>(image.height), {}};
  p.rgb.resize(PNG_IMAGE_SIZE(image));
  REQUIRE(png_image_finish_read(&image, nullptr, p.rgb.data(), 0, nullptr) != 0);
  return p;
}

/// The pixel of the sheet position (u,v) in a box that shows [left,right] x [bottom,top].
Ink pixel(const Canvas& canvas, const Rect& box, double left, double right, double bottom, double top, double u, double v) {
  const double units = std::max((right - left) / box.w, (top - bottom) / box.h);
  return canvas.at(box.x + static_cast<int>((box.w - (right - left) / units) / 2 + (u - left) / units),
                   box.y + static_cast<int>((box.h - (top - bottom) / units) / 2 + (top - v) / units));
}

int count_in(const Canvas& canvas, const Rect& box, Ink ink) {
  int n = 0;
  for (int y = box.y; y < box.y + box.h; ++y)
    for (int x = box.x; x < box.x + box.w; ++x) n += canvas.at(x, y) == ink;
  return n;
}

}  // namespace

TEST_CASE("colours: equal steps of the map are equal steps of lightness; the diverging one is symmetric about white") {
  std::set<int> inks;
  double before = lightness(palette(sequential(0)));
  for (int i = 1; i <= 10; ++i) {
    const double here = lightness(palette(sequential(i / 10.0)));
    CHECK(here - before > 5);
    CHECK(here - before < 10);
    before = here;
  }
  for (int i = 0; i <= 1000; ++i) inks.insert(sequential(i / 1000.0));
  CHECK(inks.size() == 126);
  CHECK(lightness(palette(diverging(0))) > 94);
  for (const double t : {0.1, 0.3, 0.5, 0.8, 1.0}) {
    const Rgb cold = palette(diverging(-t)), warm = palette(diverging(t));
    CHECK(std::abs(lightness(cold) - lightness(warm)) < 6);
    CHECK(cold.b > cold.r);
    CHECK(warm.r > warm.b);
  }
  CHECK(sequential(-5) == sequential(0));
  CHECK(sequential(7) == sequential(1));
  CHECK(sequential(kNan) == kGrey);
  CHECK(diverging(kNan) == kGrey);
  CHECK(diverging(0.5) != sequential(0.5));
}

TEST_CASE("letters: every printable character has its own form") {
  std::set<Glyph> forms;
  for (char c = ' '; c <= '~'; ++c) forms.insert(glyph_of(c));
  CHECK(forms.size() == 95);
  CHECK(glyph_of(' ') == Glyph{});
  CHECK(glyph_of('\xc3') == glyph_of('?'));
  CHECK(glyph_of('\n') == glyph_of('?'));
  Canvas canvas(40, 20);
  canvas.text(30, 2, "WWW");  // beyond the edge
  canvas.text(-20, -9, "WWW");
  CHECK(count_in(canvas, {0, 0, 40, 20}, kBlack) > 0);
  CHECK(Canvas::text_width("ab") == 22);
  CHECK(Canvas::text_width("") == 0);
}

TEST_CASE("png: what is read back is what was drawn") {
  Canvas canvas(37, 23);
  Rng rng(3);
  for (int y = 0; y < 23; ++y)
    for (int x = 0; x < 37; ++x) canvas.set(x, y, static_cast<Ink>(256 * rng.uniform()));
  const Picture p = decode(encode_png(canvas));
  REQUIRE(p.width == 37);
  REQUIRE(p.height == 23);
  bool same = true;
  for (size_t i = 0; i < canvas.pixels().size(); ++i) {
    const Rgb c = palette(canvas.pixels()[i]);
    same = same && p.rgb[3 * i] == c.r && p.rgb[3 * i + 1] == c.g && p.rgb[3 * i + 2] == c.b;
  }
  CHECK(same);
}

TEST_CASE("panels: nodes of an upright grid stand where their coordinates say, whichever way the array runs") {
  const auto value = [](double x, double y) { return x + 10 * y; };
  const int64_t h = 5, w = 3;
  for (const bool rows_to_the_right : {true, false}) {
    // x in [0,4], y in [0,2], one step apart.
    const auto at = [&](double i, double j) {
      return rows_to_the_right ? std::vector<float>{float(i), float(j)} : std::vector<float>{float(j), float(i)};
    };
    const auto g = grid_of(h, w, at, [&](double i, double j) { return rows_to_the_right ? value(i, j) : value(j, i); });
    const Panels p = draw_panels(sample_of(g.x, g.values, g.values, {h, w}), "title");
    REQUIRE(p.rows.size() == 1);
    const double right = rows_to_the_right ? 4 : 2, top = rows_to_the_right ? 2 : 4, most = value(right, top);
    for (double x = 0; x <= right; ++x)
      for (double y = 0; y <= top; ++y)
        for (const double off : {-0.45, 0.0, 0.45}) {  // the whole cell has its node's value
          CHECK(pixel(p.canvas, p.rows[0][0], -0.5, right + 0.5, -0.5, top + 0.5, x + off, y - off) ==
                sequential(value(x, y) / most));
        }
    // A perfect prediction: the same picture, no error anywhere.
    const Rect field = p.rows[0][0], prediction = p.rows[0][1];
    bool same = true;
    for (int y = 0; y < field.h; ++y)
      for (int x = 0; x < field.w; ++x)
        same = same && p.canvas.at(field.x + x, field.y + y) == p.canvas.at(prediction.x + x, prediction.y + y);
    CHECK(same);
    CHECK(count_in(p.canvas, p.rows[0][2], diverging(0)) > 1000);
    CHECK(count_in(p.canvas, p.rows[0][2], diverging(1)) == 0);
  }
}

TEST_CASE("panels: one scale for field and prediction, a symmetric one for the error") {
  const std::vector<std::vector<float>> x = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
  const FieldSample s = sample_of(x, {{0}, {1}, {4}, {8}}, {{0}, {2}, {2}, {4}}, {2, 2});  // errors 0, -1, 2, 4
  const Panels p = draw_panels(s, "");
  const auto at = [&](int panel, double u, double v) {
    return pixel(p.canvas, p.rows[0][size_t(panel)], -0.5, 1.5, -0.5, 1.5, u, v);
  };
  CHECK(at(0, 1, 1) == sequential(0.5));  // 4 of 8
  CHECK(at(1, 1, 1) == sequential(1));
  CHECK(at(0, 0, 1) == sequential(0.25));
  CHECK(at(1, 1, 0) == sequential(0.5));
  CHECK(at(2, 0, 0) == diverging(0));
  CHECK(at(2, 0, 1) == diverging(-0.25));
  CHECK(at(2, 1, 0) == diverging(0.5));
  CHECK(at(2, 1, 1) == diverging(1));

  // Values that are not finite, and fields without a range.
  const Panels nan = draw_panels(sample_of(x, {{float(kNan)}, {1}, {4}, {8}}, {{0}, {2}, {2}, {4}}, {2, 2}), "");
  CHECK(pixel(nan.canvas, nan.rows[0][1], -0.5, 1.5, -0.5, 1.5, 0, 0) == kGrey);
  CHECK(pixel(nan.canvas, nan.rows[0][2], -0.5, 1.5, -0.5, 1.5, 0, 0) == kGrey);
  CHECK(pixel(nan.canvas, nan.rows[0][1], -0.5, 1.5, -0.5, 1.5, 1, 1) == sequential(1));
  const float bad = float(kNan);
  CHECK_NOTHROW(draw_panels(sample_of(x, {{bad}, {bad}, {bad}, {bad}}, {{bad}, {bad}, {bad}, {bad}}, {2, 2}), ""));
  CHECK_NOTHROW(draw_panels(sample_of(x, {{3}, {3}, {3}, {3}}, {{3}, {3}, {3}, {3}}, {2, 2}), ""));
  CHECK_NOTHROW(draw_panels(sample_of({{0, 0}}, {{3}}, {{3}}), ""));  // one point
  CHECK_NOTHROW(draw_panels(sample_of({{0, 0}, {bad, 1}, {0, 0}}, {{3}, {2}, {1}}, {{3}, {2}, {1}}), ""));
  CHECK_NOTHROW(draw_panels(sample_of({{0}, {1}, {2}}, {{3}, {2}, {1}}, {{3}, {2}, {1}}), ""));  // on a line
  CHECK_NOTHROW(draw_panels(s, std::string(5000, 'x')));
}

TEST_CASE("panels: a row for each channel, four at most") {
  const std::vector<std::vector<float>> x = {{0, 0}, {0, 1}, {1, 0}, {1, 1}};
  for (const auto& [channels, shown] :
       {std::pair<int, std::vector<int64_t>>{1, {0}}, {3, {0, 1, 2}}, {4, {0, 1, 2, 3}}, {6, {0, 1, 3, 5}}}) {
    const std::vector<float> row(static_cast<size_t>(channels), 1);
    const Panels p = draw_panels(sample_of(x, {row, row, row, row}, {row, row, row, row}, {2, 2}), "");
    CHECK(p.channels == shown);
    CHECK(p.rows.size() == shown.size());
    CHECK(p.canvas.width() == 1200);
    CHECK(p.rows.back()[2].y + p.rows.back()[2].h < p.canvas.height());
  }
}

TEST_CASE("panels: curved meshes are interpolated, a hole in them stays empty, and a dense part is shown large") {
  const double pi = std::acos(-1.0);
  const int64_t h = 60, w = 20;
  const auto ring = [&](double outer) {
    return grid_of(
        h, w,
        [=](double i, double j) {
          const double r = 0.5 * std::pow(outer / 0.5, j / (w - 1)), angle = 2 * pi * i / (h - 1);
          return std::vector<float>{float(r * std::cos(angle)), float(r * std::sin(angle))};
        },
        [=](double, double j) { return 0.5 * std::pow(outer / 0.5, j / (w - 1)); });
  };
  const GridPoints g = ring(1);
  const Panels p = draw_panels(sample_of(g.x, g.values, g.values, {h, w}), "");
  CHECK(pixel(p.canvas, p.rows[0][0], -1, 1, -1, 1, 0, 0) == kShade);
  CHECK(pixel(p.canvas, p.rows[0][0], -1, 1, -1, 1, -0.97, 0.97) == kShade);
  for (const double r : {0.55, 0.7, 0.8, 0.95})
    CHECK(std::abs(pixel(p.canvas, p.rows[0][0], -1, 1, -1, 1, 0.6 * r, -0.8 * r) - sequential((r - 0.5) / 0.5)) <= 2);
  // Forty times wider: the picture shows the part around the hole.
  const GridPoints wide = ring(40);
  const Panels q = draw_panels(sample_of(wide.x, wide.values, wide.values, {h, w}), "");
  const int hole = count_in(q.canvas, q.rows[0][0], kShade), all = q.rows[0][0].w * q.rows[0][0].h;
  CHECK(hole > all / 3000);  // shown whole, it would take 1/8000 of the area
}

TEST_CASE("panels: clouds fill what they cover and no more; in 3-D the near hides the far") {
  Rng rng(5);
  std::vector<std::vector<float>> x, values;
  while (x.size() < 2000) {
    const auto a = static_cast<float>(2 * rng.uniform() - 1), b = static_cast<float>(2 * rng.uniform() - 1);
    if (a * a + b * b < 0.25) continue;  // a void
    x.push_back({a, b});
    values.push_back({a});
  }
  const Panels p = draw_panels(sample_of(x, values, values), "");
  const Rect box = p.rows[0][0];
  CHECK(p.canvas.at(box.x + box.w / 2, box.y + box.h / 2) == kShade);
  const double share = count_in(p.canvas, box, kShade) / double(box.w * box.h);
  CHECK(share > 0.1);
  CHECK(share < 0.3);  // the void is a fifth
  CHECK(p.canvas.at(box.x + box.w / 10, box.y + box.h / 2) < p.canvas.at(box.x + box.w * 9 / 10, box.y + box.h / 2));

  // Two sheets close above each other: of the lower one the near edge shows.
  x.clear();
  values.clear();
  for (int i = 0; i <= 40; ++i)
    for (int j = 0; j <= 20; ++j)
      for (const int side : {0, 1}) {
        x.push_back({0.1f * float(i), 0.1f * float(j), 0.2f * float(side)});
        values.push_back({float(side)});
      }
  const Panels top = draw_panels(sample_of(x, values, values), "");
  CHECK(count_in(top.canvas, top.rows[0][0], sequential(1)) > 2 * count_in(top.canvas, top.rows[0][0], sequential(0)));
}

TEST_CASE("panels: the position of a point is what dataset.json says, or a sound guess") {
  DatasetInfo info;
  CHECK(coordinate_channels(info, 2) == 2);
  CHECK(coordinate_channels(info, 5) == 3);
  info.grid = {4, 4};
  CHECK(coordinate_channels(info, 5) == 2);
  info.coordinates = 3;
  CHECK(coordinate_channels(info, 5) == 3);
  CHECK_SAYS(3, "takes 3 channels of x, which has 2", coordinate_channels(info, 2));
  const TemporaryFolder tmp;
  info = {};
  info.name = "cloud";
  const Tensor x = Tensor::zeros({1, 4, 3}, DType::f32);
  write_field_set(tmp / "old", info, {{"train", x, x}});
  CHECK(!contains(read_file(tmp / "old/dataset.json"), "coordinates"));
  CHECK(PreparedFolder(tmp / "old").info().coordinates == 0);
  info.coordinates = 2;
  write_field_set(tmp / "new", info, {{"train", x, x}});
  CHECK(PreparedFolder(tmp / "new").info().coordinates == 2);
  info.coordinates = 4;
  CHECK_SAYS(3, "coordinates is 4", write_field_set(tmp / "bad", info, {{"train", x, x}}));
  CHECK(!fs::exists(tmp / "bad"));
}

TEST_CASE("panels: training and eval leave them in the run folder; a place that cannot be written costs a warning") {
  const Scratch scratch;
  make_field_run(scratch);
  const Json test = Json::parse(read_file(scratch.file("run/eval-test.json")));
  CHECK(PreparedFolder(scratch.file("data")).info().coordinates == 2);
  REQUIRE(test["errors"].size() == 5);
  double sum = 0, least = INFINITY, most = 0;
  for (const Json& e : test["errors"]) {
    sum += e.get<double>() / 5;
    least = std::min(least, e.get<double>());
    most = std::max(most, e.get<double>());
  }
  CHECK(sum == doctest::Approx(test["relative_l2"].get<double>()).epsilon(1e-5));
  CHECK(least == doctest::Approx(test["best"]["relative_l2"].get<double>()).epsilon(1e-5));
  CHECK(test["errors"][test["worst"]["sample"].get<size_t>()].get<double>() == most);
  CHECK(test["quantiles"]["q50"].get<double>() == doctest::Approx(test["median"]["relative_l2"].get<double>()).epsilon(1e-5));
  for (const char* which : {"best", "median", "worst"}) {
    const std::string file = scratch.file(std::string("run/panels/test-") + which + ".png");
    REQUIRE(fs::exists(file));
    CHECK(fs::file_size(file) < 300 * 1024);
    CHECK(decode(read_file(file)).width == 1200);
  }
  CHECK(!fs::exists(scratch.file("run/panels/val-best.png")));
  const std::string trained = read_file(scratch.file("run/panels/test-worst.png"));
  const Outcome eval = scratch.run({"eval", "run", "--json", "--device", "cpu"});
  REQUIRE(eval.code == 0);
  CHECK(Json::parse(eval.out)["errors"] == test["errors"]);
  CHECK(read_file(scratch.file("run/panels/test-worst.png")) == trained);  // bit for bit
  REQUIRE(scratch.run({"eval", "run", "--split", "val", "--device", "cpu"}).code == 0);
  CHECK(fs::exists(scratch.file("run/panels/val-median.png")));

  // Other weights leave the run folder alone; so does no room for the pictures.
  fs::remove_all(scratch.file("run/panels"));
  REQUIRE(scratch.run({"eval", "run", "--weights", "run/checkpoints/last/model.safetensors", "--device", "cpu"}).code == 0);
  CHECK(!fs::exists(scratch.file("run/panels")));
  scratch.write("run/panels", "a file where the folder should be");
  const Outcome blocked = scratch.run({"eval", "run", "--device", "cpu"});
  CHECK(blocked.code == 0);
  CHECK(contains(blocked.err, "no picture of the best sample"));
  CHECK(contains(blocked.out, "relative_l2"));
}

TEST_CASE("panels: other tasks have none") {
  const TrainFixture f("no_panels");
  const RunFolder run = RunFolder::create(f.path + "/run", f.recipe);
  Trainer trainer(f.recipe, open_data(f.recipe), Device::cpu, true);
  trainer.attach(run);
  REQUIRE(trainer.run_steps());
  REQUIRE(trainer.test());
  CHECK(fs::exists(f.path + "/run/eval-test.json"));
  CHECK(!fs::exists(f.path + "/run/panels"));
}

TEST_CASE("panels: a real car is drawn") {
  const std::string source = data_folder("shapenet_car");
  if (source.empty()) return;
  const TemporaryFolder tmp;
  prepare_dataset("shapenet-car", source, tmp / "cars");
  const PreparedFolder folder(tmp / "cars");
  CHECK(folder.info().coordinates == 3);
  const Tensor x = read_npy(tmp / "cars/test.x.npy"), y = read_npy(tmp / "cars/test.y.npy");
  const Panels p = draw_panels(field_sample(folder.info(), x, y, y, 0, x.size(1)), "car");
  const Rect box = p.rows[0][0];
  const double empty = count_in(p.canvas, box, kShade) / double(box.w * box.h);
  CHECK(empty > 0.2);
  CHECK(empty < 0.7);
  CHECK(encode_png(p.canvas).size() < 300 * 1024);
}
