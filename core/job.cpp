#include "core/job.h"

#include <utility>

namespace flare {
namespace {

constexpr std::chrono::milliseconds kBetweenShows{50};
JobWatcher* g_watcher = nullptr;
std::atomic<int> g_open{0};  // shown jobs: 0 or 1

}  // namespace

void watch_jobs(JobWatcher* watcher) { g_watcher = watcher; }

Job::Job(std::string what, int64_t total, std::string unit)
    : what_(std::move(what)),
      unit_(std::move(unit)),
      total_(total),
      watcher_(g_watcher),
      is_shown_(watcher_ && g_open.exchange(1) == 0) {
  show(false);
}

Job::~Job() {
  show(true);
  if (is_shown_) g_open = 0;
}

void Job::advance(int64_t n) noexcept {
  done_.fetch_add(n, std::memory_order_relaxed);
  if (!is_shown_ || Clock::now().time_since_epoch().count() < next_show_.load(std::memory_order_relaxed)) return;
  if (!showing_.try_lock()) return;  // another thread is at it
  show(false);
  showing_.unlock();
}

void Job::check_stop() const {
  if (!watcher_ || !watcher_->stop_requested()) return;
  throw Interrupted(total_ > 0 && unit_ != "bytes" ? cat(what_, ": interrupted after ", done(), " of ", total_, " ", unit_)
                                                   : cat(what_, ": interrupted"));
}

void Job::show(bool ended) noexcept {
  if (!is_shown_) return;
  try {
    watcher_->show({what_, unit_, done(), total_, ended});
  } catch (...) {
    // Out of memory for a line of progress: the work goes on without it.
  }
  next_show_.store((Clock::now() + kBetweenShows).time_since_epoch().count(), std::memory_order_relaxed);
}

}  // namespace flare
