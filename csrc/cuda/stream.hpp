#pragma once

struct CUstream_st;

namespace fastrebasin::cuda {

using Stream = CUstream_st*;

}  // namespace fastrebasin::cuda
