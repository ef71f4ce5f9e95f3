#pragma once
/// What the tests of the command line share: a scratch folder in which the program runs as a child process.
#include <doctest/doctest.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/file.h"
#include "tests/paths.h"

using namespace flare;
namespace fs = std::filesystem;

struct Outcome {
  int code = -1;  // 128 + signal when killed
  std::string out, err;
};

/// A scratch folder in which the program runs, removed at the end, and the program itself as a child process.
class Scratch {
 public:
  Scratch()
      : path_((fs::temp_directory_path() / ("flare_cli_" + std::to_string(getpid()) + "_" + std::to_string(count_++))).string()) {
    fs::remove_all(path_);
    fs::create_directories(path_);
  }
  ~Scratch() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  std::string file(const std::string& name) const { return path_ + "/" + name; }
  void write(const std::string& name, const std::string& text) const { std::ofstream(file(name)) << text; }

  pid_t start(const std::vector<std::string>& args, rlim_t largest_file = RLIM_INFINITY) const {
    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child > 0) return child;
    if (chdir(path_.c_str()) != 0) _exit(99);
    if (largest_file != RLIM_INFINITY) {
      const rlimit limit = {largest_file, largest_file};
      setrlimit(RLIMIT_FSIZE, &limit);
      std::signal(SIGXFSZ, SIG_IGN);  // writes fail with an error, as on a full disk
    }
    dup2(open("out.txt", O_WRONLY | O_CREAT | O_TRUNC, 0644), STDOUT_FILENO);
    dup2(open("err.txt", O_WRONLY | O_CREAT | O_TRUNC, 0644), STDERR_FILENO);
    std::vector<char*> argv = {const_cast<char*>("flare")};
    for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    execv(kProgram, argv.data());
    _exit(98);
  }
  Outcome wait(pid_t child) const {
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    return {WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status), read_file(file("out.txt")),
            read_file(file("err.txt"))};
  }
  Outcome run(const std::vector<std::string>& args, rlim_t largest_file = RLIM_INFINITY) const {
    return wait(start(args, largest_file));
  }

 private:
  static inline int count_ = 0;
  std::string path_;
};

inline bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// The documented failure: this code, and one line on stderr that begins with `flare: ` and holds the parts.
inline void check_failure(const Outcome& o, int code, const std::vector<std::string>& parts) {
  INFO("stderr: ", o.err);
  CHECK(o.code == code);
  const size_t at = o.err.rfind("flare: ");
  REQUIRE(at != std::string::npos);
  const std::string line = o.err.substr(at);
  CHECK(std::count(line.begin(), line.end(), '\n') == 1);
  CHECK(line.back() == '\n');
  for (const std::string& part : parts) {
    INFO("expected: ", part);
    CHECK(contains(line, part));
  }
}
