// Files, SHA-256 and the log: round trips, failing disks, kills.
#include "tests/file_fixtures.h"

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
    {
      AtomicFile file(path);
      file.write(large);
      CHECK(folder.entries() == 2);
    }
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
  SUBCASE("before the old folder is removed") {
    make_folder(last, expected = "new");
    make_folder(old, "old");
  }
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
        } catch (...) { ::_exit(1); }
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
  std::thread reader([&] {
    while (!stop) recover_directory(last);
  });
  for (int i = 0; i < 100; ++i) {
    make_folder(temp, cat(i));
    replace_directory(temp, last, false);
    CHECK(content_of(last) == cat(i));
  }
  stop = true;
  reader.join();
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
