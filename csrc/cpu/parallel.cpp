#include "cpu/parallel.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <thread>
#include <vector>

namespace fastrebasin::cpu {
namespace {

// One call of parallel_for: what its threads share.
class Loop {
 public:
  Loop(std::int64_t count, const Poll& interrupted,
       const std::function<void(std::int64_t, const Poll&)>& body)
      : count_(count), interrupted_(interrupted), body_(body) {}

  bool run(int threads) {
    std::vector<std::thread> helpers;
    helpers.reserve(threads - 1);
    for (int k = 1; k < threads; ++k) {
      ++helping_;
      try {
        helpers.emplace_back([this] {
          work([this] { return stop_.load(); });
          leave();
        });
      } catch (const std::exception&) {  // no more threads to be had: those there are will do
        --helping_;
        break;
      }
    }
    work([this] { return poll(); });
    wait_for_helpers();
    for (std::thread& helper : helpers) helper.join();
    if (error_) std::rethrow_exception(error_);
    return !stop_;
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

  void leave() {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (--helping_ == 0) all_left_.notify_one();
  }

  void wait_for_helpers() {
    std::unique_lock<std::mutex> lock(mutex_);
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
  std::atomic<int> helping_{0};
  std::exception_ptr error_;
};

}  // namespace

bool parallel_for(std::int64_t count, int threads, const Poll& interrupted,
                  const std::function<void(std::int64_t, const Poll&)>& body) {
  const std::int64_t useful = std::min<std::int64_t>(threads, count);
  return Loop(count, interrupted, body).run(static_cast<int>(std::max<std::int64_t>(1, useful)));
}

}  // namespace fastrebasin::cpu
