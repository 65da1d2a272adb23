// On processors other than x86-64 the baseline row kernels are the only ones.

#include "cpu/kernels/row_kernels.hpp"

namespace fastrebasin::cpu {

namespace baseline {
extern const RowKernels<float> kernels_float;
extern const RowKernels<double> kernels_double;
}  // namespace baseline

template <>
const RowKernels<float>& row_kernels<float>() {
  return baseline::kernels_float;
}

template <>
const RowKernels<double>& row_kernels<double>() {
  return baseline::kernels_double;
}

}  // namespace fastrebasin::cpu
