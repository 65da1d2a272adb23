#pragma once

// Reads what other threads may change meanwhile, and writes what they may write, too.

namespace fastrebasin::cuda {

template <typename T>
__device__ T relaxed_load(const T* address) {
  return *static_cast<const volatile T*>(address);
}

template <typename T>
__device__ void relaxed_store(T* address, T value) {
  *static_cast<volatile T*>(address) = value;
}

}  // namespace fastrebasin::cuda
