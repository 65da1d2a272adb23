// Sums of products of units, X^T Y, of many pairs of matrices in one launch.
//
// A block of threads owns a tile of one product, and a part of the observations. It takes them in
// spans: within a span it sums in float32 registers, after it the sums go to float64. Where one
// product has too few tiles to fill a device, its observations are cut into parts; each has results
// of its own in the workspace, and a second kernel adds them in order. Nothing is added atomically.
// The tensor cores multiply: see tensor_cores.cuh. Of a product of units with themselves only the
// tiles on one side of the diagonal are computed.

#include <algorithm>

#include "cuda/correlation.hpp"
#include "cuda/correlation_tasks.hpp"
#include "cuda/launch.cuh"
#include "cuda/patch.cuh"
#include "cuda/tile_product.cuh"

namespace fastrebasin::cuda {
namespace {

constexpr int adding_threads = 256;
constexpr int most_adding_blocks = 1024;
static_assert(sizeof(Group) <= 4096, "the arguments of a launch have no more room");
static_assert(span % stretch == 0 && stretch == block_threads, "a thread for each observation");

struct Results {
  double *products, *x_sums, *x_squares, *y_sums, *y_squares;
};

__device__ Results results_of(const Task& task, std::int64_t part) {
  const CrossMoments& problem = task.problem;
  if (!task.part_results)
    return {problem.products, problem.x.sums, problem.x.squares, problem.y.sums, problem.y.squares};
  double* products = task.part_results + part * task.result_count;
  double* x_sums = products + problem.x.count * problem.y.count;
  double* y_sums = x_sums + 2 * problem.x.count;
  return {products, x_sums, x_sums + problem.x.count, y_sums, y_sums + problem.y.count};
}

template <typename Shape>
struct Shared {
  Side<Shape> x, y;
};

struct Corner {
  std::int64_t x, y;
};

// The first units of a tile of a task, which are counted row by row. Those of a symmetric product
// begin at the diagonal.
template <typename Shape>
__device__ Corner corner_of(const Task& task, std::int64_t tile) {
  std::int64_t row = 0;
  if (task.symmetric)
    for (; tile >= task.tile_columns; ++row) tile -= task.tile_columns - row - 1;
  else
    row = tile / task.tile_columns, tile %= task.tile_columns;
  return {row * Shape::tile, tile * Shape::tile};
}

// Adds to where a single part's results go, which hold sums; a part's own hold nothing yet.
__device__ void add_to(double& result, double value, bool holds_sums) {
  result = holds_sums ? result + value : value;
}

// Numbers of 32 bits are divided several times as fast.
__device__ inline std::int64_t divided(std::int64_t dividend, std::int64_t divisor) {
  if (dividend >> 32) return dividend / divisor;
  return static_cast<unsigned>(dividend) / static_cast<unsigned>(divisor);
}

template <typename Shape>
class TileOfProduct {
 public:
  __device__ TileOfProduct(const Task& task, Shared<Shape>& shared, std::int64_t block)
      : task_(task),
        problem_(task.problem),
        shared_(shared),
        part_(block / task.tiles),
        first_(part_ * task.part_observations),
        corner_(corner_of<Shape>(task, block % task.tiles)),
        fills_x_(threadIdx.x < side_threads),
        patch_(fills_x_ ? problem_.x : problem_.y, fills_x_ ? task.x_access : task.y_access,
               fills_x_ ? corner_.x : corner_.y, fills_x_ ? shared.x : shared.y) {
    const std::int64_t left = task.observations - first_;
    count_ = static_cast<int>(left < task.part_observations ? left : task.part_observations);
    const bool first_tile =
        task.symmetric ? corner_.x == corner_.y : (fills_x_ ? corner_.y : corner_.x) == 0;
    adds_units_ = first_tile && (fills_x_ ? problem_.x : problem_.y).sums;
  }

  // Each tile is read while the one before it is multiplied.
  __device__ void run() {
    find_observations(0);
    patch_.begin_sums();
    __syncthreads();
    patch_.read(0);
    patch_.write(mine().tiles[0], count_, adds_units_);
    __syncthreads();
    Products<Shape> products = {};
    int buffer = 0;
    for (int at = 0; at < count_; at += Shape::depth, buffer ^= 1) {
      const int next = at + Shape::depth;
      if (at % stretch == 0) find_observations(at + stretch);
      if (next < count_) patch_.read(next);
      multiply_tile<Shape>(shared_.x.tiles[buffer], shared_.y.tiles[buffer], products);
      if (next < count_) patch_.write(mine().tiles[buffer ^ 1], count_ - next, adds_units_);
      if (next % span == 0 || next >= count_) move(products, !task_.part_results || next > span);
      __syncthreads();
    }
    write_unit_sums();
  }

 private:
  __device__ Side<Shape>& mine() { return fills_x_ ? shared_.x : shared_.y; }

  // Where a stretch of observations lies, one for each thread. Beyond the last, places that may be
  // read, alone or as four that follow each other.
  __device__ void find_observations(int from) {
    const int index = from + threadIdx.x, last = count_ - 4 + index % 4;
    std::int64_t rest = first_ + (index < count_ ? index : last < 0 ? 0 : last), x = 0, y = 0;
#pragma unroll
    for (int axis = observation_axes - 1; axis >= 0; --axis) {
      const std::int64_t size = problem_.observations[axis];
      const std::int64_t outer = rest < size ? 0 : divided(rest, size), at = rest - outer * size;
      rest = outer;
      const bool gathers = problem_.gathered && problem_.gathered_axis == axis;
      x += at * problem_.x.observation_strides[axis];
      y += (gathers ? problem_.gathered[at] : at) * problem_.y.observation_strides[axis];
    }
    shared_.x.offsets[index % ring] = x;
    shared_.y.offsets[index % ring] = y;
  }

