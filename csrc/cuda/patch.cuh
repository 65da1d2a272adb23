#pragma once

// A thread's part of a tile of x or y: four units, and the observations of a quad. It's read from
// memory as it lies, long before it's needed, and then written to shared memory as words.

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

template <typename Shape, typename Side>
class Patch {
 public:
  static constexpr int observations = observations_per_quad(Shape::precision);

  __device__ Patch(const Units& units, Access access, int first_unit, Side& side, unsigned patch,
                   bool adds)
      : units_(units),
        side_(side),
        patch_(patch),
        place_(access.along_units, patch),
        adds_(adds && units.sums) {
    find_shift(first_unit + int(place_.unit));
    // Beyond the last unit the first ones are read: their products are for nobody.
    const int count = int(units.count), first = first_unit + int(place_.unit);
    const int unit = first < count ? first : 0;
    inside_ = count - unit < 4 ? count - unit : 4;
    in_fours_ = access.in_fours && inside_ == 4;
    turned_ = in_fours_ && !access.along_units;
    const int bytes = units.element == Element::float32 ? 4 : 2;
    data_ = static_cast<const char*>(units.data) + unit * units.stride * bytes;
#pragma unroll
    for (int u = 0; u < 4; ++u) side_.sums[patch_][u] = side_.squares[patch_][u] = 0;
  }

  // Reads a part of the tile that begins with an observation.
  __device__ void read(unsigned observation) {
    if (units_.element == Element::float32)
      read<float>(observation);
    else
      read<std::uint16_t>(observation);
  }

  // Writes what was read, shifted; zeros beyond the last observation, of which so many are left.
  __device__ void write(int buffer, unsigned left) {
    switch (units_.element) {
      case Element::float32:
        return turned_ ? write<Element::float32, false, true>(buffer, left)
                       : write<Element::float32, false, false>(buffer, left);
      case Element::bfloat16:
        return write_halves<Element::bfloat16>(buffer, left);
      case Element::float16:
        return write_halves<Element::float16>(buffer, left);
    }
  }

 private:
  // One of the threads that share the four units writes for all.
  __device__ void find_shift(int unit) {
    if (place_.quad > 0) return;
    float shift[4] = {};
    for (int u = 0; u < 4; ++u)
      if (units_.shift && unit + u < units_.count) shift[u] = units_.shift[unit + u];
    side_.shifts[place_.unit / 4] = {shift[0], shift[1], shift[2], shift[3]};
  }

  // Values stay as they are loaded, and where: to do more with them would mean to wait for them.
  template <typename Stored>
  __device__ void read(unsigned observation) {
    using Fours = typename Four<Stored>::Type;
    const auto* data = reinterpret_cast<const Stored*>(data_);
    const std::int64_t stride = units_.stride;
#pragma unroll
    for (int k = 0; k < observations; k += 4) {
      const unsigned at = observation + place_.quad * observations + k;
      const std::int64_t* offsets = &side_.offsets[at % ring];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const Stored* values = data + (turned_ ? offsets[0] + j * stride : offsets[j]);
        if (in_fours_)
          keep(*reinterpret_cast<const Fours*>(values), bits_[k + j]);
        else
#pragma unroll
          for (int u = 0; u < 4; ++u)
            bits_[k + j][u] = bits_at(values + (u < inside_ ? u : 0) * stride);
      }
    }
  }

  __device__ static void keep(const uint4& four, unsigned (&bits)[4]) {
    bits[0] = four.x, bits[1] = four.y, bits[2] = four.z, bits[3] = four.w;
  }
  __device__ static void keep(const uint2& four, unsigned (&bits)[4]) {
    bits[0] = four.x, bits[1] = four.y;
  }

  template <Element element>
  __device__ void write_halves(int buffer, unsigned left) {
    if (!in_fours_) return write<element, false, false>(buffer, left);
    return turned_ ? write<element, true, true>(buffer, left)
                   : write<element, true, false>(buffer, left);
  }

  // Where a value is: turned, its four are observations of a unit; packed, two are in one register.
  template <Element element, bool packed, bool turned>
  __device__ float value(int k, int u) const {
    const unsigned (&four)[4] = bits_[turned ? k / 4 * 4 + u : k];
    const int index = turned ? k % 4 : u;
    if (!packed) return widened<element>(four[index]);
    return widened<element>(index % 2 ? four[index / 2] >> 16 : four[index / 2] & 0xFFFFu);
  }

  template <Element element, bool packed, bool turned>
  __device__ void write(int buffer, unsigned left) {
    const float4 four = side_.shifts[place_.unit / 4];
    const float shift[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      float values[observations];
#pragma unroll
      for (int k = 0; k < observations; ++k)
        values[k] = value<element, packed, turned>(k, u) - shift[u];
      if (left < Shape::depth)
#pragma unroll
        for (int k = 0; k < observations; ++k)
          if (place_.quad * observations + k >= left) values[k] = 0;
      if (adds_) add(values, u);
      Shape::put(side_.tiles[buffer], place_.unit + u, place_.quad,
                 words_of<Shape::precision>(values));
    }
  }

  __device__ void add(const float (&values)[observations], int u) {
    float sum = 0, square = 0;
#pragma unroll
    for (int k = 0; k < observations; ++k) {
      sum += values[k];
      square += values[k] * values[k];
    }
    side_.sums[patch_][u] += sum;
    side_.squares[patch_][u] += square;
  }

  const Units& units_;
  Side& side_;
  const unsigned patch_;
  const PatchPlace<Side> place_;
  const bool adds_;
  int inside_;              // so many of the four units exist
  bool in_fours_, turned_;  // how they are read: four at a time, and then along observations
  const char* data_;        // where the first unit begins
  unsigned bits_[observations][4] = {};
};

