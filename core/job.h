#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <string>

#include "core/check.h"

namespace flare {

/// 130: the work was stopped because someone asked for it (Ctrl-C). What it was writing does not exist.
struct Interrupted : Error {
  explicit Interrupted(const std::string& m) : Error(130, m) {}
};

/// How far a long piece of work has come.
struct JobState {
  std::string what, unit;  // "listops", "samples"; in the unit "bytes" amounts are shown as sizes
  int64_t done = 0, total = 0;
  bool ended = false;
};

/// Whoever watches the long work of the library: a program that draws a progress bar and catches signals. The library knows no
/// terminal.
class JobWatcher {
 public:
  virtual ~JobWatcher() = default;
  /// At the start of a job, then some times a second, and once with `ended`; by one thread at a time. Must not throw.
  virtual void show(const JobState& state) = 0;
  /// From any thread.
  virtual bool stop_requested() = 0;
};
/// The watcher of all later jobs, or none (nullptr), as at start. Not while a job lives.
void watch_jobs(JobWatcher* watcher);

/// A long loop, counted: `total` units of work, 0 where nobody knows. Without a watcher it costs an atomic addition an item. A job
/// inside another is not shown.
class Job {
 public:
  Job(std::string what, int64_t total, std::string unit);
  ~Job();
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  /// n units are done. From any thread.
  void advance(int64_t n = 1) noexcept;
  /// Throws Interrupted when a stop was asked for. From any thread.
  void check_stop() const;
  int64_t done() const { return done_.load(std::memory_order_relaxed); }

 private:
  using Clock = std::chrono::steady_clock;
  void show(bool ended) noexcept;
  const std::string what_, unit_;
  const int64_t total_;
  JobWatcher* const watcher_;
  const bool is_shown_;
  std::atomic<int64_t> done_{0};
  std::atomic<Clock::rep> next_show_{0};
  std::mutex showing_;
};

/// One unit of a job, for the body of a loop: asks for a stop before it, counts it after.
class JobItem {
 public:
  explicit JobItem(Job& job) : job_(job) { job.check_stop(); }
  ~JobItem() { job_.advance(); }
  JobItem(const JobItem&) = delete;
  JobItem& operator=(const JobItem&) = delete;

 private:
  Job& job_;
};

}  // namespace flare
