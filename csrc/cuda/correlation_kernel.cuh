#pragma once

// The kernel that multiplies tiles, for shapes of tiles that different devices take: see
// correlation.cu.

#include <cuda_runtime.h>

#include "cuda/correlation_tasks.hpp"
#include "cuda/launch.cuh"
#include "cuda/patch.cuh"

namespace fastrebasin::cuda {

static_assert(sizeof(Group) <= 4096, "the arguments of a launch have no more room");

struct Results {
  double *products, *x_sums, *x_squares, *y_sums, *y_squares;
};

__device__ inline Results results_of(const Task& task, std::int64_t part) {
  const CrossMoments& problem = task.problem;
  if (!task.part_results)
    return {problem.products, problem.x.sums, problem.x.squares, problem.y.sums, problem.y.squares};
  double* products = task.part_results + part * task.result_count;
  double* x_sums = products + problem.x.count * problem.y.count;
  double* y_sums = x_sums + 2 * problem.x.count;
  return {products, x_sums, x_sums + problem.x.count, y_sums, y_sums + problem.y.count};
}

// Tiles are counted row by row. Those of a symmetric product begin at the diagonal.
template <typename Shape>
__device__ Corner corner_of(const Task& task, std::int64_t tile) {
  constexpr std::int64_t x_units = Shape::XSide::units, y_units = Shape::YSide::units;
  std::int64_t row = 0, first = 0;  // column of the row
  if (task.symmetric)
    for (; tile >= task.tile_columns - first; first = ++row * x_units / y_units)
      tile -= task.tile_columns - first;
  else
    row = tile / task.tile_columns, tile %= task.tile_columns;
  const std::int64_t column = first + tile;
  const bool begins_column = row == (task.symmetric ? column * y_units / x_units : 0);
  return {static_cast<int>(row * x_units), static_cast<int>(column * y_units), column == first,
          begins_column};
}

// Adds to where a single part's results go, which hold sums; a part's own hold nothing yet.
__device__ inline void add_to(double& result, double value, bool holds_sums) {
  result = holds_sums ? result + value : value;
}

// Numbers of 32 bits are divided several times as fast.
__device__ inline std::int64_t divided(std::int64_t dividend, std::int64_t divisor) {
  if (dividend >> 32) return dividend / divisor;
  return static_cast<unsigned>(dividend) / static_cast<unsigned>(divisor);
}

// One part of a task's observations.
struct Part {
  __device__ Part(const Task& task, std::int64_t part)
      : task(task), number(part), first(part * task.part_observations) {
    const std::int64_t left = task.observations - first;
    count = static_cast<int>(left < task.part_observations ? left : task.part_observations);
  }

  // Where an observation lies; of one beyond the last, a place that may be read, alone or as one of
  // four that follow each other.
  __device__ void find(int index, std::int64_t& x, std::int64_t& y) const {
    const CrossMoments& problem = task.problem;
    const int last = count - 4 + index % 4;
    std::int64_t rest = first + (index < count ? index : last < 0 ? 0 : last);
    x = y = 0;
#pragma unroll
    for (int axis = observation_axes - 1; axis >= 0; --axis) {
      const std::int64_t size = problem.observations[axis];
      const std::int64_t outer = rest < size ? 0 : divided(rest, size), at = rest - outer * size;
      rest = outer;
      const bool gathers = problem.gathered && problem.gathered_axis == axis;
      x += at * problem.x.observation_strides[axis];
      y += (gathers ? problem.gathered[at] : at) * problem.y.observation_strides[axis];
    }
  }

  const Task& task;
  const std::int64_t number, first;
  int count;
};

template <typename Shape>
class TileOfProduct {
 public:
  __device__ TileOfProduct(const Task& task, Shared<Shape>& shared, std::int64_t block)
      : task_(task),
        problem_(task.problem),
        shared_(shared),
        part_(task, block / task.tiles),
        corner_(corner_of<Shape>(task, block % task.tiles)),
        patches_(task, shared, corner_) {}

