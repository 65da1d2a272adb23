#pragma once

// The product of a tile of x and a tile of y, in float32, by the 256 threads of a block: all that a
// faster unit of the device would do another way.

#include <cuda_runtime.h>

namespace fastrebasin::cuda {

constexpr int block_side = 16;
constexpr int block_threads = block_side * block_side;
// Observations in a tile.
constexpr int depth = 16;
// Rows stay apart by so many floats: threads that write a column meet fewer of one memory bank.
constexpr int padding = 4;

template <int tile>
using Tile = float[depth][tile + padding];

// Each thread holds the products of `per_side` units of x and as many of y.
template <int tile>
constexpr int per_side = tile / block_side;

// Which unit of the tile is a thread's `index`-th: in fours, side by side with its neighbours'.
template <int tile>
__device__ int unit_of(int thread, int index) {
  constexpr int together = per_side<tile> < 4 ? per_side<tile> : 4;
  return index / together * (block_side * together) + thread * together + index % together;
}

template <int tile>
__device__ void multiply_tile(const Tile<tile>& x, const Tile<tile>& y,
                              float (&products)[per_side<tile>][per_side<tile>]) {
  const int row = threadIdx.x / block_side, col = threadIdx.x % block_side;
#pragma unroll
  for (int k = 0; k < depth; ++k) {
    float of_x[per_side<tile>], of_y[per_side<tile>];
#pragma unroll
    for (int i = 0; i < per_side<tile>; ++i) {
      of_x[i] = x[k][unit_of<tile>(row, i)];
      of_y[i] = y[k][unit_of<tile>(col, i)];
    }
#pragma unroll
    for (int i = 0; i < per_side<tile>; ++i)
#pragma unroll
      for (int j = 0; j < per_side<tile>; ++j) products[i][j] += of_x[i] * of_y[j];
  }
}

}  // namespace fastrebasin::cuda
