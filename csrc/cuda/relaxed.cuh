#pragma once

// Reads what other threads may change meanwhile by atomic operations.

namespace fastrebasin::cuda {

template <typename T>
__device__ T relaxed_load(const T* address) {
  return *static_cast<const volatile T*>(address);
}

}  // namespace fastrebasin::cuda
