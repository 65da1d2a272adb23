#pragma once

// What the threads of a block share of one side of a product: tiles, and where values lie.

#include <cuda_runtime.h>

#include "cuda/correlation_tasks.hpp"

namespace fastrebasin::cuda {

// As many observations have their places in shared memory: those at hand, and the next.
constexpr int ring = 4 * stretch;

// One of some tiles is multiplied while others are filled. Each of `patches` threads, or of turns
// that they take, fills a quad of words of each of four units.
template <typename TileType, int unit_count, int quads, int buffers>
struct Side {
  using Tile = TileType;
  static constexpr int units = unit_count;
  static constexpr int patches = units / 4 * quads;

  Tile tiles[buffers];
  float4 shifts[units / 4];
  std::int64_t offsets[ring];
  double sums[patches][4], squares[patches][4];  // of each patch's units
};

template <typename Shape>
struct Shared {
  typename Shape::XSide x;
  typename Shape::YSide y;
};

// A tile of a product, by its first units. One of each row of tiles sums the units of x, and one of
// each column those of y.
struct Corner {
  int x, y;
  bool sums_x, sums_y;
};

// Which four units' quad a patch is. Neighbouring threads read along the axis whose values lie
// closer.
template <typename Side>
struct PatchPlace {
  unsigned unit, quad;  // in the tile; the first of four units

  __device__ PatchPlace(bool along_units, unsigned patch) {
    constexpr unsigned columns = Side::units / 4, rows = Side::patches / columns;
    unit = 4 * (along_units ? patch % columns : patch / rows);
    quad = along_units ? patch / columns : patch % rows;
  }

  // The patch of a unit's quad.
  __device__ static unsigned patch_of(bool along_units, unsigned unit, unsigned quad) {
    constexpr unsigned columns = Side::units / 4, rows = Side::patches / columns;
    return along_units ? quad * columns + unit / 4 : unit / 4 * rows + quad;
  }
};

// A unit's sum over all patches that it was shared among.
template <typename Side>
__device__ double total(const double (&sums)[Side::patches][4], bool along_units, unsigned unit) {
  double sum = 0;
  for (unsigned quad = 0; quad < Side::patches / (Side::units / 4); ++quad)
    sum += sums[PatchPlace<Side>::patch_of(along_units, unit, quad)][unit % 4];
  return sum;
}

}  // namespace fastrebasin::cuda
