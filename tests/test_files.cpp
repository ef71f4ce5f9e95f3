// Files, .npy, safetensors, SHA-256 and the log: round trips, hostile input, failing disks, kills.
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

namespace {

/// A folder of its own for each test, removed at the end.
struct TemporaryFolder {
  std::string path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "flare_files_XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() { std::error_code ignored; fs::remove_all(path, ignored); }
  std::string operator/(const std::string& name) const { return path + "/" + name; }
  int64_t entries() const { return std::distance(fs::directory_iterator(path), fs::directory_iterator()); }
};

void put(const std::string& path, std::string_view bytes) {
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "wb"), std::fclose);
  REQUIRE(file != nullptr);
  REQUIRE(std::fwrite(bytes.data(), 1, bytes.size(), file.get()) == bytes.size());
}

/// The message of the DataError that `action` must throw: one line that holds `part`.
std::string data_error(const std::function<void()>& action, const std::string& part) {
  std::string message = "(nothing was thrown)";
  try {
    action();
  } catch (const DataError& e) {
    message = e.what();
    CHECK(e.exit_code() == 3);
  } catch (const std::exception& e) {
    message = cat("(not a DataError) ", e.what());
  }
  CHECK_MESSAGE(message.find(part) != std::string::npos, message, " should hold: ", part);
  CHECK_MESSAGE(message.find('\n') == std::string::npos, message);
  return message;
}

