#pragma once
/// What the tests of files share: temporary folders, files made byte by byte, a disk that fills up.
#include <doctest/doctest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <limits>
#include <memory>
#include <thread>

#include "core/file.h"
#include "core/half.h"
#include "core/log.h"
#include "core/npy.h"
#include "core/rng.h"
#include "core/safetensors.h"
#include "core/sha256.h"

using namespace flare;
namespace fs = std::filesystem;

/// A folder of its own for each test, removed at the end.
struct TemporaryFolder {
  std::string path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "flare_files_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  int64_t entries() const { return std::distance(fs::directory_iterator(path), fs::directory_iterator()); }
};

inline void put(const std::string& path, std::string_view bytes) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  REQUIRE(file != nullptr);
  REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size());
}

/// The message of the DataError that `action` must throw: one line that holds `part`.
inline std::string data_error(const std::function<void()>& action, const std::string& part) {
  std::string message = "(nothing was thrown)";
  try {
    action();
  } catch (const DataError& e) {
    message = e.what();
    CHECK(e.exit_code() == 3);
  } catch (const std::exception& e) { message = cat("(not a DataError) ", e.what()); }
  CHECK_MESSAGE(message.find(part) != std::string::npos, message, " should hold: ", part);
  CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
  return message;
}

/// An exact-size heap copy, so that AddressSanitizer sees a read past the end.
inline std::vector<std::byte> as_bytes(std::string_view text) {
  std::vector<std::byte> bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}
inline std::string little_endian(uint64_t value, int size) {
  std::string out;
  for (int i = 0; i < size; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}
template <class T> inline std::string raw(std::initializer_list<T> values, bool swap = false) {
  std::string out;
  for (T v : values) {
    std::string item(reinterpret_cast<const char*>(&v), sizeof v);
    if (swap) std::reverse(item.begin(), item.end());
    out += item;
  }
  return out;
}
inline std::string npy_file(const std::string& dict, const std::string& data, int version = 1) {
  return std::string("\x93NUMPY") + static_cast<char>(version) + '\0' + little_endian(dict.size(), version == 1 ? 2 : 4) + dict +
         data;
}
inline std::string npy_file(const std::string& descr, bool fortran, const std::string& shape, const std::string& data,
                            int version = 1) {
  return npy_file(cat("{'descr': '", descr, "', 'fortran_order': ", fortran ? "True" : "False", ", 'shape': ", shape, ", }\n"),
                  data, version);
}
inline std::string safetensors_file(const std::string& header, const std::string& data) {
  return little_endian(header.size(), 8) + header + data;
}
inline Tensor npy_of(const std::string& file) { return parse_npy(as_bytes(file), "array.npy"); }
inline SafeTensors safetensors_of(const std::string& file) { return parse_safetensors(as_bytes(file), "model.safetensors"); }

inline bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.numel() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}
inline Tensor sample(const Shape& shape, DType dtype, uint64_t seed) {
  Rng rng(seed);
  const Tensor t = Tensor::empty(shape, dtype);
  for (int64_t i = 0; i < t.bytes(); ++i) static_cast<uint8_t*>(t.raw())[i] = static_cast<uint8_t>(rng.below(256));  // NaN included
  return t;
}
inline const std::vector<DType> kDTypes = {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8};
inline const std::vector<Shape> kShapes = {{}, {1}, {5}, {2, 3}, {0}, {3, 0, 2}, {2, 1, 3, 1, 2, 2}};

/// While it lives, files of this process cannot grow beyond `bytes`: a disk that fills up, for ordinary users too.
struct FileSizeLimit {
  rlimit before{};
  void (*handler)(int);
  explicit FileSizeLimit(rlim_t bytes) : handler(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before);
    ::signal(SIGXFSZ, handler);
  }
};
