#include "tools/fields/canvas.h"

#include <png.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "core/check.h"
#include "tools/fields/font.h"

namespace flare {
namespace {

constexpr int kPlain = 4, kSteps = 126;  // entries of the palette: plain colours, and of each map
static_assert(kPlain + 2 * kSteps == 256);
constexpr int kTextScale = 2;

/// sRGB of a colour in OKLab's cylinder: lightness 0 to 1, chroma, hue in degrees.
Rgb from_oklch(double lightness, double chroma, double hue) {
  const double a = chroma * std::cos(hue * std::numbers::pi / 180), b = chroma * std::sin(hue * std::numbers::pi / 180);
  const auto cube = [](double v) { return v * v * v; };
  const double l = cube(lightness + 0.3963377774 * a + 0.2158037573 * b), m = cube(lightness - 0.1055613458 * a - 0.0638541728 * b),
               s = cube(lightness - 0.0894841775 * a - 1.2914855480 * b);
  const auto byte = [](double linear) {
    const double v = std::clamp(linear, 0.0, 1.0);
    return static_cast<uint8_t>(std::lround(255 * (v <= 0.0031308 ? 12.92 * v : 1.055 * std::pow(v, 1 / 2.4) - 0.055)));
  };
  return {byte(4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s),
          byte(-1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s),
          byte(-0.0041960863 * l - 0.7034186147 * m + 1.7076147010 * s)};
}

// The chroma stays within what sRGB can show along the way.
Rgb sequential_colour(double t) {
  const double end = (2 * t - 1) * (2 * t - 1);
  return from_oklch(0.27 + 0.65 * t, 0.095 + (t < 0.5 ? 0.045 : 0.085) * end, 300 - 192 * t);
}
Rgb diverging_colour(double t) {
  const double u = std::abs(t);
  return from_oklch(0.97 - 0.52 * u, 0.145 * std::sin(std::numbers::pi / 2 * std::min(1.0, 1.3 * u)), t < 0 ? 255 : 30);
}

const std::array<Rgb, 256>& palette_table() {
  static const std::array<Rgb, 256> table = [] {
    std::array<Rgb, 256> t{Rgb{255, 255, 255}, Rgb{27, 31, 36}, Rgb{105, 112, 120}, Rgb{222, 226, 230}};
    for (int i = 0; i < kSteps; ++i) {
      const double at = static_cast<double>(i) / (kSteps - 1);
      t[static_cast<size_t>(kPlain + i)] = sequential_colour(at);
      t[static_cast<size_t>(kPlain + kSteps + i)] = diverging_colour(2 * at - 1);
    }
    return t;
  }();
  return table;
}

Ink step_of(double t, int first) {
  if (std::isnan(t)) return kGrey;
  return static_cast<Ink>(first + static_cast<int>(std::lround(std::clamp(t, 0.0, 1.0) * (kSteps - 1))));
}

}  // namespace

Rgb palette(Ink ink) { return palette_table()[ink]; }
Ink sequential(double t) { return step_of(t, kPlain); }
Ink diverging(double t) { return step_of((t + 1) / 2, kPlain + kSteps); }

void Canvas::fill(const Rect& r, Ink ink) {
  for (int y = r.y; y < r.y + r.h; ++y)
    for (int x = r.x; x < r.x + r.w; ++x) set(x, y, ink);
}

int Canvas::text_width(const std::string& line) {
  return line.empty() ? 0 : kTextScale * (static_cast<int>(line.size()) * (kGlyphWidth + 1) - 1);
}

void Canvas::text(int x, int y, const std::string& line, Ink ink) {
  for (const char c : line) {
    const Glyph& glyph = glyph_of(c);
    for (int row = 0; row < kGlyphRows; ++row)
      for (int column = 0; column < kGlyphWidth; ++column)
        if (glyph[static_cast<size_t>(row)] >> (kGlyphWidth - 1 - column) & 1)
          fill({x + kTextScale * column, y + kTextScale * row, kTextScale, kTextScale}, ink);
    x += kTextScale * (kGlyphWidth + 1);
  }
}

std::string encode_png(const Canvas& canvas) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(canvas.width());
  image.height = static_cast<png_uint_32>(canvas.height());
  image.format = PNG_FORMAT_RGB_COLORMAP;
  image.colormap_entries = 256;
  std::array<uint8_t, 3 * 256> colours{};
  for (size_t i = 0; i < 256; ++i) {
    const Rgb c = palette(static_cast<Ink>(i));
    colours[3 * i] = c.r, colours[3 * i + 1] = c.g, colours[3 * i + 2] = c.b;
  }
  std::string bytes(PNG_IMAGE_PNG_SIZE_MAX(image), '\0');
  png_alloc_size_t size = bytes.size();
  const bool done =
      png_image_write_to_memory(&image, bytes.data(), &size, 0, canvas.pixels().data(), canvas.width(), colours.data()) != 0;
  const std::string problem = image.message;
  png_image_free(&image);
  check(done, "png: ", problem);
  bytes.resize(size);
  return bytes;
}

}  // namespace flare