/// An exact-size heap copy, so that AddressSanitizer sees a read past the end.
std::vector<std::byte> as_bytes(std::string_view text) {
  std::vector<std::byte> bytes(text.size());
  if (!text.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}
std::string little_endian(uint64_t value, int size) {
  std::string out;
  for (int i = 0; i < size; ++i) out += static_cast<char>(value >> (8 * i));
  return out;
}
template <class T> std::string raw(std::initializer_list<T> values, bool swap = false) {
  std::string out;
  for (T v : values) {
    std::string item(reinterpret_cast<const char*>(&v), sizeof v);
    if (swap) std::reverse(item.begin(), item.end());
    out += item;
  }
  return out;
}
std::string npy_file(const std::string& dict, const std::string& data, int version = 1) {
  return std::string("\x93NUMPY") + static_cast<char>(version) + '\0' + little_endian(dict.size(), version == 1 ? 2 : 4) + dict +
         data;
}
std::string npy_file(const std::string& descr, bool fortran, const std::string& shape, const std::string& data, int version = 1) {
  return npy_file(cat("{'descr': '", descr, "', 'fortran_order': ", fortran ? "True" : "False", ", 'shape': ", shape, ", }\n"),
                  data, version);
}
std::string safetensors_file(const std::string& header, const std::string& data) {
  return little_endian(header.size(), 8) + header + data;
}
Tensor npy_of(const std::string& file) { return parse_npy(as_bytes(file), "array.npy"); }
SafeTensors safetensors_of(const std::string& file) { return parse_safetensors(as_bytes(file), "model.safetensors"); }

bool same(const Tensor& a, const Tensor& b) {
  return a.dtype() == b.dtype() && a.shape() == b.shape() &&
         (a.numel() == 0 || std::memcmp(a.raw(), b.raw(), static_cast<size_t>(a.bytes())) == 0);
}
Tensor sample(const Shape& shape, DType dtype, uint64_t seed) {
  Rng rng(seed);
  const Tensor t = Tensor::empty(shape, dtype);
  for (int64_t i = 0; i < t.bytes(); ++i) static_cast<uint8_t*>(t.raw())[i] = static_cast<uint8_t>(rng.below(256));  // NaN included
  return t;
}
const std::vector<DType> kDTypes = {DType::f64, DType::f32, DType::bf16, DType::i64, DType::i32, DType::u8};
const std::vector<Shape> kShapes = {{}, {1}, {5}, {2, 3}, {0}, {3, 0, 2}, {2, 1, 3, 1, 2, 2}};

/// While it lives, files of this process cannot grow beyond `bytes`: a disk that fills up, for ordinary users too.
struct FileSizeLimit {
  rlimit before{};
  void (*handler)(int);
  explicit FileSizeLimit(rlim_t bytes) : handler(::signal(SIGXFSZ, SIG_IGN)) {
    ::getrlimit(RLIMIT_FSIZE, &before);
    const rlimit limit{bytes, before.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() { ::setrlimit(RLIMIT_FSIZE, &before); ::signal(SIGXFSZ, handler); }
};

}  // namespace

TEST_CASE("sha256 of the published examples, and independent of how the bytes are fed") {
  CHECK(sha256_hex("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256_hex("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  CHECK(sha256_hex("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  const std::string million(1'000'000, 'a');
  CHECK(sha256_hex(million) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  Sha256 pieces;
  for (size_t at = 0, step = 1; at < million.size(); at += step, step = step % 200 + 1) {
    step = std::min(step, million.size() - at);
    pieces.update(million.data() + at, step);
  }
  CHECK(pieces.hex() == sha256_hex(million));
  const TemporaryFolder folder;
  put(folder / "a", million);
  CHECK(sha256_of_file(folder / "a") == sha256_hex(million));
}

TEST_CASE("files are read whole or refused with a reason") {
  const TemporaryFolder folder;
  const std::string content = "line\n\0binary\xff";
  put(folder / "a", content);
  put(folder / "empty", "");
  CHECK(read_file(folder / "a") == content);
  CHECK(read_file(folder / "empty").empty());
  CHECK(MappedFile(folder / "empty").size() == 0);
  MappedFile mapped(folder / "a"), moved(std::move(mapped));
  CHECK(mapped.data() == nullptr);
  CHECK(moved.size() == content.size());
  CHECK(std::memcmp(moved.data(), content.data(), content.size()) == 0);
  data_error([&] { read_file(folder / "absent"); }, (folder / "absent") + ": cannot read: No such file");
  data_error([&] { MappedFile(folder.path); }, "is a folder");
  data_error([&] { MappedFile("/dev/null"); }, "is not a regular file");
  data_error([&] { sha256_of_file(folder / "a/b"); }, "a part of the path is a file");
  data_error([&] { make_directories(folder / "a"); }, "a file of this name exists");
  make_directories(folder / "x/y/z/");
  make_directories(folder / "x/y/z");
  CHECK(directory_exists(folder / "x/y/z"));
  CHECK(quoted("a\"b\n\x80") == R"("a\"b\x0a\x80")");
  CHECK(quoted("abcdef", 3) == "\"abc...\"");
}

TEST_CASE("an atomic write replaces the file whole, or leaves the old one and no trace") {
  const TemporaryFolder folder;
  const std::string path = folder / "f", large(3'000'000, 'x');
  write_file_atomically(path, "old");
  CHECK(read_file(path) == "old");
  write_file_atomically(path, large);
  CHECK(read_file(path) == large);
  write_file_atomically(path, "");
  CHECK(read_file(path).empty());
  write_file_atomically(path, "old");
  SUBCASE("never committed") {
    { AtomicFile file(path); file.write(large); CHECK(folder.entries() == 2); }
  }
  SUBCASE("the disk is full during write") {
    const FileSizeLimit limit(100'000);
    data_error([&] { write_file_atomically(path, large); },
               path + ": cannot write: File too large; the file is larger than allowed");
  }
  SUBCASE("the disk is full at the last flush, and no later call revives the file") {
    const FileSizeLimit limit(1000);
    AtomicFile file(path);
    file.write(std::string(2000, 'y'));
    data_error([&] { file.commit(); }, "cannot write");
    data_error([&] { file.commit(); }, "committed twice, or after a failure");
    data_error([&] { file.write("z"); }, "after it was committed or failed");
  }
  SUBCASE("the disk is full for .npy and safetensors") {
    const FileSizeLimit limit(1000);
    const Tensor t = Tensor::zeros({1000}, DType::f32);
    data_error([&] { write_npy(path, t); }, "cannot write");
    data_error([&] { write_safetensors(path, {{"t", t}}); }, "cannot write");
  }
  CHECK(read_file(path) == "old");
  CHECK(folder.entries() == 1);
}

TEST_CASE("an atomic write refuses what a rename would destroy, and follows links") {
  const TemporaryFolder folder;
  data_error([] { write_file_atomically("/dev/null", "x"); }, "is not a regular file");
  data_error([&] { write_file_atomically(folder.path, "x"); }, "is a folder");
  data_error([&] { write_file_atomically(folder / "absent/f", "x"); }, "No such file or directory; check the path");
  data_error([&] { write_file_atomically("", "x"); }, "is not a file name");
  put(folder / "target", "old");
  fs::create_symlink("target", folder / "link");
  write_file_atomically(folder / "link", "new");
  CHECK(read_file(folder / "target") == "new");
  CHECK(fs::is_symlink(folder / "link"));
  const std::string long_name = folder / std::string(250, 'n');
  write_file_atomically(long_name, "fits");
  CHECK(read_file(long_name) == "fits");
  if (::geteuid() != 0) {  // the superuser may write anywhere
    make_directories(folder / "closed");
    REQUIRE(::chmod((folder / "closed").c_str(), 0555) == 0);
    data_error([&] { write_file_atomically(folder / "closed/f", "x"); }, "check the permissions");
  }
}

TEST_CASE("buffered writes keep their order, and written bytes can be rewritten") {
  const TemporaryFolder folder;
  std::string expected(8, '?');
  AtomicFile file(folder / "f");
  file.write(expected);
  for (size_t n : {1u, 1000u, 1048575u, 7u, 1048576u, 1048577u, 3u}) {
    const std::string piece(n, static_cast<char>('a' + n % 26));
    file.write(piece);
    expected += piece;
  }
  data_error([&] { file.rewrite(static_cast<int64_t>(expected.size()) - 1, "ab", 2); }, "not written");
  file.rewrite(0, "HEADER..", 8);
  file.write("tail");
  file.commit();
  CHECK((read_file(folder / "f") == "HEADER.." + expected.substr(8) + "tail"));
}

namespace {
void make_folder(const std::string& path, const std::string& content) {
  make_directories(path + "/sub");
  for (const char* name : {"/a", "/b", "/sub/c"}) put(path + name, content);
}
/// The content all files of a folder agree on; "" if one is missing or differs.
std::string content_of(const std::string& path) {
  std::string content;
  for (const char* name : {"/a", "/b", "/sub/c"}) {
    if (!file_exists(path + name)) return "";
    const std::string piece = read_file(path + name);
    if (!content.empty() && piece != content) return "";
    content = piece;
  }
  return content;
}
}  // namespace

TEST_CASE("replace_directory installs the new folder and cleans up") {
  for (bool use_exchange : {true, false}) {
    const TemporaryFolder folder;
    const std::string last = folder / "last", temp = folder / "last.tmp";
    for (const char* content : {"1", "2", "3"}) {
      make_folder(temp, content);
      replace_directory(temp + "/", last, use_exchange);
      CHECK(content_of(last) == content);
      CHECK(folder.entries() == 1);
      CHECK_FALSE(recover_directory(last));
    }
    data_error([&] { replace_directory(temp, last, use_exchange); }, "is not a folder");
    put(folder / "file", "x");
    make_folder(temp, "4");
    data_error([&] { replace_directory(temp, folder / "file", use_exchange); }, "cannot be replaced: is not a folder");
    CHECK(content_of(last) == "3");
  }
}

TEST_CASE("replace_directory killed at each of its stages") {
  const TemporaryFolder folder;
  const std::string last = folder / "last", temp = folder / "last.tmp", old = last + ".old", trash = last + ".trash";
  std::string expected;
  SUBCASE("before the first rename") { make_folder(last, expected = "old"); }
  SUBCASE("between the renames") { make_folder(old, expected = "old"); }
  SUBCASE("before the old folder is removed") { make_folder(last, expected = "new"); make_folder(old, "old"); }
  SUBCASE("while the old folder is removed") {
    make_folder(last, expected = "new");
    make_folder(trash, "old");
    fs::remove(trash + "/a");
  }
  const bool is_missing = !directory_exists(last);
  CHECK(recover_directory(last) == is_missing);
  CHECK(content_of(last) == expected);
  CHECK_FALSE(recover_directory(last));
  make_folder(temp, "next");  // the next run goes on from there
  replace_directory(temp, last, false);
  CHECK(content_of(last) == "next");
  CHECK(folder.entries() == 1);
}

TEST_CASE("replace_directory under SIGKILL at arbitrary moments") {
  for (bool use_exchange : {true, false}) {
    const TemporaryFolder folder;
    const std::string last = folder / "last", temp = folder / "last.tmp";
    make_folder(last, "start");
    Rng rng(7);
    int n_progressed = 0;
    double delay = 2000;  // microseconds; follows the machine, so that about half of the children complete a replacement
    std::string before = "start";
    for (int round = 0; round < 40; ++round) {
      const pid_t child = ::fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        try {
          for (int i = 0;; ++i) {
            std::error_code ignored;
            fs::remove_all(temp, ignored);
            fs::create_directories(temp + "/sub");
            for (const char* name : {"/a", "/b", "/sub/c"}) write_file_atomically(temp + name, cat(round, '.', i));
            replace_directory(temp, last, use_exchange);
          }
        } catch (...) {
          ::_exit(1);
        }
      }
      ::usleep(static_cast<useconds_t>(delay * rng.uniform()));
      ::kill(child, SIGKILL);
      int status = 0;
      ::waitpid(child, &status, 0);
      CHECK(WIFSIGNALED(status));  // it was killed, it did not fail
      recover_directory(last);
      const std::string now = content_of(last);
      CHECK(now != "");
      n_progressed += now != before;
      delay = std::clamp(delay * (now != before ? 0.7 : 1.5), 500.0, 500'000.0);
      before = now;
    }
    CHECK(n_progressed > 0);
  }
}

TEST_CASE("readers beside a working writer find a folder") {
  const TemporaryFolder folder;
  const std::string last = folder / "last", temp = folder / "last.tmp";
  make_folder(last, "start");
  std::atomic<bool> stop{false};
  std::thread reader([&] { while (!stop) recover_directory(last); });
  for (int i = 0; i < 100; ++i) {
    make_folder(temp, cat(i));
    replace_directory(temp, last, false);
    CHECK(content_of(last) == cat(i));
  }
  stop = true;
  reader.join();
}

TEST_CASE("npy: golden bytes of every dtype, order and version") {
  const auto values = [](const Tensor& t) { return t.to_vector(); };
  using V = std::vector<double>;
  for (int version : {1, 2, 3}) {
    const Tensor t = npy_of(npy_file("<f4", false, "(2, 3)", raw<float>({1, 2, 3, 4, 5, 6.5f}), version));
    CHECK(t.dtype() == DType::f32);
    CHECK(t.shape() == Shape{2, 3});
    CHECK(values(t) == V{1, 2, 3, 4, 5, 6.5});
  }
  // Columns first in the file, rows first in memory.
  CHECK(values(npy_of(npy_file("<f8", true, "(2, 3)", raw<double>({1, 4, 2, 5, 3, 6})))) == V{1, 2, 3, 4, 5, 6});
  CHECK(values(npy_of(npy_file(">i4", true, "(2, 3)", raw<int32_t>({1, 4, 2, 5, 3, -6}, true)))) == V{1, 2, 3, 4, 5, -6});
  CHECK(values(npy_of(npy_file("|u1", true, "(2, 1, 2, 2)", raw<uint8_t>({0, 4, 2, 6, 1, 5, 3, 7})))) == V{0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(values(npy_of(npy_file(">f4", false, "(2,)", raw<float>({1.5f, -2}, true)))) == V{1.5, -2});
  CHECK(values(npy_of(npy_file(">f8", false, "(1,)", raw<double>({1e300}, true)))) == V{1e300});
  CHECK(npy_of(npy_file(">i8", false, "(1,)", raw<int64_t>({-(int64_t{1} << 60) - 1}, true))).data<int64_t>()[0] ==
        -(int64_t{1} << 60) - 1);
  CHECK(npy_of(npy_file("<i8", false, "()", raw<int64_t>({-5}))).shape() == Shape{});
  CHECK(values(npy_of(npy_file("|b1", false, "(4,)", raw<uint8_t>({0, 1, 1, 2})))) == V{0, 1, 1, 1});
  CHECK(npy_of(npy_file("<f4", true, "(3, 0)", "")).shape() == Shape{3, 0});
  // 1, -2, 65504 (largest), 2^-24 (smallest), -0, infinity
  const std::initializer_list<uint16_t> halves = {0x3c00, 0xc000, 0x7bff, 0x0001, 0x8000, 0x7c00};
  const V expected = {1, -2, 65504, 0x1p-24, -0.0, std::numeric_limits<double>::infinity()};
  for (bool big : {false, true}) {
    const Tensor t = npy_of(npy_file(big ? ">f2" : "<f2", false, "(6,)", raw(halves, big)));
    CHECK(t.dtype() == DType::f32);
    CHECK(values(t) == expected);
    CHECK(std::signbit(t.data<float>()[4]));
  }
  CHECK(std::isnan(half_to_float(0x7e00)));
  // Spelled otherwise, but the same dictionary: order of keys, quotes, spaces, Python 2 integers, no trailing comma.
  CHECK(npy_of(npy_file("{\"shape\":(2L , 1L),\"descr\":\"=f4\" ,'fortran_order':False}", raw<float>({1, 2}))).shape() ==
        Shape{2, 1});
}

TEST_CASE("npy: round trips, and the exact header numpy.save writes") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npy";
  for (DType dtype : kDTypes) {
    for (const Shape& shape : kShapes) {
      CAPTURE(dtype);
      CAPTURE(shape);
      const Tensor t = sample(shape, dtype, 3);
      write_npy(path, t);
      CHECK(fs::file_size(path) % 64 == static_cast<size_t>(dtype == DType::bf16 ? 2 * t.bytes() : t.bytes()) % 64);
      const Tensor stored = dtype == DType::bf16 ? cast_to(t, DType::f32) : t;
      CHECK(same(read_npy(path), stored));
      const MappedNpy mapped(path);
      CHECK(mapped.shape() == shape);
      CHECK(mapped.dtype() == stored.dtype());
      CHECK((stored.numel() == 0 || std::memcmp(mapped.raw(), stored.raw(), static_cast<size_t>(stored.bytes())) == 0));
    }
  }
  const Tensor matrix = Tensor::from<int64_t>({1, 2, 3, 4, 5, 6}, {2, 3});
  write_npy(path, matrix.view({3, 2}, {1, 3}));  // transposed: packed on the way out
  CHECK(read_npy(path).to_vector() == std::vector<double>{1, 4, 2, 5, 3, 6});
  const std::string dict = "{'descr': '<i8', 'fortran_order': False, 'shape': (3, 2), }";
  CHECK(read_file(path).substr(0, 128) ==
        std::string("\x93NUMPY\x01\0\x76\0", 10) + dict + std::string(117 - dict.size(), ' ') + "\n");
  write_npy(path, Tensor::from<float>({1}, {1}));
  CHECK(read_file(path).find("'shape': (1,), }") != std::string::npos);
  data_error([&] { write_npy(path, Tensor()); }, "undefined");
}

TEST_CASE("npy: hostile and damaged files are refused") {
  const std::string f4 = raw<float>({1, 2});
  const std::string good = npy_file("<f4", false, "(2,)", f4);
  CHECK(npy_of(good).numel() == 2);
  struct Case { std::string file, part; };
  const std::vector<Case> cases = {
      {"", "is not a .npy file"},
      {"\x93NUMPY\x01", "is not a .npy file"},
      {"PK\x03\x04 some zip archive", "is not a .npy file"},
      {npy_file("<f4", false, "(2,)", f4, 4), "version 4.0 is unknown"},
      {good.substr(0, 30), "is truncated: the .npy header"},
      {std::string("\x93NUMPY\x02\0\xff\xff", 10), "truncated within"},
      {std::string("\x93NUMPY\x02\0\xff\xff\xff\xff", 12), "is truncated: the .npy header has 4294967295"},
      {good.substr(0, good.size() - 1), "needs 8 bytes of data, the file has 7"},
      {good + "x", "has 1 bytes after the data"},
      {npy_file("|O", false, "(2,)", f4), "Python objects"},
      {npy_file("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,)}", f4), "structured"},
      {npy_file("<c8", false, "(1,)", f4), "\"<c8\" is not supported"},
      {npy_file("<U2", false, "(1,)", f4), "is not supported"},
      {npy_file("|f4", false, "(2,)", f4), "states no byte order"},
      {npy_file("", false, "(2,)", f4), "is not supported"},
      {npy_file("<f4\n", false, "(2,)", f4), "is not supported"},
      {npy_file("<f4", false, "(-2,)", f4), "extents >= 0"},
      {npy_file("<f4", false, "(2)", f4), "not a tuple"},
      {npy_file("<f4", false, "(1 2)", f4), "lacks a comma"},
      {npy_file("<f4", false, "(2.0,)", f4), "lacks a comma"},
      {npy_file("<f4", false, "(99999999999999999999,)", f4), "too large"},
      {npy_file("<f4", false, "(4294967296, 4294967296)", f4), "overflows"},
      {npy_file("<f4", false, "(2305843009213693952,)", f4), "overflows"},
      {npy_file("<f4", false, "(4611686018427387904, 4611686018427387904, 0)", ""), "overflows"},
      {npy_file("<f4", false, "(1000000000000,)", f4), "truncated"},
      {npy_file("<f4", false, "(1,1,1,1,1,1,2)", f4), "more than 6 axes"},
      {npy_file("{'descr': '<f4', 'shape': (2,)}", f4), "lacks one of"},
      {npy_file("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (2,)}", f4), "twice"},
      {npy_file("{'descr': '<f4', 'fortran_order': 0, 'shape': (2,)}", f4), "True or False"},
      {npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,), 'x': 1}", f4), "unknown key"},
      {npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)} import os", f4), "after the dictionary"},
      {npy_file("__import__('os')", f4), "should have '{'"},
      {npy_file("{'descr", f4), "string without end"},
      {npy_file("", f4), "should have '{'"},
      {npy_file("{'descr': '<f4', 'fortran_order': False, 'shape': (2,", f4), "should have extents"},
      {npy_file(std::string(2'000'000, ' '), f4, 2), "more than 1000000"},
  };
  for (const Case& c : cases) {
    const std::string message = data_error([&] { npy_of(c.file); }, c.part);
    CHECK(message.starts_with("array.npy: "));
  }
}

TEST_CASE("npy: in-place use needs the layout of memory") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.npy";
  const auto mapping_of = [&](const std::string& file) { put(path, file); return [&path] { MappedNpy m(path); }; };
  data_error(mapping_of(npy_file(">f4", false, "(1,)", raw<float>({1}))), "big-endian");
  data_error(mapping_of(npy_file("<f4", true, "(1, 1)", raw<float>({1}))), "Fortran order");
  data_error(mapping_of(npy_file("<f2", false, "(1,)", "ab")), "cannot be used in place");
  std::string dict = "{'descr': '<f8', 'fortran_order': False, 'shape': (1,)}";
  while ((10 + dict.size()) % 8 != 1) dict += ' ';
  data_error(mapping_of(npy_file(dict, raw<double>({1}))), "not on a multiple of 8");
  CHECK(read_npy(path).item() == 1.0);  // copied instead
  // A 1-D array is the same in both orders.
  std::string flat = "{'descr': '<i4', 'fortran_order': True, 'shape': (2,)}";
  while ((10 + flat.size()) % 4 != 0) flat += ' ';
  put(path, npy_file(flat, raw<int32_t>({1, 2})));
  MappedNpy first(path), second;
  second = std::move(first);
  CHECK(second.data<int32_t>()[1] == 2);
  data_error([&] { second.data<float>(); }, "holds i32, not f32");
}

TEST_CASE("npy: an array written row by row") {
  const TemporaryFolder folder;
  NpyWriter flat(folder / "flat.npy", DType::i64);
  std::vector<double> expected;
  for (int64_t i = 0; i < 1000; ++i) {
    const std::vector<int64_t> piece(static_cast<size_t>(i % 7), i);
    flat.append<int64_t>(piece);
    expected.insert(expected.end(), piece.begin(), piece.end());
  }
  CHECK_FALSE(file_exists(folder / "flat.npy"));
  flat.commit();
  CHECK(read_npy(folder / "flat.npy").to_vector() == expected);
  CHECK(flat.rows() == static_cast<int64_t>(expected.size()));
  CHECK(MappedNpy(folder / "flat.npy").header().data_offset % 64 == 0);

  NpyWriter rows(folder / "rows.npy", DType::f32, {2, 2});
  const std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8};
  rows.append<float>(values);
  data_error([&] { rows.append<float>(std::span(values).first(3)); }, "not whole rows of 4");
  data_error([&] { rows.append<double>(std::vector<double>(4)); }, "rows of f64");
  rows.commit();
  CHECK(same(read_npy(folder / "rows.npy"), Tensor::from(values, {2, 2, 2})));
  NpyWriter none(folder / "none.npy", DType::u8, {3});
  none.commit();
  CHECK(read_npy(folder / "none.npy").shape() == Shape{0, 3});
  { NpyWriter abandoned(folder / "abandoned.npy", DType::u8); }
  CHECK(folder.entries() == 3);
  data_error([&] { NpyWriter(folder / "bf16.npy", DType::bf16); }, "no bf16");
}

TEST_CASE("safetensors: round trips of every dtype, scalars and empty tensors included") {
  const TemporaryFolder folder;
  const std::string path = folder / "m.safetensors";
  std::vector<NamedTensor> tensors;
  for (DType dtype : kDTypes) {
    for (const Shape& shape : kShapes)
      tensors.push_back({cat(name_of(dtype), ".é\"\n", shape), sample(shape, dtype, tensors.size())});
  }
  const std::map<std::string, std::string> metadata = {{"config", "{\"a\": [1, 2]}\n"}, {"", "ü"}};
  write_safetensors(path, tensors, metadata);
  const SafeTensors read = read_safetensors(path);
  CHECK(read.metadata == metadata);
  CHECK(read.tensors.size() == tensors.size());
  for (const NamedTensor& t : tensors) {
    REQUIRE(read.find(t.name) != nullptr);
    CHECK(same(*read.find(t.name), t.value));
  }
  CHECK(read.find("absent") == nullptr);
  const std::string bytes = read_file(path);
  std::reverse(tensors.begin(), tensors.end());
  write_safetensors(path, tensors, metadata);
  CHECK((read_file(path) == bytes));  // whatever the order of the list

  write_safetensors(path, {});
  CHECK(read_file(path) == safetensors_file("{}      ", ""));
  CHECK(read_safetensors(path).tensors.empty());
}

TEST_CASE("safetensors: the exact bytes of the reference writer's layout") {
  const TemporaryFolder folder;
  const Tensor matrix = Tensor::from<float>({1, 2, 3, 4}, {2, 2});
  write_safetensors(folder / "m",
                    {{"b", Tensor::from<uint8_t>({7}, {1})},
                     {"z", matrix.view({2, 2}, {1, 2})},
                     {"a", Tensor::from<float>({9}, {})},
                     {"i", Tensor::from<int64_t>({-1}, {1})}},
                    {{"k", "v"}});
  std::string header =
      R"({"__metadata__":{"k":"v"},"i":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
      R"("a":{"dtype":"F32","shape":[],"data_offsets":[8,12]},"z":{"dtype":"F32","shape":[2,2],"data_offsets":[12,28]},)"
      R"("b":{"dtype":"U8","shape":[1],"data_offsets":[28,29]}})";
  header.resize((header.size() + 7) / 8 * 8, ' ');
  CHECK(read_file(folder / "m") == safetensors_file(header, raw<int64_t>({-1}) + raw<float>({9, 1, 3, 2, 4}) + raw<uint8_t>({7})));
  data_error([&] { write_safetensors(folder / "n", {{"a", matrix}, {"b", matrix}, {"a", matrix}}); }, "two tensors named \"a\"");
  data_error([&] { write_safetensors(folder / "n", {{"a", Tensor()}}); }, "undefined");
  data_error([&] { write_safetensors(folder / "n", {{"__metadata__", matrix}}); }, "cannot be named");
  data_error([&] { write_safetensors(folder / "n", {{"\xff", matrix}}); }, "not UTF-8");
  CHECK(folder.entries() == 1);
}

TEST_CASE("safetensors: foreign files: unaligned data, other dtypes, any order of keys") {
  const std::string header =
      R"({"w":{"data_offsets":[1,9],"shape":[2],"dtype":"F32"}, "flag":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
      R"("h":{"dtype":"F16","shape":[2],"data_offsets":[9,13]},"s":{"dtype":"I16","shape":[1],"data_offsets":[13,15]},)"
      R"("e":{"dtype":"F64","shape":[3,0],"data_offsets":[13,13]},"c":{"dtype":"I8","shape":[1],"data_offsets":[15,16]}})";
  for (size_t padding = 0; padding < 8; ++padding) {
    const SafeTensors read = safetensors_of(safetensors_file(
        header + std::string(padding, ' '), std::string(1, '\x05') + raw<float>({1.5f, -2}) + raw<uint16_t>({0x3c00, 0xc000}) +
                                                raw<int16_t>({-300}) + raw<int8_t>({-7})));
    CHECK(read.tensors.size() == 6);
    CHECK(same(*read.find("w"), Tensor::from<float>({1.5f, -2}, {2})));
    CHECK(same(*read.find("flag"), Tensor::from<uint8_t>({1}, {1})));
    CHECK(same(*read.find("h"), Tensor::from<float>({1, -2}, {2})));
    CHECK(same(*read.find("s"), Tensor::from<int32_t>({-300}, {1})));
    CHECK(same(*read.find("c"), Tensor::from<int32_t>({-7}, {1})));
    CHECK(read.find("e")->shape() == Shape{3, 0});
  }
}

TEST_CASE("safetensors: hostile and damaged files are refused") {
  const std::string eight(8, '\1');
  const auto one = [](const std::string& dtype, const std::string& shape, const std::string& offsets) {
    return R"({"w":{"dtype":")" + dtype + R"(","shape":)" + shape + R"(,"data_offsets":)" + offsets + "}}";
  };
  const auto two = [](const std::string& offsets_a, const std::string& offsets_b) {
    return R"({"a":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets_a +
           R"(},"b":{"dtype":"F32","shape":[1],"data_offsets":)" + offsets_b + "}}";
  };
  CHECK(safetensors_of(safetensors_file(one("F32", "[2]", "[0,8]"), eight)).tensors.size() == 1);
  CHECK(safetensors_of(safetensors_file(two("[4,8]", "[0,4]"), eight)).tensors.size() == 2);
  struct Case { std::string file, part; };
  std::vector<Case> cases = {
      {"", "has only 0 bytes"},
      {"1234567", "has only 7 bytes"},
      {little_endian(100'000'001, 8) + eight, "100000001 bytes, more than"},
      {little_endian(~uint64_t{0}, 8) + "{}", "more than"},
      {little_endian(~uint64_t{0} - 7, 8) + "{}", "more than"},
      {little_endian(3, 8) + "{}", "is truncated: the header has 3 bytes"},
      {little_endian(0, 8), "does not begin with '{'"},
  };
  struct HeaderCase { std::string header, part; };
  const std::vector<HeaderCase> headers = {
      {" {}", "does not begin with '{'"},
      {"[]", "does not begin with '{'"},
      {"{", "not valid JSON"},
      {"{}}", "not valid JSON"},
      {"{} x", "not valid JSON"},
      {std::string("{}\0{}", 5), "NUL byte"},
      {"{\"\xff\":{}}", "not valid JSON"},
      {"{\"a\":1}", "a number in the wrong place"},
      {"{\"a\":null}", "null in the wrong place"},
      {"{\"a\":{}}", "lacks one of"},
      {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2]}}", "lacks one of"},
      {one("F32", "[2]", "[0,8]").insert(2, 100'000, 'n'), "\"nnnn"},
      {one("F8_E4M3", "[8]", "[0,8]"), "dtype \"F8_E4M3\", which is not supported"},
      {one("f32\\n", "[2]", "[0,8]"), "not supported"},
      {one("F32", "[3]", "[0,8]"), "shape [3] of F32 needs 12 bytes"},
      {one("F32", "[]", "[0,8]"), "needs 4 bytes"},
      {one("F32", "[2]", "[0,4]"), "needs 8 bytes"},
      {one("F32", "[0]", "[0,8]"), "needs 0 bytes"},
      {one("F32", "[2]", "[8,0]"), "run backwards"},
      {one("F32", "[1]", "[4,8]"), "a hole after byte 0"},
      {one("F32", "[1]", "[0,4]"), "4 bytes after the last tensor"},
      {one("F32", "[4]", "[0,16]"), "is truncated: the tensors need 16"},
      {one("F32", "[2]", "[0]"), "1 data_offsets"},
      {one("F32", "[2]", "[0,8,8]"), "more than 2 data_offsets"},
      {one("F32", "[2]", "[-8,0]"), "negative"},
      {one("F32", "[2]", "[0,8.0]"), "no integer"},
      {one("F32", "[2]", "[0,18446744073709551615]"), "overflows"},
      {one("F32", "[2]", "[0,18446744073709551624]"), "no integer"},
      {one("F32", "[2]", "[0,1e999]"), "not valid JSON"},
      {one("F32", "[4294967296,4294967296]", "[0,8]"), "overflows"},
      {one("F32", "[4611686018427387904,4]", "[0,8]"), "overflows"},
      {one("U8", "[4611686018427387904,4611686018427387904,0]", "[0,0]"), "overflows"},
      {one("F32", "[-2]", "[0,8]"), "negative"},
      {one("F32", "[[2]]", "[0,8]"), "an array in the wrong place"},
      {one("F32", "{\"a\":2}", "[0,8]"), "an object in the wrong place"},
      {one("F32", "\"2\"", "[0,8]"), "a string in the wrong place"},
      {one("F32", "[1,1,1,1,1,1,2]", "[0,8]"), "more than 6 axes"},
      {two("[0,4]", "[0,4]"), "overlap"},
      {two("[0,4]", "[2,6]"), "overlap"},
      {two("[0,4]", "[5,9]"), "a hole after byte 4"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       "\"w\" appears twice"},
      {R"({"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}})", "the field \"dtype\" twice"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":1}})", "unknown field \"x\""},
      {R"({"__metadata__":{"a":1}})", "string to string"},
      {R"({"__metadata__":{"a":{"b":"c"}}})", "string to string"},
      {R"({"__metadata__":[]})", "string to string"},
      {R"({"__metadata__":null})", "string to string"},
      {R"({"__metadata__":{"a":"1","a":"2"}})", "metadata key \"a\" twice"},
      {R"({"__metadata__":{},"__metadata__":{}})", "twice"},
      {"{\"a\":" + std::string(5'000'000, '['), "an array in the wrong place"},
      {[] {
         std::string deep;
         for (int i = 0; i < 500'000; ++i) deep += "{\"a\":";
         return deep;
       }(),
       "the unknown field \"a\""},
  };
  for (const HeaderCase& c : headers) cases.push_back({safetensors_file(c.header, eight), c.part});
  for (const Case& c : cases) {
    if (c.part == "\"nnnn") {  // legal, but a message about it must stay short
      const std::string message = data_error([&] { safetensors_of(c.file + "x"); }, "1 bytes after the last tensor");
      CHECK(message.size() < 300);
      continue;
    }
    const std::string message = data_error([&] { safetensors_of(c.file); }, c.part);
    CHECK(message.starts_with("model.safetensors: "));
    CHECK(message.size() < 400);
  }
}

TEST_CASE("random damage to headers is a DataError or harmless") {
  const std::string npy = npy_file("<f4", false, "(2, 3)", std::string(24, '\2'));
  const std::string tensors = safetensors_file(R"({"__metadata__":{"k":"v"},"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                                               R"("b":{"dtype":"BF16","shape":[1,2],"data_offsets":[8,12]}})",
                                               std::string(12, '\3'));
  const std::string alphabet = "{}[]()\",:'0123456789-+.eTF<>|fiub \n\\\xff" + std::string(1, '\0');
  Rng rng(2024);
  int n_refused = 0, n_accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    const bool is_npy = round % 2 == 0;
    std::string file = is_npy ? npy : tensors;
    for (uint64_t edits = 1 + rng.below(4); edits > 0 && !file.empty(); --edits) {
      const size_t at = rng.below(file.size());
      const char c = alphabet[rng.below(alphabet.size())];
      switch (rng.below(6)) {
        case 0: file[at] = static_cast<char>(rng.below(256)); break;
        case 1: file[at] = static_cast<char>(file[at] ^ (1 << rng.below(8))); break;
        case 2: file[at] = c; break;
        case 3: file.insert(at, 1, c); break;
        case 4: file.erase(at, 1 + rng.below(3)); break;
        default: file.insert(at, file.substr(rng.below(file.size()), rng.below(40))); break;
      }
    }
    try {
      if (is_npy) npy_of(file); else safetensors_of(file);
      ++n_accepted;
    } catch (const DataError& e) {
      ++n_refused;
      CHECK(std::string_view(e.what()).find('\n') == std::string_view::npos);
    }  // anything else ends the test
  }
  CHECK(n_refused > 10'000);
  CHECK(n_accepted > 100);
}

TEST_CASE("the log file gets every level, whole lines from all threads, and log_once once") {
  const TemporaryFolder folder;
  const LogLevel before = log_level();
  set_log_level(LogLevel::error);  // keeps the test's output quiet
  set_log_file(folder / "log.txt");
  log_debug("n=", 1);
  log_warning("careful");
  for (int i = 0; i < 3; ++i) log_once("test_files.once", "plain path for D=", 3);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([t] {
      for (int i = 0; i < 200; ++i) log_info("thread ", t, ' ', std::string(100, static_cast<char>('a' + t)));
    });
  for (std::thread& t : threads) t.join();
  set_log_file("");
  log_info("after closing");
  set_log_level(before);
  const std::string text = read_file(folder / "log.txt");
  CHECK(std::count(text.begin(), text.end(), '\n') == 2 + 1 + 800);
  CHECK(text.find("Z debug n=1\n") != std::string::npos);
  CHECK(text.find("Z warning careful\n") != std::string::npos);
  CHECK(text.find("Z info plain path for D=3\n") != std::string::npos);
  for (int t = 0; t < 4; ++t) {
    const std::string line = cat("Z info thread ", t, ' ', std::string(100, static_cast<char>('a' + t)), "\n");
    int64_t n = 0;
    for (size_t at = text.find(line); at != std::string::npos; at = text.find(line, at + 1)) ++n;
    CHECK(n == 200);
  }
  data_error([&] { set_log_file(folder / "absent/log.txt"); }, "cannot open the log file");
}
