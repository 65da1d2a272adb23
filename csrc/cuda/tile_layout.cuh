#pragma once

// How units lie in a tile in shared memory. A tile holds words of units: one observation each, or
// two in bfloat16. Four words of a unit that follow each other are a quad, which is written at
// once.

#include <cuda_runtime.h>

#include "cuda/tensor_cores.cuh"

namespace fastrebasin::cuda {

constexpr int warp_threads = 32;
constexpr int warpgroup_threads = 4 * warp_threads;

__device__ inline unsigned lane() { return threadIdx.x % warp_threads; }
__device__ inline unsigned warp() { return threadIdx.x / warp_threads; }

// Units go in groups of eight, four units apart: what the threads of a warp read or write at once
// is one unit of each of some groups' members.
struct Place {
  unsigned group, member;
};

__device__ inline Place place_of(unsigned unit) { return {unit / 32 * 4 + unit % 4, unit / 4 % 8}; }
__device__ inline unsigned unit_at(Place place) {
  return place.group / 4 * 32 + place.member * 4 + place.group % 4;
}

template <int columns>
__device__ void clear(float (&sums)[columns][4]) {
#pragma unroll
  for (int j = 0; j < columns; ++j)
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[j][k] = 0;
}

constexpr int observations_per_word(Precision precision) {
  return precision == Precision::medium ? 2 : 1;
}
constexpr int observations_per_quad(Precision precision) {
  return 4 * observations_per_word(precision);
}

// The words of a quad's observations.
template <Precision precision>
__device__ uint4 words_of(const float (&values)[observations_per_quad(precision)]) {
  unsigned words[4];
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if constexpr (precision == Precision::highest)
      words[k] = __float_as_uint(values[k]);
    else if constexpr (precision == Precision::high)
      words[k] = rounded_word(values[k]);
    else
      words[k] = rounded_word(values[2 * k], values[2 * k + 1]);
  }
  return {words[0], words[1], words[2], words[3]};
}

}  // namespace fastrebasin::cuda
