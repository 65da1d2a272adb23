// Linear assignment on a CUDA device: addresses, shapes and strides in, which the caller checked.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <limits>
#include <stdexcept>
#include <tuple>
#include <vector>

#include "cuda/assignment.hpp"

namespace py = pybind11;
using namespace py::literals;
namespace cuda = fastrebasin::cuda;

namespace {

using Address = std::uintptr_t;
// (batch, rows, cols), and strides of the first two axes in elements.
using Shape = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
// col4row and col_duals, to start from; 0 for none.
using Former = std::tuple<Address, Address>;
// col4row, row_duals, col_duals, gap, status.
using Found = std::tuple<Address, Address, Address, Address, Address>;
// costs, whether they are float64, shape, former result, what is found.
using Stack = std::tuple<Address, bool, Shape, Former, Found>;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

cuda::AssignmentStack stack_of(const Stack& stack) {
  const auto& [costs, is_double, shape, former, found] = stack;
  const auto& [batch, rows, cols, batch_stride, row_stride] = shape;
  const auto& [warm_col4row, warm_col_duals] = former;
  const auto& [col4row, row_duals, col_duals, gap, status] = found;
  if (batch < 0 || rows < 0 || rows > cols || rows > cuda::most_rows ||
      cols >= std::numeric_limits<std::int32_t>::max() / 2)
    throw std::invalid_argument("expected at most 65535 rows, and as many columns or more");
  return {pointer<const void>(costs),
          is_double,
          batch,
          rows,
          cols,
          batch_stride,
          row_stride,
          pointer<const std::int64_t>(warm_col4row),
          pointer<const double>(warm_col_duals),
          pointer<std::int64_t>(col4row),
          pointer<double>(row_duals),
          pointer<double>(col_duals),
          pointer<double>(gap),
          pointer<std::int32_t>(status)};
}

std::vector<cuda::AssignmentStack> stacks_of(const std::vector<Stack>& given) {
  std::vector<cuda::AssignmentStack> stacks;
  for (const Stack& stack : given) stacks.push_back(stack_of(stack));
  return stacks;
}

std::size_t workspace_bytes(const std::vector<Stack>& stacks) {
  return cuda::workspace_bytes(stacks_of(stacks));
}

void solve_assignments(const std::vector<Stack>& given, bool maximize, Address workspace,
                       int device, Address stream) {
  const std::vector<cuda::AssignmentStack> stacks = stacks_of(given);
  py::gil_scoped_release released;
  cuda::solve_assignments(stacks, maximize, pointer<void>(workspace), device,
                          pointer<CUstream_st>(stream));
}

}  // namespace

void register_device_assignment(py::module_& m) {
  m.def("device_assignments_workspace", &workspace_bytes, "stacks"_a);
  m.def("solve_device_assignments", &solve_assignments, "stacks"_a, "maximize"_a, "workspace"_a,
        "device"_a, "stream"_a);
}
