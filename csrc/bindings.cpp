// The Python module `_core`: checks arguments, releases the GIL, and makes one call each.
// Arrays cross as an address (0 for none), a dtype, a shape and strides in elements.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "cpu/assignment.hpp"
#include "cuda/device.hpp"

namespace py = pybind11;
using namespace py::literals;

namespace {

using Address = std::uintptr_t;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

// True when a signal is pending whose handler raised, as Ctrl-C's does.
bool signal_raised() {
  py::gil_scoped_acquire gil;
  return PyErr_CheckSignals() != 0;
}

template <typename T>
fastrebasin::cpu::AssignmentStatus solve(Address cost, std::array<std::int64_t, 2> shape,
                                         std::array<std::ptrdiff_t, 2> strides, bool maximize,
                                         fastrebasin::cpu::WarmStart warm,
                                         fastrebasin::cpu::AssignmentResult result) {
  py::gil_scoped_release released;
  return fastrebasin::cpu::solve_assignment<T>(
      {pointer<const T>(cost), shape[0], shape[1], strides[0], strides[1]}, maximize, warm, result,
      signal_raised);
}

void solve_assignment(Address cost, const std::string& dtype, std::array<std::int64_t, 2> shape,
                      std::array<std::ptrdiff_t, 2> strides, bool maximize, Address warm_col4row,
                      Address warm_col_duals, Address col4row, Address row_duals, Address col_duals,
                      Address gap) {
  using fastrebasin::cpu::AssignmentStatus;
  if (shape[0] < 0 || shape[1] < 0) throw std::invalid_argument("shape must not be negative");
  const fastrebasin::cpu::AssignmentResult result{pointer<std::int64_t>(col4row),
                                                  pointer<double>(row_duals),
                                                  pointer<double>(col_duals), pointer<double>(gap)};
  const fastrebasin::cpu::WarmStart warm{pointer<const std::int64_t>(warm_col4row),
                                         pointer<const double>(warm_col_duals)};
  AssignmentStatus status;
  if (dtype == "float32") {
    status = solve<float>(cost, shape, strides, maximize, warm, result);
  } else if (dtype == "float64") {
    status = solve<double>(cost, shape, strides, maximize, warm, result);
  } else {
    throw std::invalid_argument("dtype must be float32 or float64, got " + dtype);
  }
  switch (status) {
    case AssignmentStatus::optimal:
      return;
    case AssignmentStatus::invalid_entry:
      throw std::invalid_argument("matrix contains invalid numeric entries");
    case AssignmentStatus::infeasible:
      throw std::invalid_argument("cost matrix is infeasible");
    case AssignmentStatus::interrupted:
      throw py::error_already_set();
  }
}

}  // namespace

PYBIND11_MODULE(_core, m) {
  m.def("solve_assignment", &solve_assignment, "cost"_a, "dtype"_a, "shape"_a, "strides"_a,
        "maximize"_a, "warm_col4row"_a, "warm_col_duals"_a, "col4row"_a, "row_duals"_a,
        "col_duals"_a, "gap"_a);
  m.def("cuda_built", &fastrebasin::cuda::built);
}
