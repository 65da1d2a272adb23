#pragma once

// Tiles of x and of y in shared memory, and their product by the four warps of a block, on any
// device.
//
// Quads are so arranged that no two threads which move together meet in a memory bank, however a
// tile is filled.

#include <cuda_runtime.h>

#include "cuda/patch.cuh"
#include "cuda/side.cuh"
#include "cuda/tile_layout.cuh"

namespace fastrebasin::cuda {

// How the products of `tile` units of x and as many of y are cut. One half of the threads fills a
// tile of x, the other one of y.
template <int tile, Precision of_products, int of_sums = 1024>
struct WarpShape {
  static constexpr Precision precision = of_products;
  static constexpr int threads = 4 * warp_threads;  // two by two warps
  static constexpr int filling_threads = threads;
  static constexpr int at_once = blocks_at_once(tile);
  static constexpr int quads = 2 * threads / tile;                        // of each unit
  static constexpr int depth = quads * observations_per_quad(precision);  // observations in a tile
  static constexpr int span = of_sums;  // observations whose products are summed in float32
  // A warp's products: so many times 16 units of x, and 8 of y.
  static constexpr int rows = tile / 2 / 16, columns = tile / 2 / 8;

  struct Tile {
    uint4 quads[tile * WarpShape::quads];
  };
  using XSide = Side<Tile, tile, quads, 2>;
  using YSide = XSide;
  using Products = float[rows][columns][4];
  using Patches = PatchOfOne<WarpShape>;

  // Two quads of four members fill all banks; which comes first among the eight depends on the
  // quad, for threads that fill a tile along observations, and on the other four members, for those
  // that fill it along units.
  __device__ static unsigned quad_at(Place place, unsigned quad) {
    const unsigned block = quad / 2 * (tile / 8) + place.group;
    const unsigned slot = place.member % 4 + quad % 2 * 4;
    const unsigned turn = place.member / 4 * 4 ^ quad % 4 / 2 * 2 ^ quad / 4 % 2;
    return block * 16 + place.member / 4 * 8 + (slot ^ turn);
  }

  __device__ static void put(Tile& filled, Place place, unsigned quad, uint4 words) {
    filled.quads[quad_at(place, quad)] = words;
  }

  // Which of the tile's units are a thread's: the row and the column of products[i][j][k].
  __device__ static unsigned row_of(int i, int k) {
    return unit_at({(warp() / 2 * rows + i) * 2 + k / 2, lane() / 4});
  }
  __device__ static unsigned column_of(int j, int k) {
    return unit_at({warp() % 2 * columns + j, lane() % 4 * 2 + k % 2});
  }

  // Two words that follow each other, for a lane's first and second word of eight: in which order a
  // product takes its words doesn't matter where both sides agree.
  __device__ static uint2 words_at(const Tile& filled, unsigned group, unsigned eight) {
    const unsigned quad = quad_at({group, lane() / 4}, 2 * eight + lane() % 4 / 2);
    return reinterpret_cast<const uint2*>(&filled.quads[quad])[lane() % 2];
  }

  // Adds the product of two tiles, or begins with it.
  __device__ static void multiply(const Tile& x, const Tile& y, bool begins, Products& products) {
    if (begins)
#pragma unroll
      for (int i = 0; i < rows; ++i) clear(products[i]);
#pragma unroll
    for (int eight = 0; eight < quads / 2; ++eight) {
      unsigned a[rows][4], b[columns][2];
#pragma unroll
      for (int i = 0; i < 2 * rows; ++i) {
        const uint2 words = words_at(x, warp() / 2 * 2 * rows + i, eight);
        a[i / 2][i % 2] = words.x;
        a[i / 2][i % 2 + 2] = words.y;
      }
#pragma unroll
      for (int j = 0; j < columns; ++j) {
        const uint2 words = words_at(y, warp() % 2 * columns + j, eight);
        b[j][0] = words.x;
        b[j][1] = words.y;
      }
      add_products<precision>(a, b, products);
    }
  }
};

}  // namespace fastrebasin::cuda
