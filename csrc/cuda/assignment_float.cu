// Assignment problems whose costs are float32.

#include "cuda/assignment/launches.cuh"

namespace fastrebasin::cuda::assignment {

template <>
void run<float>(const Group& group, int device, Stream stream) {
  run_kernels<float>(group, device, stream);
}

}  // namespace fastrebasin::cuda::assignment
