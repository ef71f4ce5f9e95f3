#include "datasets/lra/bytes.h"

#include <algorithm>
#include <filesystem>

#include "core/check.h"
#include "core/file.h"

namespace flare {

void add_texts(PreparedWriter& writer, const std::string& split, const std::string& field, std::span<const std::string_view> texts,
               int64_t max_length) {
  const int64_t n = static_cast<int64_t>(texts.size());
  const Tensor offsets = Tensor::zeros({n + 1}, DType::i64);
  int64_t* offset = offsets.data<int64_t>();
  for (int64_t i = 0; i < n; ++i)
    offset[i + 1] = offset[i] + std::min(max_length, static_cast<int64_t>(texts[static_cast<size_t>(i)].size()));
  const Tensor tokens = Tensor::empty({offset[n]}, DType::u8);  // byte 255 is no text, so byte + 1 fits
  for (int64_t i = 0; i < n; ++i) {
    const std::string_view text = texts[static_cast<size_t>(i)].substr(0, static_cast<size_t>(max_length));
    std::transform(text.begin(), text.end(), tokens.data<uint8_t>() + offset[i],
                   [](char c) { return static_cast<uint8_t>(static_cast<uint8_t>(c) + 1); });
  }
  writer.add_ragged(split, field, tokens, offsets);
}

std::string text_problem(std::string_view text) {
  if (text.empty()) return "is empty; is the file truncated?";
  const auto bad = std::find_if(text.begin(), text.end(), [](char c) { return c == '\0' || c == '\xff'; });
  if (bad == text.end()) return "";
  return cat("holds the byte ", static_cast<int>(static_cast<uint8_t>(*bad)), " at position ", bad - text.begin(),
             ", so it is not text");
}

std::string read_text(const std::string& path, int64_t limit) {
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  check<DataError>(!error, path, ": ", error.message());
  check<DataError>(static_cast<int64_t>(size) <= limit, path, ": has ", size, " bytes, more than the ", limit, " allowed");
  std::string text = read_file(path);
  const std::string problem = text_problem(text);
  check<DataError>(problem.empty(), path, ": ", problem);
  return text;
}

}  // namespace flare
