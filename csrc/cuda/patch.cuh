#pragma once

// A thread's part of a tile of x or y: patches of four units, and the observations of a quad. Each
// is read from memory as it lies, long before it's needed, and then written to shared memory as
// words.

#include <cuda_runtime.h>

#include "cuda/correlation_tasks.hpp"
#include "cuda/elements.cuh"
#include "cuda/side.cuh"
#include "cuda/tile_layout.cuh"

namespace fastrebasin::cuda {

// Four values that follow each other.
template <typename Stored>
struct Four;
template <>
struct Four<float> {
  using Type = uint4;
};
template <>
struct Four<std::uint16_t> {
  using Type = uint2;
};

// The patches of one side that a thread has, so many threads apart.
template <typename Shape, typename Side, int count = Side::patches / Shape::filling_threads>
class Patches {
 public:
  static constexpr int observations = observations_per_quad(Shape::precision);

  __device__ Patches(const Units& units, Access access, int first_unit, Side& side, bool adds,
                     unsigned thread)
      : units_(units),
        side_(side),
        access_(access),
        thread_(thread),
        adds_(adds && units.sums),
        units_left_(int(units.count) - first_unit),
        data_(static_cast<const char*>(units.data) +
              first_unit * units.stride * (units.element == Element::float32 ? 4 : 2)) {
#pragma unroll
    for (int p = 0; p < count; ++p) {
      find_shift(first_unit, p);
#pragma unroll
      for (int u = 0; u < 4; ++u) side_.sums[patch(p)][u] = side_.squares[patch(p)][u] = 0;
    }
  }

  // Reads a part of the tile that begins with an observation.
  __device__ void read(unsigned observation) {
#pragma unroll
    for (int p = 0; p < count; ++p) read(p, observation);
  }

  // Writes what was read, shifted; zeros beyond the last of `left` observations. Then reads the
  // part that begins with the next observation, if there is one.
  __device__ void fill(int buffer, unsigned left, unsigned next) {
#pragma unroll
    for (int p = 0; p < count; ++p) {
      write(p, buffer, left);
      if (left > Shape::depth) read(p, next);
    }
  }

 private:
  using PlaceOfPatch = PatchPlace<Side>;

  __device__ unsigned patch(int p) const { return thread_ + p * Shape::filling_threads; }
  __device__ PlaceOfPatch place(int p) const { return {access_.along_units, patch(p)}; }
  // Beyond the last unit the first ones are read: their products are for nobody.
  __device__ int unit(int p) const {
    const int unit = int(place(p).unit);
    return unit < units_left_ ? unit : 0;
  }
  __device__ int units_inside(int p) const {
    const int left = units_left_ - unit(p);
    return left < 4 ? left : 4;
  }
  // How four units are read: four values at a time, and those along observations.
  __device__ bool in_fours(int p) const { return access_.in_fours && units_inside(p) == 4; }
  __device__ bool turned(int p) const { return in_fours(p) && !access_.along_units; }

  // One of the threads that share the four units writes for all.
  __device__ void find_shift(int first_unit, int p) {
    const PlaceOfPatch here = place(p);
    if (here.quad > 0) return;
    float shift[4] = {};
    for (int u = 0; u < 4; ++u)
      if (units_.shift && int(here.unit) + u < units_left_)
        shift[u] = units_.shift[first_unit + here.unit + u];
    side_.shifts[here.unit / 4] = {shift[0], shift[1], shift[2], shift[3]};
  }

  __device__ void read(int p, unsigned observation) {
    if (units_.element == Element::float32)
      read<float>(p, observation);
    else
      read<std::uint16_t>(p, observation);
  }

  // Values stay as they are loaded, and where: to do more with them would mean to wait for them.
  template <typename Stored>
  __device__ void read(int p, unsigned observation) {
    using Fours = typename Four<Stored>::Type;
    const std::int64_t stride = units_.stride;
    const auto* data = reinterpret_cast<const Stored*>(data_) + unit(p) * stride;
    const bool fours = in_fours(p), along_observations = turned(p);
#pragma unroll
    for (int k = 0; k < observations; k += 4) {
      const unsigned at = observation + place(p).quad * observations + k;
      const std::int64_t* offsets = &side_.offsets[at % ring];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Stored* values = data + (along_observations ? offsets[0] + j * stride : offsets[j]);
        if (fours)
          keep(*reinterpret_cast<const Fours*>(values), bits_[p][k + j]);
        else
#pragma unroll
          for (int u = 0; u < 4; ++u)
            bits_[p][k + j][u] = bits_at(values + (u < units_inside(p) ? u : 0) * stride);
      }
    }
  }

  __device__ static void keep(const uint4& four, unsigned (&bits)[4]) {
    bits[0] = four.x, bits[1] = four.y, bits[2] = four.z, bits[3] = four.w;
  }
  __device__ static void keep(const uint2& four, unsigned (&bits)[4]) {
    bits[0] = four.x, bits[1] = four.y;
  }

