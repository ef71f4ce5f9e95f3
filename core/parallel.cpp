/// A pool of threads that sleep between jobs, after looking for the next one for a moment while nobody else wants the cores.
/// OpenMP's would spin at every barrier whatever else runs, which makes small steps several times slower on a busy laptop: a thread
/// that spins is no sleeper, so the system lets others finish their turn before it. Its policy can only be set before the program
/// starts.
#include "core/parallel.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace flare {
namespace {

thread_local bool inside = false;

// How often a thread looks for work before it sleeps (some 10 to 40 µs), and when that does not pay.
constexpr int kSpins = 1000;
constexpr int kWindow = 32;                           // jobs
constexpr std::chrono::microseconds kLongJob{250};    // on average from job to job: large loops, or a busy machine
constexpr int kFewestCalm = 16, kMostCalm = 1 << 12;  // windows to wait before spinning again; doubled each time it was wrong

int threads_at_start() {
  if (const char* wanted = std::getenv("FLARE_THREADS"))
    if (const int n = std::atoi(wanted); n > 0) return std::min(n, 1024);
  cpu_set_t cores;
  if (sched_getaffinity(0, sizeof cores, &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max(1u, std::thread::hardware_concurrency());
}

class Pool {
 public:
  Pool() : n_threads_(threads_at_start()) {}

  int size() const { return n_threads_; }
  void resize(int n) {
    const std::lock_guard<std::mutex> lock(busy_);
    stop();
    n_threads_ = std::max(n, 1);
  }

  void run(int64_t n_chunks, void (*call)(const void*, int64_t), const void* context) {
    std::unique_lock<std::mutex> lock(busy_, std::defer_lock);
    const bool forked = !workers_.empty() && ::getpid() != owner_;  // a child process has none of the threads
    if (inside || forked || n_threads_ == 1 || n_chunks == 1 || !lock.try_lock()) {
      for (int64_t c = 0; c < n_chunks; ++c) call(context, c);
      return;
    }
    start();
    call_ = call;
    context_ = context;
    n_chunks_ = n_chunks;
    next_.store(0, std::memory_order_relaxed);
    // Every worker answers every job, so that none can still be in an old one when the next is set up.
    working_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    take_chunks();
    if (!spin_until([&] { return working_.load(std::memory_order_acquire) == 0; }))
      for (int left = working_.load(std::memory_order_acquire); left != 0; left = working_.load(std::memory_order_acquire))
        working_.wait(left, std::memory_order_acquire);
    if (++n_jobs_ % kWindow == 0) judge_spinning();
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
  }

 private:
  void take_chunks() {
    inside = true;
    for (int64_t c; (c = next_.fetch_add(1, std::memory_order_relaxed)) < n_chunks_;) {
      try {
        call_(context_, c);
      } catch (...) {
        const std::lock_guard<std::mutex> lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
      }
    }
    inside = false;
  }

  /// Looks for a moment before the caller goes to sleep: the loops of a small model follow each other within microseconds, and
  /// waking a thread takes as long as such a loop.
  template <class Done> bool spin_until(const Done& done) const {
    const int spins = spins_.load(std::memory_order_relaxed);
    for (int i = 0; i < spins; ++i) {
      if (done()) return true;
      pause();
    }
    return false;
  }
  static void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }

  /// After every window of jobs. While others want the cores, spinning makes jobs many times longer, which shows here; where jobs
  /// are long by themselves it brings nothing. Either way sleep, and try again after a while.
  void judge_spinning() {
    const Clock::time_point now = Clock::now();
    const bool is_long = now - std::exchange(window_start_, now) > kWindow * kLongJob;
    if (is_long) {
      if (spins_.exchange(0, std::memory_order_relaxed) > 0) wanted_calm_ = std::min(2 * wanted_calm_, kMostCalm);
      calm_ = 0;
    } else if (++calm_ >= wanted_calm_) {
      if (spins_.exchange(kSpins, std::memory_order_relaxed) > 0) wanted_calm_ = kFewestCalm;  // it went well all the while
      calm_ = 0;
    }
  }

  void work(uint32_t seen) {
    for (;;) {
      if (!spin_until([&] { return job_.load(std::memory_order_acquire) != seen; })) job_.wait(seen, std::memory_order_acquire);
      seen = job_.load(std::memory_order_acquire);
      if (stopping_) return;
      take_chunks();
      if (working_.fetch_sub(1, std::memory_order_acq_rel) == 1) working_.notify_all();
    }
  }

  void start() {
    owner_ = ::getpid();
    while (static_cast<int>(workers_.size()) + 1 < n_threads_)
      workers_.emplace_back([this, seen = job_.load(std::memory_order_relaxed)] { work(seen); });
  }
  void stop() {
    stopping_ = true;
    job_.fetch_add(1, std::memory_order_release);
    job_.notify_all();
    for (std::thread& t : workers_) t.join();
    workers_.clear();
    stopping_ = false;
  }

  int n_threads_;
  std::mutex busy_, error_mutex_;
  std::vector<std::thread> workers_;
  std::atomic<uint32_t> job_{0};
  std::atomic<int> working_{0};
  std::atomic<int64_t> next_{0};
  int64_t n_chunks_ = 0;
  void (*call_)(const void*, int64_t) = nullptr;
  const void* context_ = nullptr;
  std::exception_ptr error_;
  bool stopping_ = false;
  pid_t owner_ = 0;
  using Clock = std::chrono::steady_clock;
  std::atomic<int> spins_{0};
  int64_t n_jobs_ = 0;
  Clock::time_point window_start_ = Clock::now();
  int calm_ = 0, wanted_calm_ = kFewestCalm;
};

/// Never destroyed: the threads sleep until the process ends.
Pool& pool() {
  static Pool* const the_pool = new Pool;
  return *the_pool;
}

}  // namespace

int thread_count() { return pool().size(); }
void set_thread_count(int n) { pool().resize(n); }
void run_chunks(int64_t n_chunks, void (*call)(const void*, int64_t), const void* context) { pool().run(n_chunks, call, context); }

}  // namespace flare
