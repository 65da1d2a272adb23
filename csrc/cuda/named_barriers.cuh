#pragma once

// What warps of a block that do different things wait for of each other, and what they hand over.
//
// "Parallel Thread Execution ISA", sections on barrier and on setmaxnreg. A block has sixteen
// barriers; __syncthreads takes the first. Each opens when as many threads as all of them name have
// come to it, in whole warps, and can then be used again.

#include <cuda_runtime.h>

namespace fastrebasin::cuda {

// Comes to a barrier, and waits for the others.
__device__ inline void wait_at(int barrier, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Comes to a barrier without waiting there: others may go on.
__device__ inline void arrive_at(int barrier, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Sets how many registers each thread of a warpgroup has from here on: more than it was launched
// with as soon as others have given up as many, or fewer. A multiple of eight.
template <int registers, bool more>
__device__ void set_registers() {
  if constexpr (more)
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
  else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}

}  // namespace fastrebasin::cuda
