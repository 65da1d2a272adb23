#pragma once

// Lists of each row's cheapest columns: made by the lanes of a warp, read by teams of lanes.

#include <cuda_runtime.h>

#include "cuda/assignment/numbers.cuh"
#include "cuda/assignment/problem.cuh"

namespace fastrebasin::cuda::assignment {

// So many of the 64 groups of a row's columns have their cheapest listed: about 44 columns then lie
// below the bound.
constexpr int listed_groups = 32;
constexpr int most_halvings = 16;
constexpr int no_column = 0x7FFFFFFF;
// Lanes that look at one row together.
constexpr int team_lanes = 8;

// Costs that lie side by side, as many as a thread reads at once.
template <typename T>
struct Pack;
template <>
struct Pack<float> {
  using Vector = float4;
  static constexpr int width = 4;
  float values[width];
  __device__ Pack(Vector v) : values{v.x, v.y, v.z, v.w} {}
};
template <>
struct Pack<double> {
  using Vector = double2;
  static constexpr int width = 2;
  double values[width];
  __device__ Pack(Vector v) : values{v.x, v.y} {}
};

// Packs that a thread asks for before it looks at the first.
constexpr int packs_ahead = 4;

template <typename T, Memory memory>
__device__ Pack<T> read_pack(const Problem<T, memory>& problem, const T* costs, int first) {
  using Vector = typename Pack<T>::Vector;
  if (problem.aligned && first + Pack<T>::width <= problem.cols)
    return Pack<T>(__ldg(reinterpret_cast<const Vector*>(costs + first)));
  Pack<T> pack(Vector{});
  for (int k = 0; k < Pack<T>::width; ++k)
    if (first + k < problem.cols) pack.values[k] = __ldg(costs + first + k);
  return pack;
}

// Which of several warps reads a row.
struct Part {
  int number = 0, count = 1;
};

// Calls visit(column, reduced cost, parity) for all columns of a row, or a warp's part of them, as
// many by each of its lanes; beyond the last column costs are infinite. Rows begin in different
// places, so that of many equal columns they find different ones.
template <typename T, Memory memory, typename Visit>
__device__ void for_each_col(const Problem<T, memory>& problem, int row, Visit visit,
                             Part part = {}) {
  constexpr int width = Pack<T>::width, chunk_cols = warp_lanes * width;
  const int chunks = (problem.cols + chunk_cols - 1) / chunk_cols;
  const int own = threadIdx.x % warp_lanes * width;
  const T* costs = problem.costs + row * problem.row_stride;
  const double* price = problem.columns.price;
  const int start = int(row * 40503u % unsigned(chunks));
  for (int first = part.number; first < chunks; first += packs_ahead * part.count) {
    Pack<T> packs[packs_ahead] = {Pack<T>({}), Pack<T>({}), Pack<T>({}), Pack<T>({})};
    const auto col_of = [&](int k) {
      const int chunk = start + first + k * part.count;
      return (chunk < chunks ? chunk : chunk - chunks) * chunk_cols + own;
    };
#pragma unroll
    for (int k = 0; k < packs_ahead; ++k)
      if (first + k * part.count < chunks) packs[k] = read_pack(problem, costs, col_of(k));
#pragma unroll
    for (int k = 0; k < packs_ahead; ++k) {
      if (first + k * part.count >= chunks) break;
      const int col = col_of(k);
      double reduced[width];
#pragma unroll
      for (int w = 0; w < width; ++w)
        reduced[w] = col + w < problem.cols
                         ? double(problem.sign * packs[k].values[w]) - price[col + w]
                         : infinity;
#pragma unroll
      for (int w = 0; w < width; ++w) visit(col + w, reduced[w], w % 2);
    }
  }
}

// A bound for about so many of a warp's numbers, two of each lane; for one the least of them, and
// infinity where fewer are finite.
__device__ inline double bound_for(const double (&numbers)[2], int wanted) {
  const auto largest_finite = [](double a, double b) {
    return a < infinity && (a > b || b == infinity) ? a : b < infinity ? b : -infinity;
  };
  const auto count = [&](double bound) {
    return __popc(__ballot_sync(all_lanes, numbers[0] <= bound)) +
           __popc(__ballot_sync(all_lanes, numbers[1] <= bound));
  };
  double low = warp_lowest(numbers[0] < numbers[1] ? numbers[0] : numbers[1]);
  double high = -warp_lowest(-largest_finite(numbers[0], numbers[1]));
  if (wanted == 1) return low;
  if (!(high > -infinity) || count(high) <= wanted) return infinity;
  for (int k = 0; k < most_halvings; ++k) {
    const double middle = low / 2 + high / 2;
    const int found = count(middle);
    if (4 * found >= 3 * wanted && 4 * found <= 5 * wanted) return middle;
    (found > wanted ? high : low) = middle;
  }
  return high;
}

// Writes the columns up to a bound to a row's list, as far as there is room; returns their number.
template <typename T, Memory memory>
__device__ int collect(const Problem<T, memory>& problem, int row, double bound) {
  const unsigned earlier = (1u << threadIdx.x % warp_lanes) - 1;
  const std::int64_t first = std::int64_t{row} * list_capacity;
  int count = 0;
  for_each_col(problem, row, [&](int col, double reduced, int) {
    const bool listed = reduced <= bound && reduced < infinity;
    const unsigned ballot = __ballot_sync(all_lanes, listed);
    const int at = count + __popc(ballot & earlier);
    if (listed && at < list_capacity) {
      problem.lists.cols[first + at] = col;
      problem.lists.costs[first + at] = problem.cost(row, col);
    }
    count += __popc(ballot);
  });
  return count;
}

// Lists a row's candidates at the present prices. Not copied into its callers, as it is long.
template <typename T, Memory memory>
[[gnu::noinline]] __device__ void list_row(const Problem<T, memory>& problem, int row) {
  const int lane = threadIdx.x % warp_lanes;
  double lowest[2] = {infinity, infinity};
  for_each_col(problem, row, [&](int, double reduced, int parity) {
    lowest[parity] = reduced < lowest[parity] ? reduced : lowest[parity];
  });
  double bound = infinity;
  int count = 0;
  // Where too many columns are equal to the cheapest, some of them are listed.
  for (int wanted = listed_groups; wanted > 0; wanted /= 2) {
    bound = problem.cols <= list_capacity ? infinity : bound_for(lowest, wanted);
    count = collect(problem, row, bound);
    if (count <= list_capacity) break;
  }
  for (int slot = count + lane; slot < list_capacity; slot += warp_lanes) {
    problem.lists.cols[std::int64_t{row} * list_capacity + slot] = 0;
    problem.lists.costs[std::int64_t{row} * list_capacity + slot] = T(infinity);
  }
  if (lane == 0) problem.lists.bound[row] = bound;
  __syncwarp();
}

// A lane's part of a row's list, read before anything is written; nothing of no row.
constexpr int own_slots = list_capacity / team_lanes;
template <typename T>
struct Edges {
  int cols[own_slots];
  double reduced[own_slots];

