#include "tools/train/signals.h"

#include <unistd.h>
#include <csignal>
#include <cstring>

namespace flare {
namespace {

volatile std::sig_atomic_t g_stop = 0;
const char* g_when = "";

void say(const char* text) { [[maybe_unused]] const auto written = write(STDERR_FILENO, text, std::strlen(text)); }

void on_signal(int) {
  if (g_stop) _exit(kExitInterrupted);
  g_stop = 1;
  say("\nflare: stopping ");
  say(g_when);
  say("; once more to stop at once\n");
}

}  // namespace

void catch_stop_signals(const char* when) {
  g_when = when;
  struct sigaction action = {};
  action.sa_handler = on_signal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool stop_requested() { return g_stop != 0; }
void set_stop_requested(bool on) { g_stop = on ? 1 : 0; }

}  // namespace flare
