#pragma once

// Products by warpgroups, which one generation of devices has: one of two source files defines
// these.

#include "cuda/correlation_tasks.hpp"

namespace fastrebasin::cuda {

// Whether a device has warpgroups, and this build the kernels for them.
bool has_warpgroups(int device);

void multiply_by_warpgroups(const Group& group, Precision precision, Stream stream);

}  // namespace fastrebasin::cuda