  Edges() = default;
  template <Memory memory>
  __device__ Edges(const Problem<T, memory>& problem, int row) {
    const bool any = row != none;
    const std::int64_t first = std::int64_t{row} * list_capacity + threadIdx.x % team_lanes;
    const int* list_cols = problem.lists.cols + first;
    const T* list_costs = problem.lists.costs + first;
    const double* price = problem.columns.price;
#pragma unroll
    for (int k = 0; k < own_slots; ++k) {
      cols[k] = any ? list_cols[k * team_lanes] : 0;
      reduced[k] = any ? double(list_costs[k * team_lanes]) : infinity;
    }
#pragma unroll
    for (int k = 0; k < own_slots; ++k) reduced[k] -= price[cols[k]];
  }
};

// The best of a row's candidates, and the reduced cost of the second best.
struct Choice {
  double best = infinity, second = infinity;
  int col = none;
};

// By all lanes of a warp, for its teams' rows, which may be none. Of equal columns one that nobody
// has is better.
template <typename T, Memory memory>
__device__ Choice choose(const Problem<T, memory>& problem, int row) {
  const Edges<T> edges(problem, row);
  Choice choice;
#pragma unroll
  for (int k = 0; k < own_slots; ++k) {
    const double reduced = edges.reduced[k];
    const bool better = reduced < choice.best;
    const double loser = better ? choice.best : reduced;
    choice.second = loser < choice.second ? loser : choice.second;
    choice.best = better ? reduced : choice.best;
    choice.col = better ? edges.cols[k] : choice.col;
  }
  for (int offset = team_lanes / 2; offset; offset /= 2) {
    const double best = __shfl_xor_sync(all_lanes, choice.best, offset);
    const double second = __shfl_xor_sync(all_lanes, choice.second, offset);
    const int col = __shfl_xor_sync(all_lanes, choice.col, offset);
    const bool better = best < choice.best || (best == choice.best && col < choice.col);
    const double loser = better ? choice.best : best;
    choice.second = choice.second < second ? choice.second : second;
    choice.second = choice.second < loser ? choice.second : loser;
    choice.best = better ? best : choice.best;
    choice.col = better ? col : choice.col;
  }
  const bool tied = choice.second == choice.best && choice.best < infinity;
  if (__any_sync(all_lanes, tied)) {
    int free = no_column;
#pragma unroll
    for (int k = 0; k < own_slots; ++k)
      if (edges.reduced[k] == choice.best && problem.columns.holder[edges.cols[k]] == none &&
          edges.cols[k] < free)
        free = edges.cols[k];
    for (int offset = team_lanes / 2; offset; offset /= 2) {
      const int other = __shfl_xor_sync(all_lanes, free, offset);
      free = other < free ? other : free;
    }
    if (tied && free != no_column) choice.col = free;
  }
  return choice;
}

// Calls body(number, row) by each team for the rows that row_of(number) gives for 0 to count - 1;
// all lanes of a warp come along, with no row once there are none left.
template <typename RowOf, typename Body>
__device__ void for_each_team_of(int count, RowOf row_of, Body body) {
  const int teams = blockDim.x / team_lanes, team = threadIdx.x / team_lanes;
  const int first_of_warp = threadIdx.x / warp_lanes * (warp_lanes / team_lanes);
  for (int first = 0; first + first_of_warp < count; first += teams)
    body(first + team, first + team < count ? row_of(first + team) : none);
}

// The same for the rows of a queue.
template <typename Body>
__device__ void for_each_team(const int* queue, int count, Body body) {
  for_each_team_of(count, [&](int k) { return queue[k]; }, body);
}

// The same by each warp, without their number.
template <typename Body>
__device__ void for_each_warp(const int* queue, int count, Body body) {
  for (int at = threadIdx.x / warp_lanes; at < count; at += blockDim.x / warp_lanes)
    body(queue[at]);
}

// Calls body(row, part) by several warps for each row of a short queue.
template <typename Body>
__device__ void for_each_part(const int* queue, int count, Body body) {
  const int warps = blockDim.x / warp_lanes, warp = threadIdx.x / warp_lanes;
  const int parts = count < warps ? warps / count : 1;
  for (int at = warp; at < count * parts; at += warps)
    body(queue[at % count], Part{at / count, parts});
}

__device__ inline bool leads_team() { return threadIdx.x % team_lanes == 0; }

}  // namespace fastrebasin::cuda::assignment
