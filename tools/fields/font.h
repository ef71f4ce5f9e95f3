#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

namespace flare {

inline constexpr int kGlyphWidth = 5, kGlyphRows = 8;  // seven rows and one for descenders
/// Rows from the top, five bits each, the leftmost the highest.
using Glyph = std::array<uint8_t, kGlyphRows>;
/// The letterform of a printable ASCII character; that of '?' for any other.
const Glyph& glyph_of(char c);

}  // namespace flare
