#pragma once

// The kernel that multiplies tiles, for shapes of tiles that different devices take: see
// correlation.cu.

#include <cuda_runtime.h>

#include "cuda/correlation_tasks.hpp"
#include "cuda/launch.cuh"
#include "cuda/side.cuh"

namespace fastrebasin::cuda {

static_assert(sizeof(Group) <= 4096, "the arguments of a launch have no more room");

// All tiles of all parts of all problems of a group. x: (observations, x.count), y: (observations,
// y.count), products (x.count, y.count).
template <typename Tile>
__global__ void __launch_bounds__(Tile::Shape::threads, Tile::Shape::at_once)
    multiply(const __grid_constant__ Group group) {
  int number = 0;
  while (number + 1 < group.count && group.tasks[number + 1].first_block <= blockIdx.x) ++number;
  const Task& task = group.tasks[number];
  auto& shared = shared_memory<Shared<typename Tile::Shape>>();
  Tile(task, shared, blockIdx.x - task.first_block).run();
}

template <typename Tile>
void launch_multiply(const Group& group, Stream stream) {
  constexpr std::size_t shared_bytes = sizeof(Shared<typename Tile::Shape>);
  if constexpr (shared_bytes > 48 * 1024) allow_shared_memory(multiply<Tile>, shared_bytes);
  launch(multiply<Tile>, static_cast<unsigned>(group.blocks), Tile::Shape::threads, shared_bytes,
         stream, group);
}

}  // namespace fastrebasin::cuda
