#pragma once

// Tiles of x and of y in shared memory, and their product by the four warps of a block.
//
// A tile holds words of units: one observation each, or two in bfloat16. Four words of a unit that
// follow each other are a quad, which is written at once. Quads are so arranged that no two threads
// which move together meet in a memory bank, however a tile is filled.

#include <cuda_runtime.h>

#include "cuda/tensor_cores.cuh"

namespace fastrebasin::cuda {

constexpr int warp_threads = 32;
constexpr int block_threads = 4 * warp_threads;  // two by two warps
// One half of the threads fills a tile of x, the other one of y.
constexpr int side_threads = block_threads / 2;

// How a tile of `units` units is cut. Each thread fills four units' quads, one or two of each.
template <int units, Precision precision>
struct Shape {
  static constexpr int tile = units;
  static constexpr Precision of_products = precision;
  static constexpr int observations_per_word = precision == Precision::medium ? 2 : 1;
  static constexpr int observations_per_quad = 4 * observations_per_word;
  static constexpr int quads_per_thread = precision == Precision::high ? 2 : 1;
  static constexpr int quads_at_once = 4 * side_threads / tile;  // of each unit, by all threads
  static constexpr int quads = quads_per_thread * quads_at_once;
  static constexpr int depth = quads * observations_per_quad;  // observations in a tile
  // A warp's products: so many times 16 units of x, and 8 of y.
  static constexpr int rows = tile / 2 / 16, columns = tile / 2 / 8;
};

template <typename Shape>
struct Tile {
  uint4 quads[Shape::tile * Shape::quads];
};

template <typename Shape>
using Products = float[Shape::rows][Shape::columns][4];

// Units go in groups of eight, four units apart: what the threads of a warp read or write at once
// is one unit of each of some groups' members.
struct Place {
  unsigned group, member;
};

__device__ inline Place place_of(unsigned unit) { return {unit / 32 * 4 + unit % 4, unit / 4 % 8}; }
__device__ inline unsigned unit_at(Place place) {
  return place.group / 4 * 32 + place.member * 4 + place.group % 4;
}

// Where a quad lies. Two quads of four members fill all banks; which comes first among the eight
// depends on the quad, for threads that fill a tile along observations, and on the other four
// members, for those that fill it along units.
template <typename Shape>
__device__ unsigned quad_at(Place place, unsigned quad) {
  const unsigned block = quad / 2 * (Shape::tile / 8) + place.group;
  const unsigned slot = place.member % 4 + quad % 2 * 4;
  const unsigned turn = place.member / 4 * 4 ^ quad % 4 / 2 * 2 ^ quad / 4 % 2;
  return block * 16 + place.member / 4 * 8 + (slot ^ turn);
}

// A warp's place in its block, two by two, and a thread's in its warp.
__device__ inline unsigned warp_row() { return threadIdx.x / warp_threads / 2; }
__device__ inline unsigned warp_column() { return threadIdx.x / warp_threads % 2; }
__device__ inline unsigned lane() { return threadIdx.x % warp_threads; }

// Which of the tile's units are a thread's: the row and the column of products[i][j][k].
template <typename Shape>
__device__ unsigned row_of(int i, int k) {
  return unit_at({(warp_row() * Shape::rows + i) * 2 + k / 2, lane() / 4});
}
template <typename Shape>
__device__ unsigned column_of(int j, int k) {
  return unit_at({warp_column() * Shape::columns + j, lane() % 4 * 2 + k % 2});
}

// Two words that follow each other, for a lane's first and second word of eight: in which order a
// product takes its words doesn't matter where both sides agree.
template <typename Shape>
__device__ uint2 words_of(const Tile<Shape>& tile, unsigned group, unsigned eight) {
  const unsigned quad = quad_at<Shape>({group, lane() / 4}, 2 * eight + lane() % 4 / 2);
  return reinterpret_cast<const uint2*>(&tile.quads[quad])[lane() % 2];
}

template <typename Shape>
__device__ void multiply_tile(const Tile<Shape>& x, const Tile<Shape>& y,
                              Products<Shape>& products) {
#pragma unroll
  for (int eight = 0; eight < Shape::quads / 2; ++eight) {
    unsigned a[Shape::rows][4], b[Shape::columns][2];
#pragma unroll
    for (int i = 0; i < 2 * Shape::rows; ++i) {
      const uint2 words = words_of(x, warp_row() * 2 * Shape::rows + i, eight);
      a[i / 2][i % 2] = words.x;
      a[i / 2][i % 2 + 2] = words.y;
    }
#pragma unroll
    for (int j = 0; j < Shape::columns; ++j) {
      const uint2 words = words_of(y, warp_column() * Shape::columns + j, eight);
      b[j][0] = words.x;
      b[j][1] = words.y;
    }
    add_products<Shape::of_products>(a, b, products);
  }
}

}  // namespace fastrebasin::cuda