// The patches of one side that a thread takes in turn, so many threads apart.
template <typename Shape, typename Side, int count = Side::patches / Shape::threads>
class Turns {
 public:
  __device__ Turns(const Units& units, Access access, int first_unit, Side& side, bool adds,
                   unsigned patch = threadIdx.x)
      : patch_(units, access, first_unit, side, patch, adds),
        others_(units, access, first_unit, side, adds, patch + Shape::threads) {}
  __device__ void read(unsigned observation) {
    patch_.read(observation);
    others_.read(observation);
  }
  __device__ void write(int buffer, unsigned left) {
    patch_.write(buffer, left);
    others_.write(buffer, left);
  }

 private:
  Patch<Shape, Side> patch_;
  Turns<Shape, Side, count - 1> others_;
};
template <typename Shape, typename Side>
class Turns<Shape, Side, 0> {
 public:
  __device__ Turns(const Units&, Access, int, Side&, bool, unsigned) {}
  __device__ void read(unsigned) {}
  __device__ void write(int, unsigned) {}
};

// Each thread fills patches of both sides.
template <typename Shape>
class PatchesOfBoth {
 public:
  __device__ PatchesOfBoth(const Task& task, Shared<Shape>& shared, const Corner& corner)
      : x_(task.problem.x, task.x_access, corner.x, shared.x, corner.sums_x),
        y_(task.problem.y, task.y_access, corner.y, shared.y, corner.sums_y) {}
  __device__ void read(unsigned observation) {
    x_.read(observation);
    y_.read(observation);
  }
  __device__ void write(int buffer, unsigned left) {
    x_.write(buffer, left);
    y_.write(buffer, left);
  }

 private:
  Turns<Shape, typename Shape::XSide> x_;
  Turns<Shape, typename Shape::YSide> y_;
};

// Each thread fills a patch of one of two sides that are cut alike: the first half of them x.
template <typename Shape>
class PatchOfOne {
 public:
  __device__ PatchOfOne(const Task& task, Shared<Shape>& shared, const Corner& corner)
      : PatchOfOne(task, shared, corner, threadIdx.x < Shape::threads / 2) {}
  __device__ void read(unsigned observation) { patch_.read(observation); }
  __device__ void write(int buffer, unsigned left) { patch_.write(buffer, left); }

 private:
  __device__ PatchOfOne(const Task& task, Shared<Shape>& shared, const Corner& corner, bool of_x)
      : patch_(of_x ? task.problem.x : task.problem.y, of_x ? task.x_access : task.y_access,
               of_x ? corner.x : corner.y, of_x ? shared.x : shared.y,
               threadIdx.x % (Shape::threads / 2), of_x ? corner.sums_x : corner.sums_y) {}

  Patch<Shape, typename Shape::XSide> patch_;
};

}  // namespace fastrebasin::cuda
