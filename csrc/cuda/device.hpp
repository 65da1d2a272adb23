#pragma once

// The CUDA room's door: one of the source files of this folder defines it.

namespace fastrebasin::cuda {

// True when the extension was built with CUDA kernels.
bool built() noexcept;

// What compiled them, and for which GPU generations; empty without kernels.
struct Build {
  const char *toolkit, *architectures;
};
Build build() noexcept;

}  // namespace fastrebasin::cuda
