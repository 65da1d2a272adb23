#pragma once

// A tile of a product, for a part of the observations: where it lies, and where its results go.

#include <cuda_runtime.h>

#include "cuda/correlation_tasks.hpp"
#include "cuda/side.cuh"
#include "cuda/tile_layout.cuh"

namespace fastrebasin::cuda {

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

// What all ways to fill and to multiply tiles have in common.
template <typename ShapeOfTile>
class ProductTile {
 public:
  using Shape = ShapeOfTile;

 protected:
  __device__ ProductTile(const Task& task, Shared<Shape>& shared, std::int64_t block)
      : task_(task),
        problem_(task.problem),
        shared_(shared),
        part_(task, block / task.tiles),
        corner_(corner_of<Shape>(task, block % task.tiles)) {}

  // Finds where the first observations lie, and later the next ones: two stretches ahead of the
  // tile at hand, where nobody reads any more. Those who fill have to meet in between.
  __device__ void find_first(unsigned thread) {
    find_observations(0, thread);
    find_observations(stretch, thread);
  }
  __device__ void find_next(int at, unsigned thread) {
    if (at % stretch == 0) find_observations(at + 2 * stretch, thread);
  }

  // At the end of a span, or of all: adds its products to the results.
  __device__ void move_span(const typename Shape::Products& products, int end) {
    if (end % Shape::span == 0 || end >= part_.count)
      move(products, !task_.part_results || end > Shape::span);
  }

  // What was summed where patches were filled, by the threads that did.
  __device__ void write_sums(unsigned thread) {
    const Results results = results_of(task_, part_.number);
    if (corner_.sums_x && problem_.x.sums)
      write_sums(shared_.x, problem_.x, task_.x_access, corner_.x, results.x_sums,
                 results.x_squares, thread);
    if (corner_.sums_y && problem_.y.sums)
      write_sums(shared_.y, problem_.y, task_.y_access, corner_.y, results.y_sums,
                 results.y_squares, thread);
  }

 private:
  // A stretch of them, by as many threads.
  __device__ void find_observations(int from, unsigned thread) {
    if (thread >= stretch) return;
    const unsigned index = from + thread;
    std::int64_t x, y;
    part_.find(index, x, y);
    shared_.x.offsets[index % ring] = x;
    shared_.y.offsets[index % ring] = y;
  }

  // Adds the products of a span to the results, in pairs where all lie so.
  __device__ void move(const typename Shape::Products& products, bool holds_sums) {
    const int columns = int(problem_.y.count);
    double* const all = results_of(task_, part_.number).products;
    const bool in_pairs = columns % 2 == 0 && reinterpret_cast<std::uintptr_t>(all) % 16 == 0;
#pragma unroll
    for (int i = 0; i < Shape::rows; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int row = corner_.x + int(Shape::row_of(i, k));
        const int column = corner_.y + int(Shape::column_of(0, k)), left = columns - column;
        if (row >= problem_.x.count) continue;
        double* results = all + std::int64_t{row} * columns + column;
        if (in_pairs && left > column_after(Shape::columns - 1))
          add_pairs(results, products[i], k, holds_sums);
        else
#pragma unroll
          for (int j = 0; j < Shape::columns; ++j)
            if (column_after(j) < left)
              add_to(results[column_after(j)], products[i][j][k], holds_sums);
      }
  }

  // How many columns behind that of a thread's first product in a row another lies.
  __device__ static int column_after(int j) { return int(unit_at({unsigned(j), 0})); }

  // Some are read before any is written, so that they needn't wait for memory one by one.
  __device__ static void add_pairs(double* results, const float (&products)[Shape::columns][4],
                                   int k, bool holds_sums) {
    constexpr int at_once = Shape::columns < 8 ? Shape::columns : 8;
#pragma unroll
    for (int first = 0; first < Shape::columns; first += at_once) {
      double2 sums[at_once / 2] = {};
      if (holds_sums)
#pragma unroll
        for (int j = 0; j < at_once; j += 2)
          sums[j / 2] = *reinterpret_cast<double2*>(results + column_after(first + j));
#pragma unroll
      for (int j = 0; j < at_once; j += 2) {
        double2& sum = sums[j / 2];
        sum.x += products[first + j][k], sum.y += products[first + j + 1][k];
        *reinterpret_cast<double2*>(results + column_after(first + j)) = sum;
      }
    }
  }

  template <typename Side>
  __device__ void write_sums(const Side& side, const Units& units, Access access, int first,
                             double* sums, double* squares, unsigned thread) {
    for (int k = thread; k < Side::units && first + k < units.count; k += Shape::filling_threads) {
      const bool holds_sums = !task_.part_results;
      add_to(sums[first + k], total<Side>(side.sums, access.along_units, k), holds_sums);
      add_to(squares[first + k], total<Side>(side.squares, access.along_units, k), holds_sums);
    }
  }

 protected:
  const Task& task_;
  const CrossMoments& problem_;
  Shared<Shape>& shared_;
  const Part part_;
  const Corner corner_;
};

}  // namespace fastrebasin::cuda
