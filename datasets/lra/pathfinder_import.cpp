#include <png.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <map>
#include <unordered_map>

#include "core/check.h"
#include "core/file.h"
#include "core/job.h"
#include "core/parallel.h"
#include "core/sha256.h"
#include "datasets/lra/pathfinder.h"
#include "datasets/lra/pathfinder_write.h"

namespace flare {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kLargestSide = 256, kLargestFile = int64_t{1} << 20;
constexpr int64_t kEmptyFiles = 1;  // the release of 32x32 has one

struct Listed {
  std::string path, where;  // of the picture; file and line that list it
  uint8_t label = 0;
};
struct Picture {
  std::vector<uint8_t> pixels;  // none: the file is empty
  int64_t side = 0;
  std::string hash;
};

/// DIR/metadata/0.npy, 1.npy, ... in the order of their numbers.
std::vector<std::string> metadata_files(const std::string& dir) {
  std::map<int64_t, std::string> files;
  for (const fs::directory_entry& entry : fs::directory_iterator(dir)) {
    const std::string name = entry.path().filename().string();
    int64_t number = 0;
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
    check<DataError>(error == std::errc{} && std::string_view(end, static_cast<size_t>(name.data() + name.size() - end)) == ".npy",
                     dir, "/", name, ": is no list of pictures: expected files NUMBER.npy");
    files.emplace(number, dir + "/" + name);
  }
  std::vector<std::string> out;
  for (auto& [number, path] : files) out.push_back(std::move(path));
  return out;
}

std::vector<std::string_view> words_of(std::string_view line) {
  std::vector<std::string_view> out;
  for (size_t i = 0; i < line.size();) {
    const size_t end = std::min(line.find(' ', i), line.size());
    if (end > i) out.push_back(line.substr(i, end - i));
    i = end + 1;
  }
  return out;
}

/// Lines "imgs/3 sample_17.png 17 1 ...": folder, file, number, label, and the generator's parameters.
void read_list(const std::string& root, const std::string& path, std::map<std::string, std::string>& seen,
               std::vector<Listed>& out) {
  const std::string text = read_file(path);
  check<DataError>(!text.starts_with("\x93NUMPY"), path,
                   ": is a NumPy array; the lists of the Long Range Arena release are lines of text");
  check<DataError>(!text.empty() && text.back() == '\n', path, ": truncated: its last line has no end");
  int64_t n_lines = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t end = text.find('\n', i);
    const std::string where = cat(path, ":", ++n_lines);
    const std::vector<std::string_view> words = words_of(std::string_view(text).substr(i, end - i));
    check<DataError>(words.size() >= 4, where, ": has ", words.size(),
                     " columns, expected folder, file, number, label; is the file truncated?");
    check<DataError>(words[3] == "0" || words[3] == "1", where, ": mislabelled: ", quoted(words[3], 20), " is neither 0 nor 1");
    Listed item{cat(root, "/", words[0], "/", words[1]), where, static_cast<uint8_t>(words[3] == "1")};
    check<DataError>(item.path.find("/../") == std::string::npos, where, ": leads out of the folder");
    const auto [place, is_new] = seen.emplace(item.path, where);
    check<DataError>(is_new, where, ": duplicated: ", words[0], "/", words[1], " is listed at ", place->second, " too");
    out.push_back(std::move(item));
    i = end + 1;
  }
}

Picture read_png(const std::string& path) {
  std::error_code error;
  const auto size = fs::file_size(path, error);
  check<DataError>(!error, path, ": ", error.message());
  if (size == 0) return {};
  check<DataError>(static_cast<int64_t>(size) <= kLargestFile, path, ": oversized: has ", size, " bytes, more than ", kLargestFile);
  const std::string bytes = read_file(path);
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  const struct Guard {
    png_image& image;
    ~Guard() { png_image_free(&image); }
  } guard{image};
  check<DataError>(png_image_begin_read_from_memory(&image, bytes.data(), bytes.size()), path,
                   ": is no PNG picture: ", image.message);
  check<DataError>(image.format == PNG_FORMAT_GRAY, path, ": is no picture of 8-bit grey values");
  const int64_t side = image.width;
  check<DataError>(image.width == image.height && side <= kLargestSide, path, ": oversized or not square: is ", image.width, " x ",
                   image.height, " pixels, expected equal sides of at most ", kLargestSide);
  Picture picture;
  picture.side = side;
  picture.pixels.resize(static_cast<size_t>(side * side));
  const bool complete = png_image_finish_read(&image, nullptr, picture.pixels.data(), 0, nullptr) != 0 && !PNG_IMAGE_FAILED(image);
  check<DataError>(complete, path, ": truncated or damaged: ", image.message);
  picture.hash = sha256_hex({reinterpret_cast<const char*>(picture.pixels.data()), picture.pixels.size()});
  return picture;
}

