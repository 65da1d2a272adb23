#pragma once

// A tile whose threads all fill and multiply in turn, for any device.

#include <cuda_runtime.h>

#include "cuda/product_tile.cuh"

namespace fastrebasin::cuda {

template <typename Shape>
class TileInTurn : public ProductTile<Shape> {
  using Base = ProductTile<Shape>;
  using Base::find_first, Base::find_next, Base::move_span, Base::part_, Base::shared_;

 public:
  __device__ TileInTurn(const Task& task, Shared<Shape>& shared, std::int64_t block)
      : Base(task, shared, block), patches_(task, shared, this->corner_, threadIdx.x) {}

  // Each tile is read while the one before it is written, and that before it multiplied.
  __device__ void run() {
    find_first(threadIdx.x);
    __syncthreads();
    patches_.read(0);
    patches_.fill(0, part_.count, Shape::depth);
    __syncthreads();
    typename Shape::Products products;
    int buffer = 0;
    for (int at = 0; at < part_.count; at += Shape::depth, buffer ^= 1) {
      const int next = at + Shape::depth;
      Shape::multiply(shared_.x.tiles[buffer], shared_.y.tiles[buffer], at % Shape::span == 0,
                      products);
      find_next(at, threadIdx.x);
      if (next < part_.count) patches_.fill(buffer ^ 1, part_.count - next, next + Shape::depth);
      move_span(products, next);
      __syncthreads();
    }
    this->write_sums(threadIdx.x);
  }

 private:
  typename Shape::Patches patches_;
};

}  // namespace fastrebasin::cuda
