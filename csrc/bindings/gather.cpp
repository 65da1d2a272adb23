// Gathered kernels of convolutions: NumPy arrays in and out.

#include "cpu/gather.hpp"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>

namespace py = pybind11;
using namespace py::literals;
namespace cpu = fastrebasin::cpu;

namespace {

using Indices = py::array_t<std::int64_t, py::array::c_style>;

bool is_contiguous(const py::array& array) { return (array.flags() & py::array::c_style) != 0; }

// For each entry of axis `units` of an array (rows, cols, kernel), the kernels at `index` on the
// other axis: to `out`, of shape (units, index, kernel).
void gather_kernels(const py::array& array, int units, const Indices& index, py::array out) {
  if (array.ndim() != 3 || out.ndim() != 3 || index.ndim() != 1 || (units != 0 && units != 1))
    throw std::invalid_argument("expected arrays of three axes, a vector, and units 0 or 1");
  const bool fits = array.dtype().is(out.dtype()) && is_contiguous(array) && is_contiguous(out) &&
                    out.shape(0) == array.shape(units) && out.shape(1) == index.shape(0) &&
                    out.shape(2) == array.shape(2);
  if (!fits) throw std::invalid_argument("out must be contiguous, as array, and fit it and index");
  const auto inside = [&](std::int64_t k) { return k >= 0 && k < array.shape(1 - units); };
  if (!std::all_of(index.data(), index.data() + index.size(), inside))
    throw std::out_of_range("index is out of range");
  const auto bytes = static_cast<std::size_t>(array.shape(2) * array.itemsize());
  const cpu::KernelsView view{static_cast<const std::byte*>(array.data()), array.shape(0),
                              array.shape(1), bytes};
  auto* to = static_cast<std::byte*>(out.mutable_data());
  py::gil_scoped_release released;
  cpu::gather_kernels(view, units == 1, index.data(), index.size(), to);
}

}  // namespace

void register_gather(py::module_& m) {
  m.def("gather_kernels", &gather_kernels, "array"_a, "units"_a, "index"_a, "out"_a);
}
