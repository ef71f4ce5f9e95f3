#pragma once
/// Small files in the official formats of Long Range Arena's sources, for the tests of importers and of training.
#include <png.h>

#include <array>
#include <string>
#include <vector>

#include "core/rng.h"
#include "tests/dataset_fixtures.h"

inline void write_bytes(const std::string& path, const std::string& text) {
  fs::create_directories(fs::path(path).parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

/// Text of some words, the seed its own.
inline std::string words(uint64_t seed, int n) {
  static const char* const kWords[] = {"token", "latent", "route",  "mixer", "head",       "the",
                                       "of",    "wide",   "narrow", "and",   "caf\xc3\xa9"};
  Rng rng(seed, 77);
  std::string out;
  for (int i = 0; i < n; ++i) out += std::string(i ? " " : "") + kWords[rng.below(std::size(kWords))];
  return out + " " + std::to_string(seed);
}

/// aclImdb with `n` reviews in each folder; positive ones say so.
inline void write_imdb(const std::string& dir, int n) {
  for (const char* split : {"train", "test"})
    for (const int label : {0, 1})
      for (int i = 0; i < n; ++i)
        write_bytes(
            cat(dir, "/aclImdb/", split, label ? "/pos/" : "/neg/", i, "_", label ? 7 + i % 4 : 1 + i % 4, ".txt"),
            cat(label ? "good " : "bad ", words(static_cast<uint64_t>(i + label * 1000 + (split[1] == 'r') * 2000), 3 + i % 9)));
}

/// Binary CIFAR-10 with `per_batch` records a file, classes in turn; a picture of class k is bright in row 3k.
inline std::string cifar_batch(int per_batch, uint64_t seed) {
  std::string out;
  Rng rng(seed, 78);
  for (int i = 0; i < per_batch; ++i) {
    const int label = i % 10;
    out += static_cast<char>(label);
    for (int p = 0; p < 3072; ++p) out += static_cast<char>(p % 1024 / 32 == 3 * label ? 255 : rng.below(100));
  }
  return out;
}
inline void write_cifar(const std::string& dir, int per_batch) {
  for (int b = 1; b <= 5; ++b) write_bytes(cat(dir, "/data_batch_", b, ".bin"), cifar_batch(per_batch, static_cast<uint64_t>(b)));
  write_bytes(dir + "/test_batch.bin", cifar_batch(per_batch, 6));
}

/// The three AAN files: pairs about one subject cite each other.
inline std::string aan_lines(const std::string& split, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) {
    const bool cites = i % 2;
    const auto text = [&](int k) {
      return cat(k % 2 ? "parsing " : "speech ", words(static_cast<uint64_t>(i * 2 + k), 4 + i % 5));
    };
    out += cat(cites ? "1.0" : "0.0", "\t", split, i, "-A\t", split, i, "-B\t", text(0), "\t", text(cites ? 2 : 1), "\n");
  }
  return out;
}
inline void write_aan(const std::string& dir, int n) {
  for (const char* split : {"train", "eval", "test"}) write_bytes(cat(dir, "/new_aan_pairs.", split, ".tsv"), aan_lines(split, n));
}

/// A grey PNG of 8 bits a pixel.
inline void write_grey_png(const std::string& path, int width, int height, const std::vector<uint8_t>& pixels) {
  fs::create_directories(fs::path(path).parent_path());
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(width);
  image.height = static_cast<png_uint_32>(height);
  image.format = PNG_FORMAT_GRAY;
  REQUIRE(png_image_write_to_file(&image, path.c_str(), 0, pixels.data(), 0, nullptr));
}
/// One level of the Pathfinder release: two lists of `n` pictures each.
inline void write_pathfinder(const std::string& dir, int n, int side = 32) {
  for (const int list : {0, 1}) {
    std::string lines;
    for (int i = 0; i < n; ++i) {
      std::vector<uint8_t> pixels(static_cast<size_t>(side * side), 0);
      for (size_t p = 0; p < pixels.size(); ++p)
        pixels[p] = static_cast<uint8_t>((p * 7 + static_cast<size_t>(i + list * n) * 13) % 251);
      write_grey_png(cat(dir, "/imgs/", list, "/sample_", i, ".png"), side, side, pixels);
      lines += cat("imgs/", list, " sample_", i, ".png ", i, " ", i % 2, " 1.0 14 4 2 0.5 1 1\n");
    }
    write_bytes(cat(dir, "/metadata/", list, ".npy"), lines);
  }
}
