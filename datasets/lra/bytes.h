#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "datasets/prepared.h"

namespace flare {

// Text as a sequence of bytes, as Long Range Arena has it: token = byte + 1, and 0 is padding.

inline constexpr int64_t kByteVocabulary = 257;

/// Adds a token field of one split, every text cut to max_length bytes.
void add_texts(PreparedWriter& writer, const std::string& split, const std::string& field, std::span<const std::string_view> texts,
               int64_t max_length);
/// What makes bytes unfit to be a text: "is empty", or the position of a byte (0 or 255) that no text holds; "" if nothing.
std::string text_problem(std::string_view text);
/// Reads a whole text file. DataError naming it when it is larger than `limit` bytes or text_problem finds something.
std::string read_text(const std::string& path, int64_t limit);

}  // namespace flare
