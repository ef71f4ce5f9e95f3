#pragma once
/// What the tests of prepared folders and of the loader share: one small data set, and ways to damage it.
#include <fstream>
#include <string>

#include "datasets/prepared.h"
#include "tests/file_fixtures.h"

template <class F> inline std::string message_of(F&& f, int exit_code) {
  try {
    f();
  } catch (const Error& e) {
    CHECK(e.exit_code() == exit_code);
    return e.what();
  }
  return "no error";
}
#define CHECK_SAYS(code, text, ...)                                  \
  do {                                                               \
    const std::string says = message_of([&] { __VA_ARGS__; }, code); \
    CHECK_MESSAGE(says.find(text) != std::string::npos, says);       \
  } while (0)

inline DatasetInfo small_info() {
  DatasetInfo info;
  info.name = "small";
  info.kind = "sequence_classification";
  info.vocabulary = 100;
  info.n_classes = 4;
  info.max_length = 12;
  info.tokens = {"<pad>", "a"};
  info.normalisation["x"] = {{0.5, -1}, {2, 3}};
  info.source = "a test";
  info.licence = "MIT";
  info.citation = "nobody";
  return info;
}

constexpr int64_t kSamples = 23;
inline int64_t length_of(int64_t i) { return 1 + i * 7 % 11; }
inline uint8_t token_of(int64_t i, int64_t n) { return static_cast<uint8_t>(1 + (i * 5 + n * 3) % 99); }

/// Ragged tokens and their labels, 23 samples of 1..11 tokens in split train and 3 in split test; sample i has label i % 4.
inline void write_small(const std::string& dir, DatasetInfo info = small_info()) {
  PreparedWriter writer(dir, std::move(info));
  for (const auto& [split, count] : {std::pair("train", kSamples), std::pair("test", int64_t{3})}) {
    std::vector<uint8_t> values;
    std::vector<int64_t> offsets = {0};
    std::vector<int32_t> labels;
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t n = 0; n < length_of(i); ++n) values.push_back(token_of(i, n));
      offsets.push_back(static_cast<int64_t>(values.size()));
      labels.push_back(static_cast<int32_t>(i % 4));
    }
    writer.add_ragged(split, "tokens", Tensor::from(values, {static_cast<int64_t>(values.size())}),
                      Tensor::from(offsets, {count + 1}));
    writer.add(split, "labels", Tensor::from(labels, {count}));
  }
  writer.commit();
}

/// Overwrites bytes of a file at an offset counted from its end.
inline void poke(const std::string& path, int64_t from_end, const void* bytes, size_t n) {
  std::fstream f(path, std::ios::in | std::ios::out | std::ios::binary);
  REQUIRE(f);
  f.seekp(-from_end, std::ios::end);
  f.write(static_cast<const char*>(bytes), static_cast<std::streamsize>(n));
}
