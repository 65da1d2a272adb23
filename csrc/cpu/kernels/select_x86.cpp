// Picks the widest row kernels that the processor runs.

#include <cstdlib>
#include <string_view>

#include "cpu/kernels/row_kernels.hpp"

namespace fastrebasin::cpu {

#define FASTREBASIN_DECLARE(isa)                  \
  namespace isa {                                 \
  extern const RowKernels<float> kernels_float;   \
  extern const RowKernels<double> kernels_double; \
  }
FASTREBASIN_DECLARE(baseline)
FASTREBASIN_DECLARE(avx2)
FASTREBASIN_DECLARE(avx512)
#undef FASTREBASIN_DECLARE

namespace {

enum class Isa { baseline, avx2, avx512 };

// FASTREBASIN_KERNELS=baseline|avx2 asks for narrower kernels than the processor's widest, which
// is how the tests reach all of them on one machine.
Isa widest() {
  const char* wish = std::getenv("FASTREBASIN_KERNELS");
  const std::string_view limit = wish ? wish : "";
  if (limit == "baseline") return Isa::baseline;
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx512 && limit != "avx2") return Isa::avx512;
  return has_avx2 ? Isa::avx2 : Isa::baseline;
}

Isa chosen() {
  static const Isa isa = widest();
  return isa;
}

}  // namespace

template <>
const RowKernels<float>& row_kernels<float>() {
  switch (chosen()) {
    case Isa::avx512:
      return avx512::kernels_float;
    case Isa::avx2:
      return avx2::kernels_float;
    default:
      return baseline::kernels_float;
  }
}

template <>
const RowKernels<double>& row_kernels<double>() {
  switch (chosen()) {
    case Isa::avx512:
      return avx512::kernels_double;
    case Isa::avx2:
      return avx2::kernels_double;
    default:
      return baseline::kernels_double;
  }
}

}  // namespace fastrebasin::cpu
