#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "cuda/stream.hpp"

namespace fastrebasin::cuda {

enum class Element : int { float32, bfloat16, float16 };

// Of products: as of float32; of values rounded to TF32 (11 bits); or to bfloat16 (8 bits).
enum class Precision : int { highest, high, medium };

constexpr int observation_axes = 3;

// Values of units on the device, read as they lie. Strides count elements.
struct Units {
  const void* data;
  Element element;
  std::int64_t count;
  std::int64_t stride;  // from unit to unit
  std::int64_t observation_strides[observation_axes];
  float* shift;            // (count), taken off each value; null: nothing
  double *sums, *squares;  // (count) each; both null: not wanted
};

// The same observations of the units of x and of y, which may be the same.
struct CrossMoments {
  Units x, y;
  std::int64_t observations[observation_axes];
  double* products;  // (x.count, y.count)
  // Where y's observations lie on one of their axes; null: in x's order.
  const std::int64_t* gathered = nullptr;  // (observations[gathered_axis])
  int gathered_axis = 0;
};

// Bytes of device memory that add_cross_moments needs for itself.
std::size_t workspace_bytes(const std::vector<CrossMoments>& problems, Precision precision,
                            int device);

// Finds the shifts of both sides of each problem: almost the means of their units, from a sample of
// the observations. Nothing waits for the device.
//
// Throws std::runtime_error for what CUDA refuses.
void find_shifts(const std::vector<CrossMoments>& problems, int device, Stream stream);

// Adds to each problem's results, on its device, the sums over all observations of shifted values,
// of their squares and of their products x^T y. Nothing waits for the device.
//
// Products have the precision that is asked for, and their sums over at most `span` observations
// are float32; all further sums are float64. Sums of values and of squares are as accurate whatever
// the precision. All are added in an order that depends on a problem's sizes alone: results are the
// same, bit for bit, on every call, on all devices of a generation and in every group. Those of x
// with itself are symmetric. Problems may share their products, which then hold the sum over all.
//
// Throws std::runtime_error for what CUDA refuses.
void add_cross_moments(const std::vector<CrossMoments>& problems, Precision precision,
                       void* workspace, int device, Stream stream);

}  // namespace fastrebasin::cuda
