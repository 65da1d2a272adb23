// Assignment problems whose costs are float64.

#include "cuda/assignment/launches.cuh"

namespace fastrebasin::cuda::assignment {

template <>
void run<double>(const Group& group, int device, Stream stream) {
  run_kernels<double>(group, device, stream);
}

}  // namespace fastrebasin::cuda::assignment
