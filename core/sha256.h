#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace flare {

/// SHA-256 of a byte stream fed in pieces. Source: FIPS 180-4, section 6.2.
class Sha256 {
 public:
  void update(const void* data, size_t n);
  /// The digest as 64 lower-case hexadecimal digits; ends the stream.
  std::string hex();

 private:
  void compress(const uint8_t* block);
  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> block_{};
  uint64_t length_ = 0;  // bytes so far
};
std::string sha256_hex(std::string_view bytes);

}  // namespace flare
