// Stands in for the CUDA kernels in a build without them.

#include <stdexcept>

#include "cuda/assignment.hpp"
#include "cuda/correlation.hpp"
#include "cuda/device.hpp"

namespace fastrebasin::cuda {

namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error("this build of fastrebasin has no CUDA kernels");
}

}  // namespace

bool built() noexcept { return false; }

Build build() noexcept { return {"", ""}; }

std::size_t workspace_bytes(const std::vector<CrossMoments>&, Precision, int) { return 0; }
std::size_t workspace_bytes(const std::vector<AssignmentStack>&) { return 0; }

void find_shifts(const std::vector<CrossMoments>&, int, Stream) { refuse(); }
void add_cross_moments(const std::vector<CrossMoments>&, Precision, void*, int, Stream) {
  refuse();
}
void solve_assignments(const std::vector<AssignmentStack>&, bool, void*, int, Stream) { refuse(); }

}  // namespace fastrebasin::cuda
