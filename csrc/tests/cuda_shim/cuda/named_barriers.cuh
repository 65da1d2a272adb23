#pragma once

// As the device does it, told to the shim. Threads keep the registers that they have.

#include <cuda_runtime.h>

namespace fastrebasin::cuda {

inline void wait_at(int barrier, int threads, const char* file = __builtin_FILE(),
                    int line = __builtin_LINE()) {
  cuda_shim::come_to_barrier(barrier, threads, true, {file, line});
}

inline void arrive_at(int barrier, int threads, const char* file = __builtin_FILE(),
                      int line = __builtin_LINE()) {
  cuda_shim::come_to_barrier(barrier, threads, false, {file, line});
}

template <int registers, bool>
void set_registers() {
  static_assert(registers % 8 == 0 && registers >= 24 && registers <= 256);
}

}  // namespace fastrebasin::cuda
