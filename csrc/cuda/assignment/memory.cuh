#pragma once

// Arrays of which the compiler knows in what memory they are: from shared memory it then reads at
// once, and changes numbers there by atomic operations of their own. Through a pointer that may
// lead anywhere both take many instructions more.

#include <cuda_runtime.h>

namespace fastrebasin::cuda::assignment {

enum class Memory { global, shared, any };

template <typename T, Memory memory>
class Array {
 public:
  Array() = default;
  __host__ __device__ Array(T* first) : first_(first) {}

  __device__ operator T*() const {
#if defined(__CUDA_ARCH__)
    if constexpr (memory == Memory::shared) __builtin_assume(__isShared(first_));
    if constexpr (memory == Memory::global) __builtin_assume(__isGlobal(first_));
#endif
    return first_;
  }
  __device__ T* operator->() const { return *this; }
  __host__ __device__ T* raw() const { return first_; }

 private:
  T* first_;
};

}  // namespace fastrebasin::cuda::assignment
