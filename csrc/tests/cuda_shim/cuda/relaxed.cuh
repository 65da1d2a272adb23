#pragma once

// As the device does it, told to the sanitizers.

namespace fastrebasin::cuda {

template <typename T>
T relaxed_load(const T* address) {
  T value;
  __atomic_load(address, &value, __ATOMIC_RELAXED);
  return value;
}

}  // namespace fastrebasin::cuda
