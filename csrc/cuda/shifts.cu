// What is taken off the values of units before they are multiplied: almost their means, so that
// nothing cancels however far these are from zero.
//
// A block of threads looks at 32 units of one side of a product, and at some observations all over
// it, which the golden ratio spreads evenly whatever period the data has. A mean of so few is off
// by a small part of a deviation, which costs no digit.

#include <algorithm>

#include "cuda/correlation.hpp"
#include "cuda/elements.cuh"
#include "cuda/launch.cuh"

namespace fastrebasin::cuda {
namespace {

constexpr int units_at_once = 32;
constexpr int readers = 8;  // of each unit
constexpr int sample_size = 256;
constexpr int most_sides = 32;
constexpr unsigned golden_ratio = 0x9E3779B9;  // its part beyond 1, of 2^32

struct Sample {
  Units units;
  std::int64_t observations[observation_axes];
};

struct Samples {
  Sample sides[most_sides];
};
static_assert(sizeof(Samples) <= 4096, "the arguments of a launch have no more room");

struct Range {
  float low, high, sum;
};

struct Shared {
  Range ranges[readers][units_at_once];
};

__device__ float value_at(const Units& units, std::int64_t at) {
  if (units.element == Element::float32) return static_cast<const float*>(units.data)[at];
  const unsigned bits = static_cast<const std::uint16_t*>(units.data)[at];
  return units.element == Element::bfloat16 ? widened_bfloat16(bits) : widened_float16(bits);
}

__device__ std::int64_t place_of(const Sample& side, std::int64_t observation) {
  std::int64_t place = 0;
#pragma unroll
  for (int axis = observation_axes - 1; axis >= 0; --axis) {
    const std::int64_t size = side.observations[axis], outer = observation / size;
    place += (observation - outer * size) * side.units.observation_strides[axis];
    observation = outer;
  }
  return place;
}

// The mean, rounded to half a deviation at most. Many values may be equal, such as the zeros of a
// ReLU. Were they to differ from the shift by many digits, each addition would be rounded the same
// way, and the errors would add up. With few digits the sums are exact.
__device__ float rounded_mean(Range range, int count) {
  const float spread = range.high - range.low;
  // The next power of two over 128: a deviation is no less than a 64th of the spread in a sample.
  const float step = __uint_as_float(__float_as_uint(spread) & 0x7F800000u) / 64;
  if (!(step > 0)) return range.low;
  return rintf(range.sum / static_cast<float>(count) / step) * step;
}

// units: (observations, count), shift (count).
__global__ void __launch_bounds__(units_at_once* readers)
    find_shifts(const __grid_constant__ Samples samples) {
  const Sample& side = samples.sides[blockIdx.y];
  const int lane = threadIdx.x % units_at_once, reader = threadIdx.x / units_at_once;
  const std::int64_t unit = std::int64_t{blockIdx.x} * units_at_once + lane;
  std::int64_t observations = 1;
  for (const std::int64_t size : side.observations) observations *= size;
  const int count = static_cast<int>(observations < sample_size ? observations : sample_size);
  Shared& shared = shared_memory<Shared>();
  const bool inside = unit < side.units.count;
  const std::int64_t first = inside ? unit * side.units.stride : 0;
  Range range{value_at(side.units, first + place_of(side, 0)), 0, 0};
  range.high = range.low;
  for (int k = reader; k < count; k += readers) {
    const std::int64_t spread =
        observations < sample_size
            ? k
            : static_cast<std::int64_t>(std::uint64_t{k * golden_ratio} * observations >> 32);
    const float value = value_at(side.units, first + place_of(side, spread));
    range.low = value < range.low ? value : range.low;
    range.high = value > range.high ? value : range.high;
    range.sum += value;
  }
  shared.ranges[reader][lane] = range;
  __syncthreads();
  if (reader > 0 || !inside) return;
  for (int other = 1; other < readers; ++other) {
    const Range& found = shared.ranges[other][lane];
    range.low = found.low < range.low ? found.low : range.low;
    range.high = found.high > range.high ? found.high : range.high;
    range.sum += found.sum;
  }
  side.units.shift[unit] = rounded_mean(range, count);
}

void launch_find_shifts(const Samples& samples, int sides, Stream stream) {
  std::int64_t most = 1;
  for (int k = 0; k < sides; ++k) most = std::max(most, samples.sides[k].units.count);
  const auto blocks = static_cast<unsigned>((most + units_at_once - 1) / units_at_once);
  launch(find_shifts, dim3(blocks, sides), units_at_once * readers, sizeof(Shared), stream,
         samples);
}

}  // namespace

void find_shifts(const std::vector<CrossMoments>& problems, int device, Stream stream) {
  const OnDevice on(device);
  Samples samples{};
  int sides = 0;
  for (const CrossMoments& problem : problems) {
    const auto& sizes = problem.observations;
    if (std::count(sizes, sizes + observation_axes, 0) > 0) continue;
    for (const Units* units : {&problem.x, &problem.y}) {
      const bool found = units == &problem.y && problem.y.shift == problem.x.shift;
      if (!units->shift || units->count == 0 || found) continue;
      samples.sides[sides] = {*units, {sizes[0], sizes[1], sizes[2]}};
      if (++sides == most_sides) {
        launch_find_shifts(samples, sides, stream);
        sides = 0;
      }
    }
  }
  if (sides > 0) launch_find_shifts(samples, sides, stream);
}

}  // namespace fastrebasin::cuda
