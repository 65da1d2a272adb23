#pragma once

// The CUDA room's door: one of the source files of this folder defines it.

namespace fastrebasin::cuda {

// True when the extension was built with CUDA kernels.
bool built() noexcept;

}  // namespace fastrebasin::cuda
