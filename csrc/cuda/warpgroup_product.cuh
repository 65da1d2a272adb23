#pragma once

// Tiles of x and of y in shared memory, and their product by two warpgroups of a block, on devices
// of sm_90a. Others fill the tiles.
//
// A warpgroup takes 64 units of x from registers, and all of y from shared memory, where it wants a
// unit's words in rows of 128 bytes, whose quads are turned by the row's number among eight. So
// laid out, threads that move together meet in no memory bank, either.

#include <cuda_runtime.h>

#include "cuda/patch.cuh"
#include "cuda/side.cuh"
#include "cuda/tile_layout.cuh"
#include "cuda/warpgroup_cores.cuh"

namespace fastrebasin::cuda {

// How the products of 128 units of x and `y_units` of y are cut. Each thread that fills has one or
// two patches of x, and one to four of y, all of which it keeps in registers: a warpgroup is
// enough, but for bfloat16, whose patches have twice as many values. Threads that multiply keep
// sums in registers, and get some of the others'.
template <int y_units, Precision of_products, int of_sums = 2048>
struct WarpgroupShape {
  static constexpr Precision precision = of_products;
  static constexpr int multiplying_threads = 2 * warpgroup_threads;
  static constexpr int filling_threads =
      (precision == Precision::medium ? 2 : 1) * warpgroup_threads;
  static constexpr int threads = multiplying_threads + filling_threads;
  static constexpr int multiplying_registers = precision == Precision::medium ? 136 : 176;
  static constexpr int filling_registers = precision == Precision::medium ? 120 : 152;
  static_assert(multiplying_threads * multiplying_registers + filling_threads * filling_registers <=
                    threads * (65536 / threads / 8 * 8),
                "a launch gives each thread as many as the multiprocessor has, in eights");
  static constexpr int at_once = 1;
  static constexpr int buffers = 3;
  static constexpr int quads = 8;  // of each unit
  static constexpr int depth = quads * observations_per_quad(precision);
  static constexpr int span = of_sums;  // observations whose products are summed in float32
  static constexpr int rows = 1, columns = y_units / 8;

  template <int units>
  struct __align__(1024) Tile {
    uint4 quads[units * 8];
  };
  // Of y both halves of each value, where a product is made of halves.
  struct YTile {
    Tile<y_units> words[precision == Precision::highest ? 2 : 1];
  };
  using XTile = Tile<128>;
  using XSide = Side<XTile, 128, quads, buffers>;
  using YSide = Side<YTile, y_units, quads, buffers>;
  using Products = float[rows][columns][4];
  using Patches = PatchesOfBoth<WarpgroupShape>;

  __device__ static unsigned quad_at(Place place, unsigned quad) {
    return place.group * 64 + place.member * 8 + (quad ^ place.member);
  }

  __device__ static void put(XTile& filled, Place place, unsigned quad, uint4 words) {
    filled.quads[quad_at(place, quad)] = words;
  }
  __device__ static void put(YTile& filled, Place place, unsigned quad, uint4 words) {
    const unsigned at = quad_at(place, quad);
    if constexpr (precision == Precision::highest) {
      const Halves halves[4] = {halves_of(words.x), halves_of(words.y), halves_of(words.z),
                                halves_of(words.w)};
      filled.words[0].quads[at] = {halves[0].leading, halves[1].leading, halves[2].leading,
                                   halves[3].leading};
      filled.words[1].quads[at] = {halves[0].rest, halves[1].rest, halves[2].rest, halves[3].rest};
    } else {
      filled.words[0].quads[at] = words;
    }
  }

  // Which of the tile's units are a thread's: the row and the column of products[i][j][k].
  __device__ static unsigned row_of(int, int k) {
    return unit_at({warp() * 2 + k / 2, lane() / 4});
  }
  __device__ static unsigned column_of(int j, int k) {
    return unit_at({unsigned(j), lane() % 4 * 2 + k % 2});
  }

  // Adds the product of two tiles, or begins with it.
  __device__ static void multiply(const XTile& x, const YTile& y, bool begins, Products& products) {
    PendingProducts<precision, columns> pending;
#pragma unroll
    for (int eight = 0; eight < quads / 2; ++eight)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Place place{warp() * 2 + k % 2, lane() / 4};
        const uint4& quad = x.quads[quad_at(place, 2 * eight + k / 2)];
        pending.a[eight][k] = reinterpret_cast<const unsigned*>(&quad)[lane() % 4];
      }
    const uint4 *words = y.words[0].quads, *rest = y.words[precision == Precision::highest].quads;
    start_products(words, rest, begins, products[0], pending);
    finish_products(words, rest, products[0], pending);
  }
};

}  // namespace fastrebasin::cuda
