#include "cuda_shim/fibers.hpp"

#include <ucontext.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "cuda_shim/sanitizers.hpp"

__thread cuda_shim::Index threadIdx, blockIdx, blockDim, gridDim;

namespace fastrebasin::cuda {
__thread unsigned char dynamic_shared_memory[cuda_shim::most_shared_bytes]
    __attribute__((aligned(1024)));
}  // namespace fastrebasin::cuda

namespace cuda_shim {
namespace {

constexpr std::size_t stack_bytes = 128 * 1024;
constexpr std::size_t most_shown = 4;

enum class State { ready, at_barrier, at_named_barrier, in_warp, done };

struct Fiber {
  Index thread;
  int number;
  State state;
  Site site;                          // where it waits
  unsigned mask;                      // the lanes it waits for
  std::uint64_t value;                // what it gives to other lanes
  std::uint64_t received[warp_size];  // what it gets of them
  int barrier, expected;              // where it comes, and how many threads are to come there
  bool waits;
  ucontext_t context;
  sanitizers::Fiber sanitized;
};

thread_local std::uint64_t random_state = 0;

// splitmix64
std::uint64_t draw() {
  std::uint64_t z = (random_state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

std::string text(const Index& i) {
  return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string text(const Site& site) {
  return std::string(site.file) + ":" + std::to_string(site.line);
}

// The threads that have come to a barrier since it last opened, of whom some wait.
struct NamedBarrier {
  std::vector<int> come, waiting;
  int expected = 0;
  int opened = 0;  // times
  // What orders threads before others, each time anew: one may come again before others have left.
  char meetings[4];
};

bool same(const Site& a, const Site& b) {
  return a.line == b.line && std::strcmp(a.file, b.file) == 0;
}

class Block {
 public:
  Block(Index size, const std::function<void()>& thread)
      : thread_(thread),
        count_(size.x * size.y * size.z),
        stacks_(new unsigned char[count_ * stack_bytes]),
        fibers_(count_),
        ready_(count_) {
    for (unsigned k = 0; k < count_; ++k)
      fibers_[k].thread = {k % size.x, k / size.x % size.y, k / (size.x * size.y)};
  }

  void run() {
    start();
    while (!ready_.empty()) {
      resume(take_any());
      if (current_->state == State::ready) ready_.push_back(current_->number);
      if (current_->state == State::at_barrier) release_block();
      if (current_->state == State::in_warp) release_warp();
      if (current_->state == State::at_named_barrier) come_to_barrier();
    }
    for (Fiber& fiber : fibers_) sanitizers::end(fiber.sanitized, main_);
    if (error_) std::rethrow_exception(error_);
    const bool stuck = std::any_of(fibers_.begin(), fibers_.end(),
                                   [](const Fiber& f) { return f.state != State::done; });
    if (stuck) throw KernelError(complaint());
    for (const NamedBarrier& barrier : barriers_)
      if (!barrier.come.empty())
        throw KernelError("block " + text(blockIdx) + ": barrier " +
                          std::to_string(&barrier - barriers_) + " never opens: " + come(barrier));
  }

  Fiber& current() { return *current_; }

  // What orders threads that come to a barrier before those that go on from it.
  char* meeting(int barrier) {
    NamedBarrier& here = barriers_[barrier % named_barriers];
    return &here.meetings[here.opened % 4];
  }

  void leave(State state) {
    current_->state = state;
    sanitizers::leave_fiber(current_->sanitized, main_, state == State::done);
    swapcontext(&current_->context, &main_context_);
    sanitizers::back_in_fiber(current_->sanitized);
  }

 private:
  static void enter();

  static std::string come(const NamedBarrier& barrier) {
    return std::to_string(barrier.come.size()) + " of " + std::to_string(barrier.expected) +
           " threads have come";
  }

  void start() {
    error_ = nullptr;
    for (NamedBarrier& barrier : barriers_) barrier = {};
    ready_.resize(count_);
    std::iota(ready_.begin(), ready_.end(), 0);
    sanitizers::forget(stacks_.get(), count_ * stack_bytes);
    for (unsigned k = 0; k < count_; ++k) {
      Fiber& fiber = fibers_[k];
      fiber.number = static_cast<int>(k);
      fiber.state = State::ready;
      getcontext(&fiber.context);
      fiber.context.uc_stack.ss_sp = stacks_.get() + k * stack_bytes;
      fiber.context.uc_stack.ss_size = stack_bytes;
      fiber.context.uc_link = nullptr;
      makecontext(&fiber.context, enter, 0);
      sanitizers::start(fiber.sanitized);
    }
  }

  int take_any() {
    std::swap(ready_[draw() % ready_.size()], ready_.back());
    const int number = ready_.back();
    ready_.pop_back();
    return number;
  }

  void resume(int number) {
    current_ = &fibers_[number];
    threadIdx = current_->thread;
    const stack_t& stack = current_->context.uc_stack;
    sanitizers::enter_fiber(current_->sanitized, main_, stack.ss_sp, stack.ss_size);
    swapcontext(&main_context_, &current_->context);
    sanitizers::back_in_main(main_);
  }

  // A barrier opens when all threads of the block wait at the same one.
  void release_block() {
    for (const Fiber& fiber : fibers_)
      if (fiber.state != State::at_barrier || !same(fiber.site, current_->site)) return;
    for (Fiber& fiber : fibers_) release(fiber);
  }

  // Who comes last lets all go on that wait; whoever doesn't wait goes on at any rate.
  void come_to_barrier() {
    Fiber& fiber = *current_;
    NamedBarrier& barrier = barriers_[fiber.barrier % named_barriers];
    if (barrier.come.empty()) barrier.expected = fiber.expected;
    if (const std::string what = misuse(fiber, barrier); !what.empty()) {
      if (!error_)
        error_ = std::make_exception_ptr(KernelError(
            "block " + text(blockIdx) + ": thread " + text(fiber.thread) + " comes to barrier " +
            std::to_string(fiber.barrier) + " " + what + " at " + text(fiber.site)));
      return;
    }
    barrier.come.push_back(fiber.number);
    if (fiber.waits)
      barrier.waiting.push_back(fiber.number);
    else
      release(fiber);
    if (int(barrier.come.size()) < barrier.expected) return;
    for (const int other : barrier.waiting) release(fibers_[other]);
    barrier.come.clear();
    barrier.waiting.clear();
    ++barrier.opened;
  }

  std::string misuse(const Fiber& fiber, const NamedBarrier& barrier) const {
    if (fiber.barrier < 1 || fiber.barrier >= named_barriers) return "of none";
    if (fiber.expected % warp_size != 0 || fiber.expected > int(count_))
      return "for " + std::to_string(fiber.expected) + " threads, which aren't warps of the block";
    if (fiber.expected != barrier.expected)
      return "for " + std::to_string(fiber.expected) + " threads, others for " +
             std::to_string(barrier.expected);
    return std::count(barrier.come.begin(), barrier.come.end(), fiber.number) ? "twice" : "";
  }

  // Lanes go on when all that are asked for wait at the same line, each for the same lanes.
  void release_warp() {
    const unsigned mask = current_->mask;
    const int first = current_->number / warp_size * warp_size;
    const int last = std::min<int>(first + warp_size, count_);
    for (int lane = 0; lane < warp_size; ++lane) {
      if (!(mask >> lane & 1)) continue;
      if (first + lane >= last) return;
      const Fiber& fiber = fibers_[first + lane];
      if (fiber.state != State::in_warp || fiber.mask != mask || !same(fiber.site, current_->site))
        return;
    }
    for (int to = first; to < last; ++to) {
      if (!(mask >> (to - first) & 1)) continue;
      for (int from = first; from < last; ++from)
        fibers_[to].received[from - first] = fibers_[from].value;
      release(fibers_[to]);
    }
  }

  void release(Fiber& fiber) {
    fiber.state = State::ready;
    ready_.push_back(fiber.number);
  }

  std::string complaint() const {
    std::string message = "block " + text(blockIdx) + ": ";
    std::size_t shown = 0, done = 0;
    for (const Fiber& fiber : fibers_) {
      if (fiber.state == State::done) {
        ++done;
      } else if (shown++ < most_shown) {
        message += "thread " + text(fiber.thread) + " waits for ever at " + text(fiber.site) +
                   (fiber.state == State::at_barrier         ? " for its block"
                    : fiber.state == State::at_named_barrier ? " for others"
                                                             : " for its warp") +
                   "; ";
      }
    }
    return message + std::to_string(count_ - done) + " threads wait, " + std::to_string(done) +
           " have ended";
  }

  const std::function<void()>& thread_;
  const unsigned count_;
  std::unique_ptr<unsigned char[]> stacks_;
  std::vector<Fiber> fibers_;
  std::vector<int> ready_;
  NamedBarrier barriers_[named_barriers];
  Fiber* current_ = nullptr;
  std::exception_ptr error_;
  ucontext_t main_context_;
  sanitizers::Main main_;
};

thread_local Block* running = nullptr;

// A block's shared memory: what it asked for holds no number, and the rest is out of bounds.
void begin_shared_memory(std::size_t bytes) {
  unsigned char* memory = fastrebasin::cuda::dynamic_shared_memory;
  sanitizers::forget(memory, most_shared_bytes);
  std::memset(memory, 0xFF, bytes);
  sanitizers::forbid(memory + bytes, most_shared_bytes - bytes);
}

void Block::enter() {
  sanitizers::first_in_fiber(running->main_);
  try {
    running->thread_();
  } catch (...) {  // the first of a block is told
    if (!running->error_) running->error_ = std::current_exception();
  }
  running->leave(State::done);
}

}  // namespace

void set_seed(std::uint64_t seed) { random_state = seed; }

void run(Index grid, Index block, std::size_t shared_bytes, const std::function<void()>& thread) {
  gridDim = grid;
  blockDim = block;
  std::vector<unsigned> order(std::size_t{grid.x} * grid.y * grid.z);
  std::iota(order.begin(), order.end(), 0u);
  for (std::size_t k = order.size(); k > 1; --k) std::swap(order[k - 1], order[draw() % k]);
  Block fibers(block, thread);
  running = &fibers;
  for (const unsigned k : order) {
    blockIdx = {k % grid.x, k / grid.x % grid.y, k / (grid.x * grid.y)};
    begin_shared_memory(shared_bytes);
    fibers.run();
  }
}

void wait_for_block(Site site) {
  running->current().site = site;
  sanitizers::release(running);
  running->leave(State::at_barrier);
  sanitizers::acquire(running);
}

void come_to_barrier(int barrier, int threads, bool waits, Site site) {
  Fiber& fiber = running->current();
  fiber.barrier = barrier;
  fiber.expected = threads;
  fiber.waits = waits;
  fiber.site = site;
  char* const meeting = running->meeting(barrier);
  sanitizers::release(meeting);
  running->leave(State::at_named_barrier);
  if (waits) sanitizers::acquire(meeting);
}

void wait_for_turn() { running->leave(State::ready); }

const std::uint64_t* exchange_in_warp(unsigned mask, std::uint64_t value, Site site) {
  Fiber& fiber = running->current();
  if (!(mask >> lane() & 1))
    throw KernelError("block " + text(blockIdx) + ": thread " + text(threadIdx) +
                      " is none of the lanes that it names at " + text(site));
  fiber.site = site;
  fiber.mask = mask;
  fiber.value = value;
  sanitizers::release(&(&fiber)[-lane()]);
  running->leave(State::in_warp);
  sanitizers::acquire(&(&fiber)[-lane()]);
  return fiber.received;
}

int lane() { return running->current().number % warp_size; }

}  // namespace cuda_shim
