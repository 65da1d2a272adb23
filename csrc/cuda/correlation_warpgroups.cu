// The kernels of correlation.cu for devices of sm_90a, compiled for no others. Their tensor cores
// reach their full speed only for 128 threads together, which read one factor from shared memory.

#include "cuda/correlation_kernel.cuh"
#include "cuda/correlation_warpgroups.hpp"
#include "cuda/launch.cuh"
#include "cuda/tile_by_roles.cuh"
#include "cuda/warpgroup_product.cuh"

namespace fastrebasin::cuda {

bool has_warpgroups(int device) {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "tell a device's generation");
  return major == 9;
}

void multiply_by_warpgroups(const Group& group, Precision precision, Stream stream) {
  switch (precision) {
    case Precision::highest:
      return launch_multiply<TileByRoles<WarpgroupShape<128, Precision::highest>>>(group, stream);
    case Precision::high:
      if (group.cut.y_units == 256)
        return launch_multiply<TileByRoles<WarpgroupShape<256, Precision::high>>>(group, stream);
      return launch_multiply<TileByRoles<WarpgroupShape<128, Precision::high>>>(group, stream);
    case Precision::medium:
      return launch_multiply<TileByRoles<WarpgroupShape<128, Precision::medium>>>(group, stream);
  }
}

}  // namespace fastrebasin::cuda