  // Adds the products of a span to the results, two neighbours at a time where they lie so.
  __device__ void move(Products<Shape>& products, bool holds_sums) {
    const std::int64_t rows = problem_.x.count, columns = problem_.y.count;
    double* const all = results_of(task_, part_).products;
    const bool in_pairs = columns % 2 == 0 && reinterpret_cast<std::uintptr_t>(all) % 16 == 0;
#pragma unroll
    for (int i = 0; i < Shape::rows; ++i)
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const std::int64_t row = corner_.x + row_of<Shape>(i, k);
        double* results = all + row * columns;
#pragma unroll
        for (int j = 0; j < Shape::columns; j += 2) {
          const std::int64_t column = corner_.y + column_of<Shape>(j, k);
          float &first = products[i][j][k], &second = products[i][j + 1][k];
          if (row < rows && column < columns) {
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
          first = second = 0;
        }
      }
  }

  // The blocks of the first column of tiles sum units of x, and those of the first row units of y;
  // where both are the same, the blocks on the diagonal.
  __device__ void write_unit_sums() {
    if (!adds_units_) return;
    const Units& units = fills_x_ ? problem_.x : problem_.y;
    const bool along_units = (fills_x_ ? task_.x_access : task_.y_access).along_units;
    const std::int64_t first = fills_x_ ? corner_.x : corner_.y;
    const Results results = results_of(task_, part_);
    double *sums = fills_x_ ? results.x_sums : results.y_sums,
           *squares = fills_x_ ? results.x_squares : results.y_squares;
    for (int k = threadIdx.x % side_threads; k < Shape::tile; k += side_threads) {
      if (first + k >= units.count) return;
      const bool holds_sums = !task_.part_results;
      add_to(sums[first + k], Patch<Shape>::total(mine().sums, k, along_units), holds_sums);
      add_to(squares[first + k], Patch<Shape>::total(mine().squares, k, along_units), holds_sums);
    }
  }

  const Task& task_;
  const CrossMoments& problem_;
  Shared<Shape>& shared_;
  const std::int64_t part_, first_;  // observation
  const Corner corner_;
  const bool fills_x_;
  Patch<Shape> patch_;
  int count_;  // of observations
  bool adds_units_;
};

// All tiles of all parts of all problems of a group. x: (observations, x.count), y: (observations,
// y.count), products (x.count, y.count). A tile of 128 is meant for hundreds of units and more;
// smaller ones waste less on fewer, and leave a multiprocessor room for more blocks.
template <typename Shape>
__global__ void __launch_bounds__(block_threads, blocks_at_once(Shape::tile))
    multiply(const __grid_constant__ Group group) {
  int number = 0;
  while (number + 1 < group.count && group.tasks[number + 1].first_block <= blockIdx.x) ++number;
  const Task& task = group.tasks[number];
  TileOfProduct<Shape>(task, shared_memory<Shared<Shape>>(), blockIdx.x - task.first_block).run();
}

// Adds the results of a problem's parts, in order, to the problem's. A row of blocks for each.
__global__ void __launch_bounds__(adding_threads) add_parts(const __grid_constant__ Group group) {
  const Task& task = group.tasks[blockIdx.y];
  if (!task.part_results) return;
  const Units &x = task.problem.x, &y = task.problem.y;
  const std::int64_t products = x.count * y.count, count = products + 2 * (x.count + y.count);
  const std::int64_t first = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  for (std::int64_t at = first; at < count; at += std::int64_t{gridDim.x} * blockDim.x) {
    double* results = task.problem.products;
    std::int64_t index = at, from = at;
    if (at >= products) {
      const bool of_x = at < products + 2 * x.count;
      const Units& units = of_x ? x : y;
      index -= of_x ? products : products + 2 * x.count;
      results = index < units.count ? units.sums : units.squares;
      index %= units.count;
    } else if (task.symmetric && at / y.count > at % y.count) {
      from = at % y.count * y.count + at / y.count;
    }
    if (!results) continue;
    double sum = 0;
    for (std::int64_t part = 0; part < task.parts; ++part)
      sum += task.part_results[part * task.result_count + from];
    results[index] += sum;
  }
}

// The groups follow each other on the stream, so all take the same workspace.
template <typename Shape>
void run(const std::vector<CrossMoments>& problems, double* workspace, Stream stream) {
  for (const Group& group : groups_of(problems, Shape::tile, workspace)) {
    launch(multiply<Shape>, static_cast<unsigned>(group.blocks), block_threads,
           sizeof(Shared<Shape>), stream, group);
    if (group.part_results_count == 0) continue;
    const std::int64_t blocks = quotient(group.part_results_count, adding_threads);
    const auto enough = static_cast<unsigned>(std::min<std::int64_t>(blocks, most_adding_blocks));
    launch(add_parts, dim3(enough, group.count), adding_threads, 0, stream, group);
  }
}

template <Precision precision>
void run(const std::vector<CrossMoments>& problems, double* workspace, Stream stream) {
  run<Shape<32, precision>>(problems, workspace, stream);
  run<Shape<64, precision>>(problems, workspace, stream);
  run<Shape<128, precision>>(problems, workspace, stream);
}

}  // namespace

void add_cross_moments(const std::vector<CrossMoments>& problems, Precision precision,
                       void* workspace, int device, Stream stream) {
  const OnDevice on(device);
  auto* parts = static_cast<double*>(workspace);
  switch (precision) {
    case Precision::highest:
      return run<Precision::highest>(problems, parts, stream);
    case Precision::high:
      return run<Precision::high>(problems, parts, stream);
    case Precision::medium:
      return run<Precision::medium>(problems, parts, stream);
  }
}

}  // namespace fastrebasin::cuda
