/// A pool of sleeping threads. OpenMP's would spin at every barrier for as long as it likes, which on a laptop that runs
/// anything else makes small steps several times slower, and its policy can only be set before the program starts.
#include "core/parallel.h"

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

namespace flare {
namespace {

thread_local bool inside = false;

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
    for (int left = working_.load(std::memory_order_acquire); left != 0; left = working_.load(std::memory_order_acquire))
      working_.wait(left, std::memory_order_acquire);
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

  void work(uint32_t seen) {
    for (;;) {
      job_.wait(seen, std::memory_order_acquire);
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
