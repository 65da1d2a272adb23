#pragma once

// Doubles as bits that order as they do, for atomic operations on them.

#include <cuda_runtime.h>

#include <limits>

namespace fastrebasin::cuda::assignment {

using Bits = unsigned long long;

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int none = -1;
constexpr unsigned all_lanes = 0xFFFFFFFF;
constexpr int warp_lanes = 32;

__device__ inline Bits bits_of(double value) { return Bits(__double_as_longlong(value)); }
__device__ inline double double_of(Bits bits) { return __longlong_as_double((long long)(bits)); }

// Numbers that aren't negative order as their words do.
__device__ inline unsigned high_word(double value) { return unsigned(bits_of(value) >> 32); }
__device__ inline unsigned low_word(double value) { return unsigned(bits_of(value)); }

// For any numbers.
__device__ inline Bits ordered(double value) {
  const Bits bits = bits_of(value);
  return bits >> 63 ? ~bits : bits | Bits{1} << 63;
}

__device__ inline double number_of(Bits ordered) {
  return double_of(ordered >> 63 ? ordered & ~(Bits{1} << 63) : ~ordered);
}

// The sum of every thread's value, in an order that depends on the block's size alone; all threads
// get it. `parts` has room for one number of each warp.
__device__ inline double block_sum(double value, double* parts) {
  for (int offset = warp_lanes / 2; offset; offset /= 2)
    value += __shfl_xor_sync(all_lanes, value, offset);
  __syncthreads();
  if (threadIdx.x % warp_lanes == 0) parts[threadIdx.x / warp_lanes] = value;
  __syncthreads();
  double sum = 0;
  for (unsigned warp = 0; warp < blockDim.x / warp_lanes; ++warp) sum += parts[warp];
  return sum;
}

// The least of the values of a warp's threads; all get it.
__device__ inline double warp_lowest(double value) {
  for (int offset = warp_lanes / 2; offset; offset /= 2) {
    const double other = __shfl_xor_sync(all_lanes, value, offset);
    value = other < value ? other : value;
  }
  return value;
}

// The same for values that aren't negative.
__device__ inline double warp_nearest(double value) {
  const unsigned high = high_word(value);
  const unsigned first = __reduce_min_sync(all_lanes, high);
  const unsigned second = __reduce_min_sync(all_lanes, high == first ? low_word(value) : ~0u);
  return double_of(Bits{first} << 32 | second);
}

// The largest of every thread's value.
__device__ inline double block_highest(double value, double* parts) {
  for (int offset = warp_lanes / 2; offset; offset /= 2) {
    const double other = __shfl_xor_sync(all_lanes, value, offset);
    value = other > value ? other : value;
  }
  __syncthreads();
  if (threadIdx.x % warp_lanes == 0) parts[threadIdx.x / warp_lanes] = value;
  __syncthreads();
  double highest = parts[0];
  for (unsigned warp = 1; warp < blockDim.x / warp_lanes; ++warp)
    highest = parts[warp] > highest ? parts[warp] : highest;
  return highest;
}

// The number of threads before this one with a flag, and of all with one.
struct Rank {
  int before, all;
};
__device__ inline Rank block_rank(bool flag, int* parts) {
  const unsigned warp = threadIdx.x / warp_lanes, lane = threadIdx.x % warp_lanes;
  const unsigned ballot = __ballot_sync(all_lanes, flag);
  __syncthreads();
  if (lane == 0) parts[warp] = __popc(ballot);
  __syncthreads();
  Rank rank{__popc(ballot & ((1u << lane) - 1)), 0};
  for (unsigned other = 0; other < blockDim.x / warp_lanes; ++other) {
    if (other < warp) rank.before += parts[other];
    rank.all += parts[other];
  }
  return rank;
}

}  // namespace fastrebasin::cuda::assignment
