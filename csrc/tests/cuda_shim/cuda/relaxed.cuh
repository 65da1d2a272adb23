#pragma once

// As the device does it, told to the sanitizers.

namespace fastrebasin::cuda {

template <typename T>
T relaxed_load(const T* address) {
  T value;
  __atomic_load(address, &value, __ATOMIC_RELAXED);
  return value;
}

template <typename T>
void relaxed_store(T* address, T value) {
  __atomic_store(address, &value, __ATOMIC_RELAXED);
}

}  // namespace fastrebasin::cuda
