#pragma once

// One problem from its lists to its assignment, by a block.

#include <cuda_runtime.h>

#include "cuda/assignment/auction.cuh"
#include "cuda/assignment/block.cuh"
#include "cuda/assignment/search.cuh"

namespace fastrebasin::cuda::assignment {

// Tolerances of the auction's phases, in units of the usual spread of a row's candidates; those of
// the second row are for problems whose first phase doesn't settle, such as costs of rank one.
constexpr int usual_phases = 3, hard_phases = 7;
__device__ constexpr double usual_tolerances[usual_phases] = {0.3, 0.06, 0.012};
__device__ constexpr double hard_tolerances[hard_phases] = {64, 16, 4, 1, 0.3, 0.06, 0.012};
// A phase ends when so small a part of the rows is left.
constexpr int few_rows = 64;
constexpr int rounds_to_settle = 600, rounds_of_phase = 2000, rounds_of_reduction = 75;

template <typename T, Memory memory>
class Solver {
 public:
  __device__ explicit Solver(Block<T, memory>& block) : block_(block), problem_(block.problem) {}

  // A step of the auction: it begins from prices, lists at those prices, and what the former one
  // assigned.
  __device__ void bid(int step) {
    State& state = *problem_.state;
    if (step == 0) measure_spread();
    if (state.warm || !(state.spread > 0)) return;
    const bool is_first = step == 0, is_hard = !is_first && !state.settled;
    if (!is_hard || step == usual_phases - 1) {
      const double* tolerances = is_hard ? hard_tolerances : usual_tolerances + step;
      const int phases = is_hard ? hard_phases : 1, few = state.live_rows / few_rows;
      int left = 0;
#pragma unroll 1
      for (int phase = 0; phase < phases; ++phase)
        left = run_phase<T, memory>(tolerances[phase] * state.spread, few,
                                    is_first ? rounds_to_settle : rounds_of_phase);
      if (is_first && threadIdx.x == 0) state.settled = left <= few;
    }
    raise_left_over();
  }

  // The optimum, from where the auction ended.
  __device__ void finish() {
    run_phase<T, memory>(0, 0, rounds_of_reduction);
    find_pair_costs(problem_);
    Search<T, memory> search(block_);
    bool complete = false;
#pragma unroll 1
    for (int turn = 0; turn < 2 && !complete; ++turn) {
      // What is forbidden may leave a row nothing but a dead column.
      if (turn > 0) search.open_dead_columns();
      complete = search.assign_rows();
    }
    if (complete) search.assign_dead_rows();
    if (!complete && threadIdx.x == 0) problem_.state->infeasible = 1;
    if (complete) hand_out();
  }

 private:
  // Columns that will be left to dead rows must have the highest price. Rows that they now suit
  // better go to them in the next phase, for which all rows are listed anew.
  __device__ void raise_left_over() {
    if (problem_.left_over() <= 0) return;
    const Working<memory>& columns = problem_.columns;
    double highest = -infinity;
    for_each_thread(problem_.cols, [&](int j) {
      if (columns.price[j] > highest) highest = columns.price[j];
    });
    highest = block_highest(highest, block_.parts);
    for_each_thread(problem_.cols, [&](int j) {
      if (columns.holder[j] == none && columns.price[j] > -infinity) columns.price[j] = highest;
    });
    __syncthreads();
  }

  // The median, over some rows, of how far the candidates of a list are apart.
  __device__ void measure_spread() {
    const int rows = problem_.rows;
    const int samples = rows < most_samples ? rows : most_samples;
    for_each_thread(samples, [&](int k) {
      const int row = int(std::int64_t{k} * rows / samples);
      block_.samples[k] = problem_.is_dead_row(row) ? none : spread_of(row);
    });
    if (threadIdx.x == 0) problem_.state->spread = 0;
    __syncthreads();
    double live = 0;
    for_each_thread(samples, [&](int k) { live += block_.samples[k] >= 0; });
    const int middle = int(block_sum(live, block_.parts)) / 2;
    for_each_thread(samples, [&](int k) {
      const double spread = block_.samples[k];
      int lower = 0;
      for (int other = 0; other < samples; ++other) {
        const double it = block_.samples[other];
        lower += it >= 0 && (it < spread || (it == spread && other < k));
      }
      if (spread >= 0 && lower == middle) problem_.state->spread = spread;
    });
    __syncthreads();
  }

  __device__ double spread_of(int row) const {
    const std::int64_t first = std::int64_t{row} * list_capacity;
    double low = infinity, high = -infinity;
#pragma unroll 8
    for (int slot = 0; slot < list_capacity; ++slot) {
      const double reduced = double(problem_.lists.costs[first + slot]) -
                             problem_.columns.price[problem_.lists.cols[first + slot]];
      low = reduced < low ? reduced : low;
      if (reduced > high && reduced < infinity) high = reduced;
    }
    const double bound = problem_.lists.bound[row];
    if (bound < infinity) high = bound;
    return high > low ? high - low : 0;
  }

  // Gives each dead column and each dead row a partner of its own, in the order of their numbers.
  __device__ void hand_out() {
    Working<memory>& columns = problem_.columns;
    const int rows = problem_.rows, cols = problem_.cols;
    int *dead = columns.leader, *kept = columns.changed;  // what searches noted isn't needed
    for_each_ranked(
        cols, block_.ranks, [&](int j) { return columns.price[j] == -infinity; },
        [&](int j, int rank) { dead[rank] = j; });
    __syncthreads();
    for_each_ranked(
        rows, block_.ranks, [&](int row) { return columns.partner[row] == cols; },
        [&](int row, int rank) {
          columns.partner[row] = dead[rank];
          columns.holder[dead[rank]] = row;
        });
    for_each_thread(block_.dead_out, [&](int k) { columns.holder[dead[block_.out + k]] = rows; });
    __syncthreads();
    for_each_ranked(
        cols, block_.ranks, [&](int j) { return columns.holder[j] == rows; },
        [&](int j, int rank) { kept[rank] = j; });
    __syncthreads();
    for_each_ranked(
        rows, block_.ranks, [&](int row) { return problem_.is_dead_row(row); },
        [&](int row, int rank) {
          columns.partner[row] = kept[rank];
          columns.holder[kept[rank]] = row;
        });
    __syncthreads();
    for_each_thread(cols, [&](int j) {
      if (columns.holder[j] == rows) columns.holder[j] = none;
    });
    __syncthreads();
  }

  Block<T, memory>& block_;
  Problem<T, memory>& problem_;
};

}  // namespace fastrebasin::cuda::assignment
