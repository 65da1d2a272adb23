#pragma once

// Launches and calls of the runtime: each is checked, and says what failed. No file but this one
// launches a kernel, and no chevrons do, so a host compiler reads all sources.

#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>
#include <utility>

namespace fastrebasin::cuda {

inline void check(cudaError_t error, const char* action) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("CUDA can't ") + action + ": " + cudaGetErrorString(error));
}

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, std::size_t shared_bytes,
            cudaStream_t stream, Arguments&&... arguments) {
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...),
        "launch a kernel");
}

// Lets a kernel use more shared memory than all kernels may.
template <typename... Parameters>
void allow_shared_memory(void (*kernel)(Parameters...), std::size_t bytes) {
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(bytes)),
        "give a kernel shared memory");
}

// The most that a block can be allowed on a device.
inline std::size_t most_shared_memory(int device) {
  int bytes = 0;
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device),
        "tell a device's shared memory");
  return std::size_t(bytes);
}

// Makes a device current, and the former one at its end. To make one current that is already would
// be no harm, but to go back to one that was never used would give it a context.
class OnDevice {
 public:
  explicit OnDevice(int device) : device_(device) {
    check(cudaGetDevice(&former_), "tell the current device");
    if (former_ != device_) check(cudaSetDevice(device_), "use the device");
  }
  ~OnDevice() {
    if (former_ != device_) cudaSetDevice(former_);
  }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int device_, former_ = 0;
};

// A block's dynamic shared memory, as one T without initial values. Kernels use no other kind.
template <typename T>
__device__ T& shared_memory() {
  extern __shared__ __align__(1024) unsigned char dynamic_shared_memory[];
  return *reinterpret_cast<T*>(dynamic_shared_memory);
}

}  // namespace fastrebasin::cuda
