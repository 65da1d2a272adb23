#pragma once

// Shortest augmenting paths: the rest of the assignment, and prices that prove it.
//
// Those of Jonker and Volgenant, doi:10.1007/BF02278710. We differ in that a search begins from all
// rows without a column at once, and goes on beyond the nearest column where a path may end.

#include <cuda_runtime.h>

#include "cuda/assignment/block.cuh"
#include "cuda/assignment/distances.cuh"
#include "cuda/assignment/paths.cuh"

namespace fastrebasin::cuda::assignment {

// A search goes so many times as far as to the nearest end.
constexpr double search_reach = 10;

template <typename T, Memory memory>
class Search {
 public:
  __device__ explicit Search(Block<T, memory>& block)
      : block_(block),
        problem_(block.problem),
        columns_(block.problem.columns),
        distances_(block, block.problem.columns) {}

  // Gives every row but dead ones a column; false where there's none. All threads meet.
  __device__ bool assign_rows() {
    // Columns that will be left to dead rows keep their price.
    const double reach = problem_.left_over() > 0 ? 1 : search_reach;
    for (;;) {
      distances_.begin();
      for_each_thread(problem_.rows, [&](int row) {
        if (!problem_.is_dead_row(row) && columns_.partner[row] == none)
          push(columns_.queues[0], block_.counts[0], row);
      });
      __syncthreads();
      const int free = block_.counts[0];
      if (free == 0) return true;
      const int* queue = columns_.queues[0];
      find_best<T, memory>(0, free);
      const double outside = problem_.outside();
      if (take_dead_columns(outside) > 0) continue;
      double worst = -infinity;
      for_each_thread(free, [&](int k) {
        const int row = queue[k];
        problem_.base[row] = 0;
        if (outside < problem_.best[row]) problem_.best[row] = outside;
        if (problem_.best[row] > worst) worst = problem_.best[row];
      });
      if (!(block_highest(worst, block_.parts) < infinity)) return false;
      if (!find_distances<T, memory>(true, unlimited, reach)) return false;
      move_along_paths<T, memory>();
    }
  }

  // Brings the pairs of dead rows and columns back. Where no row had room in these, their price is
  // the highest at which none would rather have one, or that of the dearest column.
  __device__ void open_dead_columns() {
    double most = -infinity;
    for_each_thread(problem_.rows, [&](int row) {
      const int col = columns_.partner[row];
      if (col == none) return;
      const double paid = double(problem_.pair_cost[row]) - columns_.price[col];
      if (paid > most) most = paid;
    });
    most = block_highest(most, block_.parts);
    const double price = problem_.state->dead_cost - most;
    double highest = highest_price();
    if (highest == -infinity) highest = 0;  // all columns are dead
    __syncthreads();
    if (threadIdx.x == 0) {
      State& state = *problem_.state;
      if (state.room == 0) columns_.price[problem_.cols] = price < highest ? price : highest;
      state.room = state.dead_cols;
    }
    __syncthreads();
  }

  // Gives every dead row a column. All threads meet.
  __device__ void assign_dead_rows() {
    open_dead_columns();
    if (threadIdx.x == 0) block_.dead_left = problem_.dead_rows();
    for (;;) {
      distances_.begin();
      const double highest = highest_price();
      take_all_at(highest);
      __syncthreads();
      if (block_.dead_left == 0) return;
      double farthest = 0;
      for_each_thread(problem_.cols + 1, [&](int j) {
        if (!distances_.is_column(j)) return;
        const double at = highest - columns_.price[j];
        distances_.set(j, at);
        columns_.changed[j] = 1;
        columns_.leader[j] = problem_.rows;
        if (is_end(j) && at > farthest) farthest = at;
      });
      farthest = block_highest(farthest, block_.parts);
      find_distances<T, memory>(false, farthest, search_reach);
      move_along_paths<T, memory>();
    }
  }

 private:
  __device__ int free_dead_cols() const { return distances_.free_dead_cols(); }
  __device__ bool is_end(int j) const { return distances_.is_end(j); }

  // Rows that would rather have a dead column than any other get one, while there are some. Returns
  // how many do.
  __device__ int take_dead_columns(double outside) {
    const int left = free_dead_cols();
    if (left <= 0) return 0;
    const int count = for_each_ranked(
        problem_.rows, block_.ranks,
        [&](int row) {
          return !problem_.is_dead_row(row) && columns_.partner[row] == none &&
                 outside <= problem_.best[row];
        },
        [&](int row, int rank) {
          if (rank >= left) return;
          columns_.partner[row] = problem_.cols;
          problem_.find_pair_cost(row);
        });
    const int taken = count < left ? count : left;
    __syncthreads();
    if (threadIdx.x == 0) block_.out += taken;
    __syncthreads();
    return taken;
  }

  __device__ double highest_price() {
    double highest = -infinity;
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (distances_.is_column(j) && columns_.price[j] > highest) highest = columns_.price[j];
    });
    return block_highest(highest, block_.parts);
  }

  // Dead rows take what is free at the highest price.
  __device__ void take_all_at(double highest) {
    const int left = block_.dead_left;
    const int inside = columns_.price[problem_.cols] == highest && problem_.state->room > 0
                           ? (free_dead_cols() < left ? free_dead_cols() : left)
                           : 0;
    const int count = for_each_ranked(
        problem_.cols, block_.ranks,
        [&](int j) { return is_end(j) && columns_.price[j] == highest; },
        [&](int j, int rank) {
          if (rank < left - inside) columns_.holder[j] = problem_.rows;
        });
    __syncthreads();
    if (threadIdx.x == 0) {
      block_.dead_out += inside;
      block_.dead_left -= inside + (count < left - inside ? count : left - inside);
    }
  }

  Block<T, memory>& block_;
  Problem<T, memory>& problem_;
  Working<memory>& columns_;
  Distances<T, memory> distances_;
};

}  // namespace fastrebasin::cuda::assignment
