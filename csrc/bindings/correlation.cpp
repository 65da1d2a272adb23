// Cross-moments of units on a CUDA device: addresses, shapes and strides in, which the caller
// checked.

#include "cuda/correlation.hpp"

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <tuple>
#include <vector>

namespace py = pybind11;
using namespace py::literals;
namespace cuda = fastrebasin::cuda;

namespace {

using Address = std::uintptr_t;
using Axes = std::array<std::int64_t, cuda::observation_axes>;

// data, element, count, stride, observation strides, shift, sums, squares; 0 for an address of
// none.
using Side = std::tuple<Address, int, std::int64_t, std::int64_t, Axes, Address, Address, Address>;
// x, y, observations, products, where y's observations lie on an axis, that axis.
using Pair = std::tuple<Side, Side, Axes, Address, Address, int>;

cuda::Units units_of(const Side& side) {
  const auto& [data, element, count, stride, strides, shift, sums, squares] = side;
  if (element < 0 || element > int(cuda::Element::float16))
    throw std::invalid_argument("expected an element of float32, bfloat16 or float16: 0, 1 or 2");
  if (count < 0) throw std::invalid_argument("counts must not be negative");
  return {reinterpret_cast<const void*>(data),
          static_cast<cuda::Element>(element),
          count,
          stride,
          {strides[0], strides[1], strides[2]},
          reinterpret_cast<float*>(shift),
          reinterpret_cast<double*>(sums),
          reinterpret_cast<double*>(squares)};
}

std::vector<cuda::CrossMoments> problems_of(const std::vector<Pair>& pairs) {
  std::vector<cuda::CrossMoments> problems;
  for (const auto& [x, y, observations, products, gathered, gathered_axis] : pairs) {
    for (const std::int64_t count : observations)
      if (count < 0) throw std::invalid_argument("counts must not be negative");
    if (gathered_axis < 0 || gathered_axis >= cuda::observation_axes)
      throw std::invalid_argument("expected an axis of observations: 0, 1 or 2");
    problems.push_back({units_of(x),
                        units_of(y),
                        {observations[0], observations[1], observations[2]},
                        reinterpret_cast<double*>(products),
                        reinterpret_cast<const std::int64_t*>(gathered),
                        gathered_axis});
  }
  return problems;
}

cuda::Precision precision_of(int number) {
  if (number < 0 || number > int(cuda::Precision::medium))
    throw std::invalid_argument("expected a precision of highest, high or medium: 0, 1 or 2");
  return static_cast<cuda::Precision>(number);
}

std::size_t workspace_bytes(const std::vector<Pair>& pairs, int precision, int device) {
  return cuda::workspace_bytes(problems_of(pairs), precision_of(precision), device);
}

void find_shifts(const std::vector<Pair>& pairs, int device, Address stream) {
  const std::vector<cuda::CrossMoments> problems = problems_of(pairs);
  py::gil_scoped_release released;
  cuda::find_shifts(problems, device, reinterpret_cast<cuda::Stream>(stream));
}

void add_cross_moments(const std::vector<Pair>& pairs, int number, Address workspace, int device,
                       Address stream) {
  const std::vector<cuda::CrossMoments> problems = problems_of(pairs);
  const cuda::Precision precision = precision_of(number);
  py::gil_scoped_release released;
  cuda::add_cross_moments(problems, precision, reinterpret_cast<void*>(workspace), device,
                          reinterpret_cast<cuda::Stream>(stream));
}

}  // namespace

void register_correlation(py::module_& m) {
  m.def("cross_moments_workspace", &workspace_bytes, "pairs"_a, "precision"_a, "device"_a);
  m.def("find_shifts", &find_shifts, "pairs"_a, "device"_a, "stream"_a);
  m.def("add_cross_moments", &add_cross_moments, "pairs"_a, "precision"_a, "workspace"_a,
        "device"_a, "stream"_a);
}
