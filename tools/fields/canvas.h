#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace flare {

/// A pixel is an entry of one fixed palette of 256: four plain colours, then two colour maps.
using Ink = uint8_t;
inline constexpr Ink kPaper = 0, kBlack = 1, kGrey = 2, kShade = 3;  // kShade: behind a field, where it has no points
struct Rgb {
  uint8_t r = 0, g = 0, b = 0;
};
Rgb palette(Ink ink);

/// Dark violet at t = 0 over blue and green to yellow at 1: lightness rises linearly (in OKLab, B. Ottosson 2020), so that equal
/// steps look equal, in grey too. t is clamped; kGrey for NaN.
Ink sequential(double t);
/// Blue at t = -1, white at 0, red at 1, symmetric in lightness; clamped, kGrey for NaN.
Ink diverging(double t);

struct Rect {
  int x = 0, y = 0, w = 0, h = 0;
};

/// A picture of w x h pixels, (0,0) at the top left. What falls outside is cut off.
class Canvas {
 public:
  Canvas(int w, int h) : w_(w), h_(h), pixels_(static_cast<size_t>(w) * static_cast<size_t>(h), kPaper) {}
  int width() const { return w_; }
  int height() const { return h_; }
  Ink at(int x, int y) const { return pixels_[static_cast<size_t>(y) * static_cast<size_t>(w_) + static_cast<size_t>(x)]; }
  void set(int x, int y, Ink ink) {
    if (x >= 0 && x < w_ && y >= 0 && y < h_)
      pixels_[static_cast<size_t>(y) * static_cast<size_t>(w_) + static_cast<size_t>(x)] = ink;
  }
  void fill(const Rect& r, Ink ink);
  /// A line of text whose capitals are kTextHeight high, with its top left at (x, y). ASCII; anything else becomes '?'.
  void text(int x, int y, const std::string& line, Ink ink = kBlack);
  static int text_width(const std::string& line);
  static constexpr int kTextHeight = 14;
  const std::vector<Ink>& pixels() const { return pixels_; }

 private:
  int w_, h_;
  std::vector<Ink> pixels_;
};

/// The picture as a PNG file with a palette.
std::string encode_png(const Canvas& canvas);

}  // namespace flare
