#pragma once

// As much of the header of this name as the kernels use.

#include <cuda_runtime.h>

struct __half_raw {
  unsigned short x;
};

// The exponent's bias is moved by a product, which is exact and gives subnormal numbers their
// value.
inline float __half2float(__half_raw half) {
  const unsigned bits = half.x, sign = (bits & 0x8000u) << 16, magnitude = (bits & 0x7FFFu) << 13;
  const bool finite = (bits & 0x7C00u) != 0x7C00u;
  const unsigned value =
      finite ? __float_as_uint(__uint_as_float(magnitude) * 0x1p112f) : magnitude | 0x7F800000u;
  return __uint_as_float(sign | value);
}
