#pragma once
/// The program on a pseudo-terminal, as a person would see it.
#include <cstdlib>
#include <map>

#include <sys/ioctl.h>
#include <termios.h>

#include "tests/cli_fixtures.h"

struct Terminal {
  int code = -1;
  std::string shown;  // stdout and stderr together
};

/// Runs the program in the scratch folder with a terminal of so many columns as its three streams.
inline Terminal run_on_terminal(const Scratch& scratch, const std::vector<std::string>& args, int columns,
                                const std::map<std::string, std::string>& environment = {}) {
  const int master = posix_openpt(O_RDWR | O_NOCTTY);
  REQUIRE(master >= 0);
  REQUIRE(grantpt(master) == 0);
  REQUIRE(unlockpt(master) == 0);
  const std::string name = ptsname(master);
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    setsid();
    const int terminal = open(name.c_str(), O_RDWR);
    const winsize size = {24, static_cast<unsigned short>(columns), 0, 0};
    ioctl(terminal, TIOCSWINSZ, &size);
    for (const int stream : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) dup2(terminal, stream);
    close(terminal);
    close(master);
    unsetenv("NO_COLOR");
    setenv("TERM", "xterm", 1);
    for (const auto& [key, value] : environment) setenv(key.c_str(), value.c_str(), 1);
    if (chdir(scratch.file("").c_str()) != 0) _exit(99);
    std::vector<char*> argv = {const_cast<char*>("flare")};
    for (const std::string& a : args) argv.push_back(const_cast<char*>(a.c_str()));
    argv.push_back(nullptr);
    execv(kProgram, argv.data());
    _exit(98);
  }
  Terminal outcome;
  char buffer[4096];
  for (ssize_t n; (n = read(master, buffer, sizeof buffer)) > 0;)  // ends with an error once the child has closed its side
    outcome.shown.append(buffer, static_cast<size_t>(n));
  int status = 0;
  REQUIRE(waitpid(child, &status, 0) == child);
  close(master);
  outcome.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return outcome;
}

/// What was on one line at any time: pieces between line ends, returns and erasures, without colours.
inline std::vector<std::string> shown_lines(const std::string& shown) {
  std::vector<std::string> lines(1);
  for (size_t i = 0; i < shown.size(); ++i) {
    if (shown[i] == '\r' || shown[i] == '\n') {
      lines.emplace_back();
    } else if (shown[i] == '\033') {
      while (i < shown.size() && shown[i] != 'm' && shown[i] != 'K') ++i;
    } else {
      lines.back() += shown[i];
    }
  }
  return lines;
}
