#pragma once

// Enough of CUDA's language and of its runtime for this project's kernels to be compiled and run by
// a host compiler, from the same files: found in place of NVIDIA's header of this name. Device
// memory is the host's.

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <utility>

#include "cuda_shim/fibers.hpp"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))
// For dynamic shared memory only, which is fresh in each block: any other is refused, as this wants
// an `extern` before it.
#define __shared__ __thread

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

// As on a device, any memory may be read as these.
struct __attribute__((may_alias, aligned(8))) float2 {
  float x, y;
};
struct __attribute__((may_alias, aligned(16))) float4 {
  float x, y, z, w;
};
struct __attribute__((may_alias, aligned(8))) uint2 {
  unsigned x, y;
};
struct __attribute__((may_alias, aligned(16))) uint4 {
  unsigned x, y, z, w;
};
struct __attribute__((may_alias, aligned(16))) double2 {
  double x, y;
};

// The device language.

#define FASTREBASIN_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __syncthreads(FASTREBASIN_SITE) { cuda_shim::wait_for_block({file, line}); }

inline void __syncwarp(unsigned mask = 0xFFFFFFFF, FASTREBASIN_SITE) {
  cuda_shim::exchange_in_warp(mask, 0, {file, line});
}

inline unsigned __ballot_sync(unsigned mask, int predicate, FASTREBASIN_SITE) {
  const std::uint64_t* values = cuda_shim::exchange_in_warp(mask, predicate != 0, {file, line});
  unsigned ballot = 0;
  for (int lane = 0; lane < cuda_shim::warp_size; ++lane)
    if (mask >> lane & 1) ballot |= unsigned(values[lane]) << lane;
  return ballot;
}

inline int __any_sync(unsigned mask, int predicate, FASTREBASIN_SITE) {
  return __ballot_sync(mask, predicate, file, line) != 0;
}

inline int __all_sync(unsigned mask, int predicate, FASTREBASIN_SITE) {
  return __ballot_sync(mask, predicate, file, line) == mask;
}

inline unsigned __reduce_min_sync(unsigned mask, unsigned value, FASTREBASIN_SITE) {
  const std::uint64_t* values = cuda_shim::exchange_in_warp(mask, value, {file, line});
  unsigned lowest = ~0u;
  for (int lane = 0; lane < cuda_shim::warp_size; ++lane)
    if ((mask >> lane & 1) && values[lane] < lowest) lowest = unsigned(values[lane]);
  return lowest;
}

namespace cuda_shim {

// The value that lane `from` gave; the lane's own where `from` lies outside its part of the warp.
template <typename T>
T shuffle(unsigned mask, T value, int from, int width, Site site) {
  static_assert(sizeof(T) <= sizeof(std::uint64_t));
  std::uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  const std::uint64_t* values = exchange_in_warp(mask, bits, site);
  const int first = lane() / width * width;
  if (from < first || from >= first + width) return value;
  if (!(mask >> from & 1)) throw KernelError("a shuffle reads a lane that takes no part in it");
  std::memcpy(&value, &values[from], sizeof value);
  return value;
}

template <typename T, typename Change>
T change(T* address, Change to) {
  wait_for_turn();
  T before, after;
  __atomic_load(address, &before, __ATOMIC_RELAXED);
  do after = to(before);
  while (!__atomic_compare_exchange(address, &before, &after, false, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED));
  return before;
}

}  // namespace cuda_shim

template <typename T>
T __shfl_sync(unsigned mask, T value, int from, int width = 32, FASTREBASIN_SITE) {
  const int first = cuda_shim::lane() / width * width;
  return cuda_shim::shuffle(mask, value, first + from % width, width, {file, line});
}

template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32, FASTREBASIN_SITE) {
  return cuda_shim::shuffle(mask, value, cuda_shim::lane() - int(by), width, {file, line});
}

template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32, FASTREBASIN_SITE) {
  return cuda_shim::shuffle(mask, value, cuda_shim::lane() + int(by), width, {file, line});
}

template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, FASTREBASIN_SITE) {
  return cuda_shim::shuffle(mask, value, cuda_shim::lane() ^ bits, width, {file, line});
}

#undef FASTREBASIN_SITE

template <typename T>
T atomicAdd(T* address, T value) {
  return cuda_shim::change(address, [&](T before) { return T(before + value); });
}

template <typename T>
T atomicMin(T* address, T value) {
  return cuda_shim::change(address, [&](T before) { return value < before ? value : before; });
}

template <typename T>
T atomicMax(T* address, T value) {
  return cuda_shim::change(address, [&](T before) { return before < value ? value : before; });
}

template <typename T>
T atomicCAS(T* address, T expected, T value) {
  return cuda_shim::change(address, [&](T before) { return before == expected ? value : before; });
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}

inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline double __longlong_as_double(long long bits) {
  double value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline long long __double_as_longlong(double value) {
  long long bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffsll(long long bits) { return __builtin_ffsll(bits); }
inline int __ffs(int bits) { return __builtin_ffs(bits); }

inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// The runtime.

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = struct CUstream_st*;

struct cudaLaunchAttribute;

struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  std::size_t dynamicSmemBytes = 0;
  cudaStream_t stream = nullptr;
  cudaLaunchAttribute* attrs = nullptr;
  unsigned numAttrs = 0;
};

namespace cuda_shim {

// The call after the next `calls` of the runtime fails with this error.
void fail(cudaError_t error, int calls = 0);
cudaError_t outcome();
// Whether the runtime knows of a device: without one every call fails.
int current_device();
// Which generation devices are of, from here on.
void set_generation(int major);
// How much shared memory a kernel can be allowed, from here on.
void set_shared_memory(int bytes);
cudaError_t launchable(const void* kernel, const cudaLaunchConfig_t& config);
// Lets a kernel use so much shared memory.
cudaError_t allow(const void* kernel, int shared_bytes);

}  // namespace cuda_shim

enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor = 75,
  cudaDevAttrMaxSharedMemoryPerBlockOptin = 97,
};

const char* cudaGetErrorString(cudaError_t error);
cudaError_t cudaGetDevice(int* device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);

template <typename... Parameters>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Parameters...), cudaFuncAttribute, int value) {
  return cuda_shim::allow(reinterpret_cast<const void*>(kernel), value);
}

template <typename... Parameters, typename... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               Arguments&&... arguments) {
  const cudaError_t error = cuda_shim::launchable(reinterpret_cast<const void*>(kernel), *config);
  if (error != cudaSuccess) return error;
  const dim3 grid = config->gridDim, block = config->blockDim;
  cuda_shim::run({grid.x, grid.y, grid.z}, {block.x, block.y, block.z}, config->dynamicSmemBytes,
                 [&] { kernel(Parameters(arguments)...); });
  return cudaSuccess;
}
