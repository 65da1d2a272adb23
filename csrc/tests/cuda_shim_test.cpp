// The shim itself: it runs kernels as a device would, and catches what a device may let pass.

#include <cstdint>
#include <cstdio>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "check.hpp"
#include "cuda/launch.cuh"
#include "cuda/named_barriers.cuh"

namespace fastrebasin::tests {
namespace {

constexpr int seeds = 20;
constexpr unsigned all = 0xFFFFFFFF;

// Each block turns its part of `values` round, through shared memory.
__global__ void reverse(int* values, bool with_barrier) {
  int* shared = &cuda::shared_memory<int>();
  int* mine = values + blockIdx.x * blockDim.x;
  shared[threadIdx.x] = mine[threadIdx.x];
  if (with_barrier) __syncthreads();
  mine[threadIdx.x] = shared[blockDim.x - 1 - threadIdx.x];
}

std::vector<int> reversed(std::uint64_t seed, bool with_barrier) {
  constexpr int threads = 96, blocks = 3;
  std::vector<int> values(threads * blocks);
  std::iota(values.begin(), values.end(), 0);
  cuda_shim::set_seed(seed);
  cuda::launch(reverse, blocks, threads, threads * sizeof(int), nullptr, values.data(),
               with_barrier);
  return values;
}

void test_barriers() {
  for (int seed = 0; seed < seeds; ++seed) {
    current_case = "barrier, seed " + std::to_string(seed);
    const std::vector<int> values = reversed(seed, true);
    for (int k = 0; k < int(values.size()); ++k) CHECK(values[k] == k / 96 * 96 + 95 - k % 96);
  }
}

// A race shows: results depend on the order, and shared memory isn't what an earlier block left.
void test_a_missing_barrier_shows() {
  current_case = "missing barrier";
  std::set<std::vector<int>> results;
  for (int seed = 0; seed < seeds; ++seed) results.insert(reversed(seed, false));
  CHECK(results.size() == seeds);
  for (const std::vector<int>& values : results) {
    int unwritten = 0;
    for (const int value : values) unwritten += value == -1;
    CHECK(unwritten > 30);
  }
}

__global__ void shuffles(int* sums, int* neighbours, unsigned* odd, float* first, int* part) {
  const int lane = threadIdx.x % 32;
  int sum = threadIdx.x;
  for (int bit = 16; bit > 0; bit /= 2) sum += __shfl_xor_sync(all, sum, bit);
  sums[threadIdx.x] = sum;
  neighbours[threadIdx.x] = __shfl_up_sync(all, lane, 1) + 100 * __shfl_down_sync(all, lane, 3);
  odd[threadIdx.x] = __ballot_sync(all, lane % 2);
  first[threadIdx.x] = __shfl_sync(all, 0.5f * threadIdx.x, 0, 8);
  if (lane < 5) part[threadIdx.x] = __shfl_sync(0x1F, lane, 4) + __all_sync(0x1F, lane < 5);
  __syncwarp();
}

void test_warps() {
  for (int seed = 0; seed < seeds; ++seed) {
    current_case = "warps, seed " + std::to_string(seed);
    cuda_shim::set_seed(seed);
    std::vector<int> sums(64), neighbours(64), part(64);
    std::vector<unsigned> odd(64);
    std::vector<float> first(64);
    cuda::launch(shuffles, 1, 64, 0, nullptr, sums.data(), neighbours.data(), odd.data(),
                 first.data(), part.data());
    for (int k = 0; k < 64; ++k) {
      const int lane = k % 32;
      CHECK(sums[k] == (k < 32 ? 496 : 496 + 1024));
      CHECK(neighbours[k] == (lane > 0 ? lane - 1 : 0) + 100 * (lane < 29 ? lane + 3 : lane));
      CHECK(odd[k] == 0xAAAAAAAA);
      CHECK(first[k] == 0.5f * (k / 8 * 8));
      CHECK(part[k] == (lane < 5 ? 5 : 0));
    }
  }
}

__global__ void count(int* counter, double* total, int* last, unsigned long long* chain) {
  const int before = atomicAdd(counter, 1);
  atomicAdd(total, 0.25);
  atomicMax(last, before);
  if (atomicCAS(chain, 0ull, 1ull + threadIdx.x) == 0) return;
  atomicMin(last + 1, int(threadIdx.x));
}

void test_atomics() {
  current_case = "atomics";
  std::set<unsigned long long> winners;
  for (int seed = 0; seed < seeds; ++seed) {
    int counter = 0, last[2] = {0, 1000};
    double total = 0;
    unsigned long long chain = 0;
    cuda_shim::set_seed(seed);
    cuda::launch(count, 2, dim3(10, 5), 0, nullptr, &counter, &total, last, &chain);
    CHECK(counter == 100 && total == 25 && last[0] == 99 && last[1] == 0);
    winners.insert(chain);
  }
  CHECK(winners.size() > 2);
}

// The first warp hands each of some numbers to the second, which hands back the number's square;
// there is room for two numbers on their way.
__global__ void hand_over(int* squares, int count) {
  constexpr int filled = 1, emptied = 3, threads = 64;  // the first of two barriers each
  int* room = &cuda::shared_memory<int>();
  const int lane = threadIdx.x % 32;
  for (int k = 0; k < count; ++k) {
    int& here = room[k % 2 * 32 + lane];
    if (threadIdx.x < 32) {
      if (k >= 2) cuda::wait_at(emptied + k % 2, threads);
      here = k + lane;
      cuda::arrive_at(filled + k % 2, threads);
    } else {
      cuda::wait_at(filled + k % 2, threads);
      squares[k * 32 + lane] = here * here;
      if (k + 2 < count) cuda::arrive_at(emptied + k % 2, threads);
    }
  }
}

void test_named_barriers() {
  constexpr int count = 7;
  for (int seed = 0; seed < seeds; ++seed) {
    current_case = "named barriers, seed " + std::to_string(seed);
    cuda_shim::set_seed(seed);
    std::vector<int> squares(count * 32);
    cuda::launch(hand_over, 3, 64, 64 * sizeof(int), nullptr, squares.data(), count);
    for (int k = 0; k < count * 32; ++k) CHECK(squares[k] == (k / 32 + k % 32) * (k / 32 + k % 32));
  }
}

// What ends the kernel with an error, which begins with the block and holds the thread.
template <typename Launch>
void check_caught(const char* expected, Launch launch) {
  for (int seed = 0; seed < seeds; ++seed) {
    current_case = std::string("caught: ") + expected;
    cuda_shim::set_seed(seed);
    std::string message;
    try {
      launch();
    } catch (const cuda_shim::KernelError& error) {
      message = error.what();
    }
    CHECK(message.find("block (0, 0, 0)") == 0);
    CHECK(message.find(expected) != std::string::npos);
  }
}

__global__ void some_leave() {
  if (threadIdx.x % 2 == 0) return;
  __syncthreads();
}

__global__ void each_at_its_own() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void half_a_warp() {
  if (threadIdx.x < 16) __shfl_xor_sync(all, threadIdx.x, 1);
}

__global__ void a_lane_that_is_not_named() { __syncwarp(0x1); }

__global__ void too_few_come() {
  if (threadIdx.x < 32) cuda::wait_at(1, 64);
}

__global__ void too_few_arrive() {
  if (threadIdx.x < 32) cuda::arrive_at(1, 64);
}

__global__ void each_for_another_number() { cuda::wait_at(1, threadIdx.x < 32 ? 64 : 32); }

void test_misuse_of_named_barriers_is_caught() {
  const auto caught = [](const char* expected, void (*kernel)()) {
    check_caught(expected, [=] { cuda::launch(kernel, 1, 64, 0, nullptr); });
  };
  caught("for others; 32 threads wait, 32 have ended", too_few_come);
  caught("barrier 1 never opens: 32 of 64 threads have come", too_few_arrive);
  caught("comes to barrier 1 for", each_for_another_number);
  caught("comes to barrier 1 for 33 threads, which aren't warps", [] { cuda::wait_at(1, 33); });
  caught("comes to barrier 0 of none", [] { cuda::wait_at(0, 64); });
}

void test_divergence_is_caught() {
  check_caught("for its block; 32 threads wait, 32 have ended",
               [] { cuda::launch(some_leave, 1, 64, 0, nullptr); });
  check_caught("64 threads wait, 0 have ended",
               [] { cuda::launch(each_at_its_own, 1, 64, 0, nullptr); });
  check_caught("for its warp; 16 threads wait, 48 have ended",
               [] { cuda::launch(half_a_warp, 1, 64, 0, nullptr); });
  check_caught("is none of the lanes that it names",
               [] { cuda::launch(a_lane_that_is_not_named, 1, 32, 0, nullptr); });
}

template <typename Action>
std::string failure(Action action) {
  try {
    action();
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

void test_failures_are_told() {
  current_case = "failures";
  const auto launch = [](unsigned blocks, unsigned threads, std::size_t bytes) {
    return failure([&] { cuda::launch(some_leave, blocks, threads, bytes, nullptr); });
  };
  const std::string misfit = "CUDA can't launch a kernel: invalid configuration argument";
  CHECK(launch(0, 32, 0) == misfit);
  CHECK(launch(1, 1025, 0) == misfit);
  CHECK(launch(1, 32, 49 * 1024) == "CUDA can't launch a kernel: invalid argument");
  {
    const cuda::OnDevice on(1);
    CHECK(cuda_shim::current_device() == 1);
    cuda_shim::fail(cudaErrorInvalidValue, 1);
    CHECK(failure([] { cuda::OnDevice(2); }) == "CUDA can't use the device: invalid argument");
    CHECK(cuda_shim::current_device() == 1);
  }
  CHECK(cuda_shim::current_device() == 0);
}

}  // namespace
}  // namespace fastrebasin::tests

// The race is on its own: a sanitizer of threads must report it.
int main(int count, char** arguments) {
  using namespace fastrebasin::tests;
  if (count > 1 && std::string(arguments[1]) == "race") {
    test_a_missing_barrier_shows();
    return 0;
  }
  test_barriers();
  test_warps();
  test_atomics();
  test_named_barriers();
  test_divergence_is_caught();
  test_misuse_of_named_barriers_is_caught();
  test_failures_are_told();
  std::puts("the shim runs kernels, and catches what is wrong with them");
}