std::vector<Picture> read_pictures(const std::vector<Listed>& listed) {
  const int64_t n = static_cast<int64_t>(listed.size());
  constexpr int64_t kChunk = 64;
  std::vector<Picture> pictures(listed.size());
  std::vector<std::string> problems(static_cast<size_t>((n + kChunk - 1) / kChunk));
  Job job("pathfinder", n, "pictures");
  parallel_for(n, kChunk, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const JobItem one(job);
      const Listed& item = listed[static_cast<size_t>(i)];
      try {
        check<DataError>(file_exists(item.path), item.path, ": not found; ", item.where, " lists it");
        pictures[static_cast<size_t>(i)] = read_png(item.path);
      } catch (const DataError& e) {
        problems[static_cast<size_t>(begin / kChunk)] = e.what();
        return;
      }
    }
  });
  for (const std::string& problem : problems) check<DataError>(problem.empty(), problem);
  return pictures;
}

}  // namespace

void import_pathfinder(const std::string& source_dir, const std::string& out_dir) {
  std::string root = source_dir;
  if (directory_exists(root + "/curv_contour_length_14")) root += "/curv_contour_length_14";
  check<DataError>(
      directory_exists(root + "/metadata") && directory_exists(root + "/imgs"), root,
      ": not found: ", directory_exists(root + "/metadata") ? "imgs" : "metadata",
      "; needed are metadata/*.npy (200 lists) and imgs/*/sample_*.png (1000 each) of pathfinder32/curv_contour_length_14 or its "
      "like, from lra_release.gz (about 8 GB) of github.com/google-research/long-range-arena");
  std::vector<Listed> listed;
  std::map<std::string, std::string> seen;
  for (const std::string& path : metadata_files(root + "/metadata")) read_list(root, path, seen, listed);
  std::vector<Picture> pictures = read_pictures(listed);

  int64_t n_empty = 0, side = 0;
  std::unordered_map<std::string, size_t> hashes;
  std::vector<size_t> kept;
  for (size_t i = 0; i < pictures.size(); ++i) {
    const Picture& p = pictures[i];
    if (p.pixels.empty()) {
      check<DataError>(++n_empty <= kEmptyFiles, listed[i].path,
                       ": truncated: is empty (one empty file is known and left out, this is the next)");
      continue;
    }
    if (side == 0) side = p.side;
    check<DataError>(p.side == side, listed[i].path, ": has sides of ", p.side, " pixels, the pictures before it ", side);
    const auto [place, is_new] = hashes.emplace(p.hash, i);
    check<DataError>(is_new, listed[i].path, ": duplicated: it shows the same as ", listed[place->second].path);
    kept.push_back(i);
  }
  const size_t n = kept.size(), n_val = n / 10, n_train = n * 8 / 10;
  check<DataError>(n_val > 0, root, ": lists ", n, " pictures, too few for three splits");
  DatasetInfo info = pathfinder_info(side);
  info.source = cat("imported from metadata/*.npy and the PNG files they list (", fs::path(root).filename().string(), "), ",
                    n_empty, " empty file left out; splits 80/10/10 % in that order");
  info.licence = "Apache-2.0 (google-research/long-range-arena)";
  PreparedWriter writer(out_dir, info);
  const auto add = [&](const std::string& split, size_t first, size_t count) {
    const Tensor tokens = Tensor::empty({static_cast<int64_t>(count), side * side}, DType::u8);
    std::vector<uint8_t> labels;
    for (size_t i = 0; i < count; ++i) {
      const std::vector<uint8_t>& pixels = pictures[kept[first + i]].pixels;
      std::memcpy(tokens.data<uint8_t>() + i * pixels.size(), pixels.data(), pixels.size());
      labels.push_back(listed[kept[first + i]].label);
    }
    writer.add(split, "tokens", tokens);
    writer.add(split, "labels", Tensor::from(labels, {static_cast<int64_t>(count)}));
  };
  add("train", 0, n_train);
  add("val", n_train, n_val);
  add("test", n_train + n_val, n - n_train - n_val);
  writer.commit();
}

}  // namespace flare
