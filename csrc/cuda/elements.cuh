#pragma once

// Numbers of 16 and 32 bits, as bits: what was loaded is widened only when it's needed, and rounded
// to what the tensor cores multiply.

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/correlation.hpp"

namespace fastrebasin::cuda {

__device__ inline float widened_bfloat16(unsigned bits) { return __uint_as_float(bits << 16); }

__device__ inline float widened_float16(unsigned bits) {
  return __half2float(__half_raw{static_cast<unsigned short>(bits)});
}

template <Element element>
__device__ float widened(unsigned bits) {
  switch (element) {
    case Element::float32:
      return __uint_as_float(bits);
    case Element::bfloat16:
      return widened_bfloat16(bits);
    default:
      return widened_float16(bits);
  }
}

// One value as it lies.
__device__ inline unsigned bits_at(const float* data) { return __float_as_uint(*data); }
__device__ inline unsigned bits_at(const std::uint16_t* data) { return *data; }

// A float32 as the sum of its 11 leading bits, rounded, and of the at most 12 that are left,
// signed. The second is not a number where the value isn't finite.
struct Halves {
  unsigned leading, rest;
};

__device__ inline Halves halves_of(unsigned bits) {
  const unsigned leading = (bits + 0x1000u) & 0xFFFFE000u;
  return {leading, __float_as_uint(__uint_as_float(bits) - __uint_as_float(leading))};
}

}  // namespace fastrebasin::cuda