  // Each tile is read while the one before it is written, and that before it multiplied.
  __device__ void run() {
    find_observations(0);
    find_observations(stretch);
    __syncthreads();
    patches_.read(0);
    patches_.write(0, part_.count);
    if (Shape::depth < part_.count) patches_.read(Shape::depth);
    Shape::publish();
    __syncthreads();
    typename Shape::Products products;
    int buffer = 0;
    for (int at = 0; at < part_.count; at += Shape::depth, buffer ^= 1) {
      const int next = at + Shape::depth;
      typename Shape::Pending pending;
      Shape::start(shared_.x.tiles[buffer], shared_.y.tiles[buffer], at % Shape::span == 0,
                   products, pending);
      if (at % stretch == 0) find_observations(at + 2 * stretch);
      if (next < part_.count) patches_.write(buffer ^ 1, part_.count - next);
      if (next + Shape::depth < part_.count) patches_.read(next + Shape::depth);
      Shape::publish();
      Shape::finish(shared_.y.tiles[buffer], products, pending);
      if (next % Shape::span == 0 || next >= part_.count)
        move(products, !task_.part_results || next > Shape::span);
      __syncthreads();
    }
    write_sums();
  }

 private:
  __device__ void find_observations(int from) {
    if (threadIdx.x >= stretch) return;
    const unsigned index = from + threadIdx.x;
    std::int64_t x, y;
    part_.find(index, x, y);
    shared_.x.offsets[index % ring] = x;
    shared_.y.offsets[index % ring] = y;
  }

  // Adds the products of a span to the results, two neighbours at a time where they lie so.
  __device__ void move(const typename Shape::Products& products, bool holds_sums) {
    const int rows = int(problem_.x.count), columns = int(problem_.y.count);
    double* const all = results_of(task_, part_.number).products;
    const bool in_pairs = columns % 2 == 0 && reinterpret_cast<std::uintptr_t>(all) % 16 == 0;
#pragma unroll
    for (int i = 0; i < Shape::rows; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int row = corner_.x + int(Shape::row_of(i, k));
        double* results = all + std::int64_t{row} * columns;
#pragma unroll
        for (int j = 0; j < Shape::columns; j += 2) {
          const int column = corner_.y + int(Shape::column_of(j, k));
          const float first = products[i][j][k], second = products[i][j + 1][k];
          if (row >= rows || column >= columns) continue;
          if (in_pairs) {
            double2& pair = *reinterpret_cast<double2*>(results + column);
            double2 sum = holds_sums ? pair : double2{0, 0};
            sum.x += first, sum.y += second;
            pair = sum;
          } else {
            add_to(results[column], first, holds_sums);
            if (column + 1 < columns) add_to(results[column + 1], second, holds_sums);
          }
        }
      }
  }

  __device__ void write_sums() {
    const Results results = results_of(task_, part_.number);
    if (corner_.sums_x && problem_.x.sums)
      write_sums(shared_.x, problem_.x, task_.x_access, corner_.x, results.x_sums,
                 results.x_squares);
    if (corner_.sums_y && problem_.y.sums)
      write_sums(shared_.y, problem_.y, task_.y_access, corner_.y, results.y_sums,
                 results.y_squares);
  }

  template <typename Side>
  __device__ void write_sums(const Side& side, const Units& units, Access access, int first,
                             double* sums, double* squares) {
    for (int k = threadIdx.x; k < Side::units && first + k < units.count; k += Shape::threads) {
      const bool holds_sums = !task_.part_results;
      add_to(sums[first + k], total<Side>(side.sums, access.along_units, k), holds_sums);
      add_to(squares[first + k], total<Side>(side.squares, access.along_units, k), holds_sums);
    }
  }

  const Task& task_;
  const CrossMoments& problem_;
  Shared<Shape>& shared_;
  const Part part_;
  const Corner corner_;
  typename Shape::Patches patches_;
};

// All tiles of all parts of all problems of a group. x: (observations, x.count), y: (observations,
// y.count), products (x.count, y.count).
template <typename Shape>
__global__ void __launch_bounds__(Shape::threads, Shape::at_once)
    multiply(const __grid_constant__ Group group) {
  int number = 0;
  while (number + 1 < group.count && group.tasks[number + 1].first_block <= blockIdx.x) ++number;
  const Task& task = group.tasks[number];
  TileOfProduct<Shape>(task, shared_memory<Shared<Shape>>(), blockIdx.x - task.first_block).run();
}

template <typename Shape>
void launch_multiply(const Group& group, Stream stream) {
  if constexpr (sizeof(Shared<Shape>) > 48 * 1024)
    allow_shared_memory(multiply<Shape>, sizeof(Shared<Shape>));
  launch(multiply<Shape>, static_cast<unsigned>(group.blocks), Shape::threads,
         sizeof(Shared<Shape>), stream, group);
}

}  // namespace fastrebasin::cuda
