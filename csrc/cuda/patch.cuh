#pragma once

// A thread's part of a tile of x or y: four units, and the observations of their quads. It's read
// from memory as it lies, long before it's needed, and then written to shared memory as words.

#include <cuda_runtime.h>

#include "cuda/correlation_tasks.hpp"
#include "cuda/elements.cuh"
#include "cuda/tensor_cores.cuh"
#include "cuda/tile_product.cuh"

namespace fastrebasin::cuda {

// As many observations have their places in shared memory: those at hand, and the next.
constexpr int ring = 2 * block_threads;

// Shared by the threads of a block for one side of a product. One of two tiles is multiplied while
// the other is filled.
template <typename Shape>
struct Side {
  Tile<Shape> tiles[2];
  float4 shifts[Shape::tile / 4];
  std::int64_t offsets[ring];
  double sums[side_threads][4], squares[side_threads][4];  // of each thread's units
};

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

template <typename Shape>
class Patch {
 public:
  static constexpr int observations = Shape::quads_per_thread * Shape::observations_per_quad;

  // Neighbouring threads read along the axis whose values lie closer.
  __device__ Patch(const Units& units, Access access, std::int64_t first_unit, Side<Shape>& side)
      : units_(units), side_(side), along_units_(access.along_units) {
    constexpr unsigned columns = Shape::tile / 4, rows = Shape::quads_at_once;
    const unsigned thread = threadIdx.x % side_threads;
    unit_ = 4 * (along_units_ ? thread % columns : thread / rows);
    quad_ = along_units_ ? thread / columns : thread % rows;
    find_shift(first_unit + unit_);
    // Beyond the last unit the first ones are read: their products are for nobody.
    const std::int64_t unit = first_unit + unit_ < units.count ? first_unit + unit_ : 0;
    inside_ = static_cast<int>(units.count - unit < 4 ? units.count - unit : 4);
    in_fours_ = access.in_fours && inside_ == 4;
    const int bytes = units.element == Element::float32 ? 4 : 2;
    data_ = static_cast<const char*>(units.data) + unit * units.stride * bytes;
  }

  // Reads a part of the tile that begins with an observation.
  __device__ void read(unsigned observation) {
    if (units_.element == Element::float32)
      read<float>(observation);
    else
      read<std::uint16_t>(observation);
  }

  // Writes what was read, shifted; zeros beyond the last observation, of which so many are left.
  __device__ void write(Tile<Shape>& tile, unsigned left, bool adds) {
    switch (units_.element) {
      case Element::float32:
        return write<Element::float32>(tile, left, adds);
      case Element::bfloat16:
        return write<Element::bfloat16>(tile, left, adds);
      case Element::float16:
        return write<Element::float16>(tile, left, adds);
    }
  }

  __device__ void begin_sums() {
#pragma unroll
    for (int u = 0; u < 4; ++u) mine(side_.sums)[u] = mine(side_.squares)[u] = 0;
  }

  // The sums of a unit of the tile, over all threads that it was shared among.
  __device__ static double total(const double (&sums)[side_threads][4], int unit,
                                 bool along_units) {
    constexpr int columns = Shape::tile / 4, rows = Shape::quads_at_once;
    double sum = 0;
    for (int quad = 0; quad < rows; ++quad)
      sum += sums[along_units ? quad * columns + unit / 4 : unit / 4 * rows + quad][unit % 4];
    return sum;
  }

 private:
  // A patch's `k`-th observation in its tile.
  __device__ unsigned place_in_tile(unsigned k) const {
    constexpr unsigned per_quad = Shape::observations_per_quad;
    return (quad_ + k / per_quad * Shape::quads_at_once) * per_quad + k % per_quad;
  }

  __device__ double (&mine(double (&sums)[side_threads][4]))[4] {
    return sums[threadIdx.x % side_threads];
  }

  // All threads that share the four units write the same.
  __device__ void find_shift(std::int64_t unit) {
    float shift[4] = {};
    for (int u = 0; u < 4; ++u)
      if (units_.shift && unit + u < units_.count) shift[u] = units_.shift[unit + u];
    side_.shifts[unit_ / 4] = {shift[0], shift[1], shift[2], shift[3]};
  }

  // Values stay as they are loaded, and where: to do more with them would mean to wait for them.
  template <typename Stored>
  __device__ void read(unsigned observation) {
    using Fours = typename Four<Stored>::Type;
    const std::int64_t stride = units_.stride;
#pragma unroll
    for (int k = 0; k < observations; k += 4) {
      const std::int64_t* offsets = &side_.offsets[(observation + place_in_tile(k)) % ring];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const bool turned = in_fours_ && !along_units_;
        const auto* values = reinterpret_cast<const Stored*>(data_) +
                             (turned ? offsets[0] + j * stride : offsets[j]);
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

  // Both places are known to the compiler, so that values stay in registers.
  template <Element element>
  __device__ float value(int k, int u) const {
    const bool turned = in_fours_ && !along_units_;
    const int four = k / 4 * 4;
    if (element == Element::float32 || !in_fours_)
      return widened<element>(turned ? bits_[four + u][k % 4] : bits_[k][u]);
    // Two of 16 bits in one register.
    const unsigned pair = turned ? bits_[four + u][k % 4 / 2] : bits_[k][u / 2];
    return widened<element>((turned ? k : u) % 2 ? pair >> 16 : pair & 0xFFFFu);
  }

  template <Element element>
  __device__ void write(Tile<Shape>& tile, unsigned left, bool adds) {
    const float4 four = side_.shifts[unit_ / 4];
    const float shift[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
    for (int u = 0; u < 4; ++u) {
      float values[observations];
#pragma unroll
      for (int k = 0; k < observations; ++k) values[k] = value<element>(k, u) - shift[u];
      if (left < Shape::depth)
#pragma unroll
        for (int k = 0; k < observations; ++k)
          if (place_in_tile(k) >= left) values[k] = 0;
      if (adds) add(values, u);
#pragma unroll
      for (int quad = 0; quad < Shape::quads_per_thread; ++quad)
        tile.quads[quad_at<Shape>(place_of(unit_ + u), quad_ + quad * Shape::quads_at_once)] =
            words_of(&values[quad * Shape::observations_per_quad]);
    }
  }

  __device__ void add(const float (&values)[observations], int u) {
    float sum = 0, square = 0;
#pragma unroll
    for (int k = 0; k < observations; ++k) {
      sum += values[k];
      square += values[k] * values[k];
    }
    mine(side_.sums)[u] += sum;
    mine(side_.squares)[u] += square;
  }

  // The words of a quad's observations.
  __device__ static uint4 words_of(const float* values) {
    unsigned words[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      if constexpr (Shape::of_products == Precision::highest)
        words[k] = __float_as_uint(values[k]);
      else if constexpr (Shape::of_products == Precision::high)
        words[k] = rounded_word(values[k]);
      else
        words[k] = rounded_word(values[2 * k], values[2 * k + 1]);
    }
    return {words[0], words[1], words[2], words[3]};
  }

  const Units& units_;
  Side<Shape>& side_;
  const bool along_units_;
  unsigned unit_, quad_;  // in the tile
  int inside_;            // so many of the four units exist
  bool in_fours_;
  const char* data_;  // where the first unit begins
  unsigned bits_[observations][4] = {};
};

}  // namespace fastrebasin::cuda
