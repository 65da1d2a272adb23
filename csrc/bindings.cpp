// The Python module `_core`: a table of contents. Each file in bindings/ checks arguments, releases
// the GIL and makes one call for each of its functions.

#include <pybind11/pybind11.h>

#include "cuda/device.hpp"

namespace py = pybind11;

// Each by the file of its name.
void register_assignment(py::module_& m);
void register_correlation(py::module_& m);
void register_device_assignment(py::module_& m);
void register_gather(py::module_& m);

// Nothing here is shared between calls, so threads need no GIL to keep them apart.
PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  register_assignment(m);
  register_correlation(m);
  register_device_assignment(m);
  register_gather(m);
  m.def("cuda_built", &fastrebasin::cuda::built);
  m.def("cuda_build", [] {
    const auto [toolkit, architectures] = fastrebasin::cuda::build();
    return py::make_tuple(toolkit, architectures);
  });
}
