#pragma once

// Values of units, laid out in many ways, and problems of pairs of them. Inputs and results have
// exactly their size: a sanitizer sees any access beyond them.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cuda/correlation.hpp"
#include "cuda/elements.cuh"
#include "matrices.hpp"

namespace fastrebasin::tests {

using cuda::CrossMoments, cuda::Element, cuda::Units;

constexpr Element elements[] = {Element::float32, Element::bfloat16, Element::float16};

// (n, d); (batch, d, positions); (batch, positions, d); (d, n); a window of images (batch, d, H,
// W).
enum class Layout { rows, channels_first, channels_last, columns, window };
constexpr Layout layouts[] = {Layout::rows, Layout::channels_first, Layout::channels_last,
                              Layout::columns, Layout::window};

struct Shape {
  std::int64_t observations[cuda::observation_axes];
  std::int64_t count() const { return observations[0] * observations[1] * observations[2]; }
};

// Values of units: in memory, and as exact numbers.
struct Activations {
  Activations(Shape shape, std::int64_t units, Element element, Layout layout, Random& random,
              double mean = 0, double deviation = 1);

  Units view() {
    const void* data = element == Element::float32 ? static_cast<const void*>(floats.data())
                                                   : static_cast<const void*>(halves.data());
    Units found{data, element, units, unit_stride, {}, shift.data(), sums.data(), squares.data()};
    std::copy(strides, strides + cuda::observation_axes, found.observation_strides);
    return found;
  }
  double value(std::int64_t n, std::int64_t unit) const { return values[n * units + unit]; }
  double shifted(std::int64_t n, std::int64_t unit) const { return value(n, unit) - shift[unit]; }

  std::int64_t units;
  Element element;
  std::int64_t unit_stride, strides[cuda::observation_axes];
  std::vector<float> floats;
  std::vector<std::uint16_t> halves;
  std::vector<double> values;  // (observations, units)
  std::vector<float> shift;
  std::vector<double> sums, squares;
};

inline std::uint16_t to_float16(double value) {
  if (value == 0) return 0;
  int exponent;
  const double fraction = std::frexp(std::fabs(value), &exponent);  // from 1/2 to 1
  const int scale = std::max(exponent, -13) - 11;                   // of the last place
  const auto places = static_cast<int>(std::nearbyint(std::ldexp(fraction, exponent - scale)));
  return (value < 0 ? 0x8000 : 0) + ((scale + 24) << 10) + places;
}

inline Activations::Activations(Shape shape, std::int64_t units, Element element, Layout layout,
                                Random& random, double mean, double deviation)
    : units(units), element(element), shift(units), sums(units), squares(units) {
  const auto [batch, rows, cols] = shape.observations;
  const std::int64_t positions = rows * cols, n = batch * positions, wide = cols + 3;
  const auto set = [&](std::int64_t unit, std::int64_t a, std::int64_t b, std::int64_t c) {
    unit_stride = unit;
    strides[0] = a, strides[1] = b, strides[2] = c;
  };
  switch (layout) {
    case Layout::rows:
    case Layout::channels_last:
      set(1, positions * units, cols * units, units);
      break;
    case Layout::channels_first:
      set(positions, units * positions, cols, 1);
      break;
    case Layout::columns:
      set(n, positions, cols, 1);
      break;
    case Layout::window:
      set(rows * wide, units * rows * wide, wide, 1);
      break;
  }
  std::size_t size = 1;
  for (int axis = 0; axis < cuda::observation_axes; ++axis)
    size += strides[axis] * (shape.observations[axis] - 1);
  size += unit_stride * (units - 1);
  // What lies between is no part of the values.
  if (element == Element::float32)
    floats.assign(size, NAN);
  else
    halves.assign(size, 0x7FFF);
  std::vector<double> common(4);
  for (std::int64_t a = 0; a < batch; ++a)
    for (std::int64_t b = 0; b < rows; ++b)
      for (std::int64_t c = 0; c < cols; ++c) {
        for (double& cause : common) cause = 2 * uniform(random) - 1;
        for (std::int64_t u = 0; u < units; ++u) {
          const double noise = 2 * uniform(random) - 1;
          const double value = mean + deviation * (common[u % 4] + noise);
          const std::int64_t at =
              a * strides[0] + b * strides[1] + c * strides[2] + u * unit_stride;
          const auto single = static_cast<float>(value);
          if (element == Element::float32) floats[at] = single;
          if (element == Element::bfloat16) halves[at] = __float_as_uint(single) >> 16;
          if (element == Element::float16) halves[at] = to_float16(value);
          values.push_back(element == Element::float32    ? single
                           : element == Element::bfloat16 ? cuda::widened_bfloat16(halves[at])
                                                          : cuda::widened_float16(halves[at]));
        }
      }
  for (std::int64_t u = 0; u < units; ++u) {  // almost the mean
    double sum = 0;
    for (std::int64_t k = 0; k < n; ++k) sum += value(k, u);
    shift[u] = static_cast<float>(sum / n + 0.1 * deviation);
  }
}

struct Pair {
  Pair(Shape shape, std::int64_t x_units, std::int64_t y_units, Element x_element,
       Element y_element, Layout x_layout, Layout y_layout, Random& random, double mean = 0,
       double deviation = 1)
      : shape(shape),
        x(shape, x_units, x_element, x_layout, random, mean, deviation),
        y(shape, y_units, y_element, y_layout, random, -mean, deviation),
        products(x_units * y_units) {}

  CrossMoments problem() {
    const auto& n = shape.observations;
    return {x.view(), y.view(), {n[0], n[1], n[2]}, products.data()};
  }
  // All results, one after the other.
  std::vector<double> results() const {
    std::vector<double> all = products;
    for (const auto* part : {&x.sums, &x.squares, &y.sums, &y.squares})
      all.insert(all.end(), part->begin(), part->end());
    return all;
  }
  void clear() {
    for (auto* part : {&products, &x.sums, &x.squares, &y.sums, &y.squares})
      std::fill(part->begin(), part->end(), 0.0);
  }

  Shape shape;
  Activations x, y;
  std::vector<double> products;
};

}  // namespace fastrebasin::tests