  __device__ void write(int p, int buffer, unsigned left) {
    switch (units_.element) {
      case Element::float32:
        return turned(p) ? write<Element::float32, false, true>(p, buffer, left)
                         : write<Element::float32, false, false>(p, buffer, left);
      case Element::bfloat16:
        return write_halves<Element::bfloat16>(p, buffer, left);
      case Element::float16:
        return write_halves<Element::float16>(p, buffer, left);
    }
  }

  template <Element element>
  __device__ void write_halves(int p, int buffer, unsigned left) {
    if (!in_fours(p)) return write<element, false, false>(p, buffer, left);
    return turned(p) ? write<element, true, true>(p, buffer, left)
                     : write<element, true, false>(p, buffer, left);
  }

  // Where a value is: turned, its four are observations of a unit; packed, two are in one register.
  template <Element element, bool packed, bool turned>
  __device__ float value(int p, int k, int u) const {
    const unsigned (&four)[4] = bits_[p][turned ? k / 4 * 4 + u : k];
    const int index = turned ? k % 4 : u;
    if (!packed) return widened<element>(four[index]);
    return widened<element>(index % 2 ? four[index / 2] >> 16 : four[index / 2] & 0xFFFFu);
  }

  template <Element element, bool packed, bool turned>
  __device__ void write(int p, int buffer, unsigned left) {
    const PlaceOfPatch here = place(p);
    const float4 four = side_.shifts[here.unit / 4];
    const float shift[4] = {four.x, four.y, four.z, four.w};
    float values[4][observations];
#pragma unroll
    for (int u = 0; u < 4; ++u)
#pragma unroll
      for (int k = 0; k < observations; ++k)
        values[u][k] = value<element, packed, turned>(p, k, u) - shift[u];
    if (left < Shape::depth) clear_from(left, here.quad * observations, values);
    if (adds_) add(values, patch(p));
    // The four lie in groups that follow each other.
    const Place first = place_of(here.unit);
#pragma unroll
    for (unsigned u = 0; u < 4; ++u)
      Shape::put(side_.tiles[buffer], {first.group + u, first.member}, here.quad,
                 words_of<Shape::precision>(values[u]));
  }

  __device__ static void clear_from(unsigned end, unsigned first,
                                    float (&values)[4][observations]) {
#pragma unroll
    for (int k = 0; k < observations; ++k)
#pragma unroll
      for (int u = 0; u < 4; ++u)
        if (first + k >= end) values[u][k] = 0;
  }

  __device__ void add(const float (&values)[4][observations], unsigned patch) {
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      float sum = 0, square = 0;
#pragma unroll
      for (int k = 0; k < observations; ++k) {
        sum += values[u][k];
        square += values[u][k] * values[u][k];
      }
      side_.sums[patch][u] += sum;
      side_.squares[patch][u] += square;
    }
  }

  const Units& units_;
  Side& side_;
  const Access access_;
  const unsigned thread_;
  const bool adds_;
  const int units_left_;    // from the tile's first unit on
  const char* const data_;  // where that begins
  unsigned bits_[count][observations][4] = {};
};

// Each thread fills patches of both sides.
template <typename Shape>
class PatchesOfBoth {
 public:
  __device__ PatchesOfBoth(const Task& task, Shared<Shape>& shared, const Corner& corner,
                           unsigned thread)
      : x_(task.problem.x, task.x_access, corner.x, shared.x, corner.sums_x, thread),
        y_(task.problem.y, task.y_access, corner.y, shared.y, corner.sums_y, thread) {}
  __device__ void read(unsigned observation) {
    x_.read(observation);
    y_.read(observation);
  }
  __device__ void fill(int buffer, unsigned left, unsigned next) {
    x_.fill(buffer, left, next);
    y_.fill(buffer, left, next);
  }

 private:
  Patches<Shape, typename Shape::XSide> x_;
  Patches<Shape, typename Shape::YSide> y_;
};

// Each thread fills a patch of one of two sides that are cut alike: the first half of them x.
template <typename Shape>
class PatchOfOne {
 public:
  __device__ PatchOfOne(const Task& task, Shared<Shape>& shared, const Corner& corner,
                        unsigned thread)
      : PatchOfOne(task, shared, corner, thread % Side::patches, thread < Side::patches) {}
  __device__ void read(unsigned observation) { patch_.read(observation); }
  __device__ void fill(int buffer, unsigned left, unsigned next) {
    patch_.fill(buffer, left, next);
  }

 private:
  using Side = typename Shape::XSide;

  __device__ PatchOfOne(const Task& task, Shared<Shape>& shared, const Corner& corner,
                        unsigned patch, bool of_x)
      : patch_(of_x ? task.problem.x : task.problem.y, of_x ? task.x_access : task.y_access,
               of_x ? corner.x : corner.y, of_x ? shared.x : shared.y,
               of_x ? corner.sums_x : corner.sums_y, patch) {}

  Patches<Shape, Side, 1> patch_;
};

}  // namespace fastrebasin::cuda
