#include "cpu/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>

namespace fastrebasin::cpu {
namespace {

// One call of parallel_for: what its threads share. A helper that comes when all is done finds the
// loop closed and leaves: the caller doesn't wait for a thread that others keep from running, such
// as those of OpenMP, which look for more work for milliseconds after each of its loops.
class Loop {
 public:
  Loop(std::int64_t count, const Poll& interrupted,
       const std::function<void(std::int64_t, const Poll&)>& body)
      : count_(count), interrupted_(interrupted), body_(body) {}

  // The caller's part.
  bool run() {
    work([this] { return poll(); });
    wait_for_helpers();
    if (error_) std::rethrow_exception(error_);
    return !stop_;
  }

  // A helper's part.
  void help() {
    if (!enter()) return;
    work([this] { return stop_.load(); });
    leave();
  }

 private:
  void work(const Poll& stopped) noexcept {
    try {
      for (std::int64_t index = next_++; index < count_ && !stopped(); index = next_++)
        body_(index, stopped);
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex_);
      error_ = std::current_exception();
      stop_ = true;
    }
  }

  // Only the caller's thread comes here: a signal's handler, say, may run on no other.
  bool poll() {
    if (!stop_ && interrupted_()) stop_ = true;
    return stop_;
  }

  bool enter() {
    const std::lock_guard<std::mutex> lock(mutex_);
    helping_ += !closed_;
    return !closed_;
  }

  void leave() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--helping_ == 0) all_left_.notify_one();
  }

  void wait_for_helpers() {
    std::unique_lock<std::mutex> lock(mutex_);
    closed_ = true;
    while (!all_left_.wait_for(lock, std::chrono::milliseconds(10),
                               [this] { return helping_ == 0; })) {
      lock.unlock();
      poll();
      lock.lock();
    }
  }

  const std::int64_t count_;
  const Poll& interrupted_;
  const std::function<void(std::int64_t, const Poll&)>& body_;
  std::atomic<std::int64_t> next_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::condition_variable all_left_;
  bool closed_ = false;
  int helping_ = 0;
  std::exception_ptr error_;
};

}  // namespace

bool parallel_for(std::int64_t count, int threads, const Poll& interrupted,
                  const std::function<void(std::int64_t, const Poll&)>& body) {
  const auto loop = std::make_shared<Loop>(count, interrupted, body);
  const std::int64_t useful = std::min<std::int64_t>(threads, count);
  try {
    for (std::int64_t k = 1; k < useful; ++k) std::thread([loop] { loop->help(); }).detach();
  } catch (const std::exception&) {  // no more threads to be had: those there are will do
  }
  return loop->run();
}

}  // namespace fastrebasin::cpu
