#pragma once

// A tile that some warpgroups fill while others multiply, on devices of sm_90a.
//
// "Warp specialization": M. Bauer, H. Cook and B. Khailany, "CudaDMA: optimizing GPU memory
// bandwidth via warp specialization" (SC 2011). Those who fill wait for memory, those who multiply
// for tensor cores, and none for the other while there are buffers ahead. Each multiplying
// warpgroup has barriers of its own: one makes products while another moves its own.

#include <cuda_runtime.h>

#include "cuda/named_barriers.cuh"
#include "cuda/product_tile.cuh"
#include "cuda/warpgroup_cores.cuh"

namespace fastrebasin::cuda {

template <typename Shape>
class TileByRoles : public ProductTile<Shape> {
  using Base = ProductTile<Shape>;
  using Base::find_first, Base::find_next, Base::move_span, Base::part_, Base::shared_;

 public:
  __device__ TileByRoles(const Task& task, Shared<Shape>& shared, std::int64_t block)
      : Base(task, shared, block) {}

  __device__ void run() {
    if (threadIdx.x < Shape::multiplying_threads)
      multiply();
    else
      fill(threadIdx.x - Shape::multiplying_threads);
  }

 private:
  static constexpr int groups = Shape::multiplying_threads / warpgroup_threads;
  static constexpr int meeting_threads = Shape::filling_threads + warpgroup_threads;

  // Barriers: of those who fill, among themselves; and for each buffer and multiplying warpgroup,
  // that it's filled, and that it may be filled again.
  static constexpr int of_fillers = 1;
  __device__ static int filled(int buffer, int group) { return 2 + buffer * groups + group; }
  __device__ static int emptied(int buffer, int group) {
    return filled(buffer, group) + Shape::buffers * groups;
  }
  static_assert(2 + 2 * Shape::buffers * groups <= 16, "a block has no more barriers");

  __device__ static int after(int buffer) { return buffer + 1 == Shape::buffers ? 0 : buffer + 1; }

  // Each tile is read while the one before it is written.
  __device__ void fill(unsigned thread) {
    set_registers<Shape::filling_registers, false>();
    typename Shape::Patches patches(this->task_, shared_, this->corner_, thread);
    find_first(thread);
    wait_at(of_fillers, Shape::filling_threads);
    patches.read(0);
    int buffer = 0;
    for (int at = 0; at < part_.count; at += Shape::depth, buffer = after(buffer)) {
      if (at >= Shape::buffers * Shape::depth)
        for (int group = 0; group < groups; ++group)
          wait_at(emptied(buffer, group), meeting_threads);
      find_next(at, thread);  // all meet more than once in a stretch, waiting for buffers
      patches.fill(buffer, part_.count - at, at + Shape::depth);
      publish_shared_memory();
      for (int group = 0; group < groups; ++group)
        arrive_at(filled(buffer, group), meeting_threads);
    }
    wait_at(of_fillers, Shape::filling_threads);
    this->write_sums(thread);
  }

  __device__ void multiply() {
    set_registers<Shape::multiplying_registers, true>();
    const int group = threadIdx.x / warpgroup_threads;
    typename Shape::Products products;
    int buffer = 0;
    for (int at = 0; at < part_.count; at += Shape::depth, buffer = after(buffer)) {
      wait_at(filled(buffer, group), meeting_threads);
      Shape::multiply(shared_.x.tiles[buffer], shared_.y.tiles[buffer], at % Shape::span == 0,
                      products);
      if (at + Shape::buffers * Shape::depth < part_.count)
        arrive_at(emptied(buffer, group), meeting_threads);
      move_span(products, at + Shape::depth);
    }
  }
};

}  // namespace fastrebasin::cuda
