// The runtime's functions, as a host without a device would wish them.

#include <cuda_runtime.h>

#include <map>

namespace cuda_shim {
namespace {

thread_local cudaError_t failure = cudaSuccess;
thread_local int calls_before_failure = 0;
thread_local int device = 0;
thread_local int generation = 8;
thread_local std::map<const void*, int> allowed;  // of shared memory, for each kernel

// Of shared memory: what a kernel may always use, and what it can be allowed.
constexpr int usual_shared_bytes = 48 * 1024;
thread_local int allowable_shared_bytes = most_shared_bytes;

}  // namespace

void fail(cudaError_t error, int calls) {
  failure = error;
  calls_before_failure = calls;
}

cudaError_t outcome() {
  if (failure == cudaSuccess || calls_before_failure-- > 0) return cudaSuccess;
  return std::exchange(failure, cudaSuccess);
}

int current_device() { return device; }

void set_generation(int major) { generation = major; }

void set_shared_memory(int bytes) { allowable_shared_bytes = bytes; }

// The limits of every device, and what needs no leave to be launched.
cudaError_t launchable(const void* kernel, const cudaLaunchConfig_t& config) {
  if (const cudaError_t error = outcome(); error != cudaSuccess) return error;
  const dim3 grid = config.gridDim, block = config.blockDim;
  const auto volume = [](const dim3& d) { return std::uint64_t{d.x} * d.y * d.z; };
  if (volume(grid) == 0 || volume(block) == 0 || volume(block) > 1024 || block.z > 64 ||
      grid.x > 0x7FFFFFFF || grid.y > 65535 || grid.z > 65535)
    return cudaErrorInvalidConfiguration;
  const auto found = allowed.find(kernel);
  const int shared_bytes = found == allowed.end() ? usual_shared_bytes : found->second;
  return int(config.dynamicSmemBytes) > shared_bytes ? cudaErrorInvalidValue : cudaSuccess;
}

cudaError_t allow(const void* kernel, int shared_bytes) {
  if (const cudaError_t error = outcome(); error != cudaSuccess) return error;
  if (shared_bytes > allowable_shared_bytes) return cudaErrorInvalidValue;
  allowed[kernel] = shared_bytes;
  return cudaSuccess;
}

}  // namespace cuda_shim

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
    default:
      return "invalid argument";
  }
}

cudaError_t cudaGetDevice(int* device) {
  *device = cuda_shim::device;
  return cuda_shim::outcome();
}

cudaError_t cudaSetDevice(int device) {
  const cudaError_t error = cuda_shim::outcome();
  if (error == cudaSuccess) cuda_shim::device = device;
  return error;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  const bool asks_generation = attribute == cudaDevAttrComputeCapabilityMajor;
  *value = asks_generation ? cuda_shim::generation : cuda_shim::allowable_shared_bytes;
  return cuda_shim::outcome();
}
