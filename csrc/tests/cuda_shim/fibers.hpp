#pragma once

// Runs the threads of a block as fibers of one thread, in an order that a seed draws. A fiber runs
// until it waits for others, or until it comes to an atomic operation; which one goes on is then
// drawn again. So a kernel that lacks a barrier gives other results for other seeds, and under the
// thread sanitizer it's reported for every seed. Threads that wait for what can't come any more are
// an error with their names, never a hang.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>

namespace cuda_shim {

// Of shared memory: as much as a block may ask for, on any device.
constexpr int most_shared_bytes = 227 * 1024;

struct Index {
  unsigned x, y, z;
};

// What a kernel did wrong.
class KernelError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A line of the kernel, where threads wait for each other.
struct Site {
  const char* file = nullptr;
  int line = 0;
};

constexpr int warp_size = 32;
constexpr int named_barriers = 16;

// Draws the order of blocks and threads of the launches that follow.
void set_seed(std::uint64_t seed);

// Runs all threads of all blocks, one block after the other. `shared_bytes` of shared memory begin
// as bytes of 0xFF: NaN as a number. Throws KernelError.
void run(Index grid, Index block, std::size_t shared_bytes, const std::function<void()>& thread);

// For the thread that calls.
void wait_for_block(Site site);
void wait_for_turn();
// Comes to a barrier that opens when so many threads have come, and waits there or goes on.
void come_to_barrier(int barrier, int threads, bool waits, Site site);
// Waits for the lanes of `mask`, which must come to the same site with the same mask, and returns
// the value of each lane.
const std::uint64_t* exchange_in_warp(unsigned mask, std::uint64_t value, Site site);
int lane();

}  // namespace cuda_shim

extern __thread cuda_shim::Index threadIdx, blockIdx, blockDim, gridDim;
