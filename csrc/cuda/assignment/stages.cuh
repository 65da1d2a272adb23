#pragma once

// What is done before a problem is solved and after it, by as many threads as the matrix is worth.

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/assignment/block.cuh"
#include "cuda/assignment/candidates.cuh"
#include "cuda/assignment/problem.cuh"

namespace fastrebasin::cuda::assignment {

// Prices beyond so many times the largest cost would leave no digits for differences.
constexpr double most_price = 1024;

template <typename T>
using GlobalProblem = Problem<T, Memory::global>;

// Where a former result is: null pointers for none.
struct Former {
  const std::int64_t* col4row;
  const double* col_duals;
};

// Prices to start from: those of a former result if they are of any use, else zero. By a block.
template <typename T>
__device__ void start(const GlobalProblem<T>& problem, const Former& former, double* parts) {
  double* price = problem.columns.price;
  const int rows = problem.rows, cols = problem.cols;
  double highest = -infinity, scale = 0;
  bool warm = former.col4row && rows == cols;
  for (int j = threadIdx.x; warm && j < cols; j += blockDim.x) {
    const double dual = double(problem.sign) * former.col_duals[j];
    const double cost = fabs(double(problem.cost(j, j)));
    highest = dual > highest ? dual : highest;
    if (cost < infinity && cost > scale) scale = cost;
  }
  highest = block_highest(highest, parts);
  scale = block_highest(scale, parts);
  double useless = 0;
  for (int j = threadIdx.x; j < cols; j += blockDim.x) {
    const double dual = warm ? double(problem.sign) * former.col_duals[j] - highest : 0;
    price[j] = dual;
    problem.columns.holder[j] = none;
    if (!(dual >= -most_price * scale && dual <= 0)) useless = 1;  // and for NaN
    problem.dead_col[j] = 0;
  }
  for (int row = threadIdx.x; row < rows; row += blockDim.x) {
    problem.columns.partner[row] = none;
    problem.listed_in[row] = 0;
  }
  warm = warm && block_sum(useless, parts) == 0;
  for (int j = threadIdx.x; !warm && j < cols; j += blockDim.x) price[j] = 0;
  if (threadIdx.x > 0) return;
  price[cols] = 0;
  *problem.state = {0, 0, rows, 0, cols, 0, 0, 0, warm, 0, 0};
}

// Looks at all entries of a row. By a warp.
template <typename T>
__device__ void inspect(const GlobalProblem<T>& problem, int row) {
  bool valid = true;
  T low = T(infinity), high = T(-infinity);
  const T* costs = problem.costs + row * problem.row_stride;
#pragma unroll 8
  for (int col = threadIdx.x % warp_lanes; col < problem.cols; col += warp_lanes) {
    const T cost = problem.sign * costs[col];
    valid &= cost > T(-infinity);  // false for NaN too
    low = cost < low ? cost : low;
    high = cost > high ? cost : high;
  }
  for (int offset = warp_lanes / 2; offset; offset /= 2) {
    const T other_low = __shfl_xor_sync(all_lanes, low, offset);
    const T other_high = __shfl_xor_sync(all_lanes, high, offset);
    low = other_low < low ? other_low : low;
    high = other_high > high ? other_high : high;
  }
  valid = __all_sync(all_lanes, valid);
  if (threadIdx.x % warp_lanes > 0) return;
  State& state = *problem.state;
  const bool dead = low == high && low < T(infinity);
  problem.dead_row[row] = dead;
  if (!valid) atomicMax(&state.invalid, 1);
  if (!(low < T(infinity))) atomicMax(&state.infeasible, 1);
  if (dead) return;
  atomicMin(&state.first_live_row, row);
  atomicAdd(&state.live_rows, 1);
}

// Finds which of a warp's columns, beginning with `first`, are equal on all rows but dead ones. By
// a block; `differ` has room for a number of each lane.
template <typename T>
__device__ void find_dead_columns(const GlobalProblem<T>& problem, int first, int* differ) {
  const int lane = threadIdx.x % warp_lanes, warp = threadIdx.x / warp_lanes;
  const int warps = blockDim.x / warp_lanes, col = first + lane;
  const int top = problem.state->first_live_row;
  if (warp == 0) differ[lane] = col >= problem.cols;
  __syncthreads();
  const bool any = top < problem.rows;
  const T cost = any && col < problem.cols ? problem.cost(top, col) : T(0);
  bool same = col < problem.cols && cost < T(infinity);
  for (int row = top + 1 + warp; row < problem.rows; row += warps) {
    if (!__any_sync(all_lanes, same)) break;
    if (same && !problem.is_dead_row(row)) same = problem.cost(row, col) == cost;
  }
  if (!same) atomicMax(&differ[lane], 1);
  __syncthreads();
  if (warp > 0 || differ[lane]) return;
  problem.dead_col[col] = 1;
  atomicMin(&problem.state->first_dead_col, col);
}

// Takes the pairs of a former result; a dead column stands for all of them. By a block.
template <typename T>
__device__ void take_pairs(const GlobalProblem<T>& problem, const Former& former) {
  if (!problem.state->warm) return;
  const Working<Memory::global>& columns = problem.columns;
  for (int row = threadIdx.x; row < problem.rows; row += blockDim.x) {
    const std::int64_t col = former.col4row[row];
    if (problem.is_dead_row(row) || col < 0 || col >= problem.cols) continue;
    const bool dead = columns.price[col] == -infinity;
    if (dead && problem.state->room == 0) continue;
    if (!dead && atomicCAS(&columns.holder[col], none, row) != none) continue;
    columns.partner[row] = dead ? problem.cols : int(col);
  }
}

// Sets aside those dead columns that are equal to the first: at a price of -inf nobody wants them.
// By a block.
template <typename T>
__device__ void set_aside_dead_columns(const GlobalProblem<T>& problem, double* parts) {
  State& state = *problem.state;
  const int first = state.first_dead_col, row = state.first_live_row;
  if (first == problem.cols) return;
  const bool any = row < problem.rows;
  const T cost = any ? problem.cost(row, first) : T(0);
  double count = 0, highest = -infinity;
  for (int j = threadIdx.x; j < problem.cols; j += blockDim.x) {
    double& price = problem.columns.price[j];
    if (!problem.dead_col[j] || (any && problem.cost(row, j) != cost)) continue;
    highest = price > highest ? price : highest;
    price = -infinity;
    ++count;
  }
  count = block_sum(count, parts);
  highest = block_highest(highest, parts);
  if (threadIdx.x > 0) return;
  state.dead_cols = int(count);
  state.dead_cost = double(cost);
  state.room = problem.left_over() < 0 ? -problem.left_over() : 0;
  problem.columns.price[problem.cols] = highest;
}

// Finds what a row pays at most, and by how much its pair costs more. By a warp.
template <typename T>
__device__ void certify(const GlobalProblem<T>& problem, int row) {
  const double dead_price = problem.columns.price[problem.cols];
  double best = infinity;
  for_each_col(problem, row, [&](int col, double reduced, int) {
    if (col < problem.cols && problem.columns.price[col] == -infinity)
      reduced = double(problem.cost(row, col)) - dead_price;
    best = reduced < best ? reduced : best;
  });
  best = warp_lowest(best);
  if (threadIdx.x % warp_lanes > 0) return;
  const int col = problem.columns.partner[row];
  const double price = problem.columns.price[col];
  problem.best[row] = best;
  problem.slack[row] =
      double(problem.cost(row, col)) - (price > -infinity ? price : dead_price) - best;
}

// Where the result goes.
struct Found {
  std::int64_t* col4row;
  double *row_duals, *col_duals, *gap;
  std::int32_t* status;
};

// Says what was found, with the highest price as zero. By a block.
template <typename T>
__device__ void report(const GlobalProblem<T>& problem, const Found& found, double* parts) {
  const State& state = *problem.state;
  const double* price = problem.columns.price;
  const double sign = double(problem.sign);
  const bool solved = !state.invalid && !state.infeasible;
  const auto price_of = [&](int j) {
    return price[j] > -infinity ? price[j] : price[problem.cols];
  };
  double highest = -infinity, slack = 0;
  for (int j = threadIdx.x; j < problem.cols; j += blockDim.x)
    highest = price_of(j) > highest ? price_of(j) : highest;
  highest = block_highest(highest, parts);
  for (int j = threadIdx.x; j < problem.cols; j += blockDim.x) {
    const bool left = problem.columns.holder[j] == none;  // at the highest price, but for rounding
    found.col_duals[j] = solved && !left ? sign * (price_of(j) - highest) : 0;
    if (left) slack += highest - price_of(j);
  }
  for (int row = threadIdx.x; row < problem.rows; row += blockDim.x) {
    found.col4row[row] = solved ? problem.columns.partner[row] : none;
    found.row_duals[row] = solved ? sign * (problem.best[row] + highest) : 0;
    if (solved) slack += problem.slack[row];
  }
  slack = block_sum(slack, parts);
  if (threadIdx.x > 0) return;
  *found.gap = solved ? slack : 0;
  *found.status = state.invalid ? 1 : state.infeasible ? 2 : 0;
}

}  // namespace fastrebasin::cuda::assignment
