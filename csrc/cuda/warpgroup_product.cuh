#pragma once

// Tiles of x and of y in shared memory, and their product by the two warpgroups of a block, on
// devices of sm_90a.
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

// How the products of 128 units of x and `y_units` of y are cut. Each thread fills a patch of x,
// and one or two of y.
template <int y_units, Precision of_products, int of_sums = 2048>
struct WarpgroupShape {
  static constexpr Precision precision = of_products;
  static constexpr int threads = 8 * warp_threads;
  static constexpr int at_once = 1;
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
  using XSide = Side<XTile, 128, quads>;
  using YSide = Side<YTile, y_units, quads>;
  using Products = float[rows][columns][4];
  using Patches = PatchesOfBoth<WarpgroupShape>;
  using Pending = PendingProducts<precision, columns>;

  __device__ static unsigned quad_at(Place place, unsigned quad) {
    return place.group * 64 + place.member * 8 + (quad ^ place.member);
  }

  __device__ static void put(XTile& filled, unsigned unit, unsigned quad, uint4 words) {
    filled.quads[quad_at(place_of(unit), quad)] = words;
  }
  __device__ static void put(YTile& filled, unsigned unit, unsigned quad, uint4 words) {
    const unsigned at = quad_at(place_of(unit), quad);
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
  // What was put may be read by tensor cores behind the next barrier.
  __device__ static void publish() { publish_shared_memory(); }

  // Which of the tile's units are a thread's: the row and the column of products[i][j][k].
  __device__ static unsigned row_of(int, int k) {
    return unit_at({warp() * 2 + k / 2, lane() / 4});
  }
  __device__ static unsigned column_of(int j, int k) {
    return unit_at({unsigned(j), lane() % 4 * 2 + k % 2});
  }

  // The products are on their way until they are finished; until then tiles stay as they are.
  __device__ static void start(const XTile& x, const YTile& y, bool begins, Products& products,
                               Pending& pending) {
#pragma unroll
    for (int eight = 0; eight < quads / 2; ++eight)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const Place place{warp() * 2 + k % 2, lane() / 4};
        const uint4& quad = x.quads[quad_at(place, 2 * eight + k / 2)];
        pending.a[eight][k] = reinterpret_cast<const unsigned*>(&quad)[lane() % 4];
      }
    start_products(y.words[0].quads, y.words[precision == Precision::highest].quads, begins,
                   products[0], pending);
  }
  __device__ static void finish(const YTile& y, Products& products, Pending& pending) {
    finish_products(y.words[0].quads, y.words[precision == Precision::highest].quads, products[0],
                    pending);
  }
};

}  // namespace fastrebasin::cuda
