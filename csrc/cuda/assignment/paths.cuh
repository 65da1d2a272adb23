#pragma once

// Moves rows along the paths that a search has found.
//
// Jonker and Volgenant, doi:10.1007/BF02278710, move them along one. We move them along all paths
// that share no row: with prices for the longest of them, all are tight. Of paths that meet, that
// to the first column counts.

#include <cuda_runtime.h>

#include "cuda/assignment/block.cuh"
#include "cuda/assignment/distances.cuh"

namespace fastrebasin::cuda::assignment {

template <typename T, Memory memory>
class Paths {
 public:
  __device__ Paths(Block<T, memory>& block, const Working<memory>& columns)
      : block_(block), problem_(block.problem), columns_(columns), distances_(block, columns) {}

  // Moves rows along the paths to all ends, as far as they don't meet, and lowers the prices of all
  // columns nearer than the farthest of these.
  __device__ void move() {
    int* claim = columns_.wanted;  // of each row: the first end whose path it is on
    for_each_thread(problem_.rows, [&](int row) { claim[row] = no_leader; });
    set_ends();
    __syncthreads();
    for_each_end([&](int end) {
      walk(end, [&](int, int row, int) {
        if (row != problem_.rows) atomicMin(&claim[row], end);
        return true;
      });
      return true;
    });
    __syncthreads();
    double farthest = 0;
    for_each_end([&](int end) {
      bool own = true;
      walk(end, [&](int, int row, int) {
        own = row == problem_.rows || claim[row] == end;
        return own;
      });
      if (own && distances_.at(end) > farthest) farthest = distances_.at(end);
      return own;
    });
    const int free_dead = distances_.free_dead_cols();
    farthest = block_highest(farthest, block_.parts);
    for_each_end([&](int end) {
      move_along(end, free_dead);
      return true;
    });
    for_each_thread(problem_.cols + 1, [&](int j) {
      const double at = distances_.at(j);
      if (at < farthest) columns_.price[j] += at - farthest;
    });
    __syncthreads();
    for_each_thread(problem_.rows, [&](int row) {
      if (claim[row] != no_leader) problem_.find_pair_cost(row);
    });
    __syncthreads();
  }

 private:
  static constexpr int no_leader = Distances<T, memory>::no_leader;

  // Calls is_left(end) for the ends within the radius, those whose bits are set, each by a thread
  // of its own; their bits become what it says.
  template <typename IsLeft>
  __device__ void for_each_end(IsLeft is_left) {
    const int stride = blockDim.x;
    distances_.for_each_word([&](Bits& word, int first) {
      for (Bits rest = word; rest; rest &= rest - 1) {
        const int k = __ffsll(rest) - 1;
        if (!is_left(first + k * stride)) word &= ~(Bits{1} << k);
      }
    });
  }

  __device__ void set_ends() {
    const int cols = problem_.cols + 1, stride = blockDim.x;
    distances_.for_each_word([&](Bits& word, int first) {
      word = 0;
      for (int k = 0; k < bits_of_word && first + k * stride < cols; ++k) {
        const int j = first + k * stride;
        if (columns_.high[j] < high_word(infinity) && distances_.at(j) <= block_.radius &&
            distances_.is_end(j))
          word |= Bits{1} << k;
      }
    });
  }

  // Calls body(column, row that leads there, that row's own column) along the path to an end.
  template <typename Body>
  __device__ void walk(int col, Body body) {
    for (bool goes_on = true; goes_on;) {
      const int row = columns_.leader[col],
                before = row == problem_.rows ? none : columns_.partner[row];
      goes_on = body(col, row, before) && before != none;
      col = before;
    }
  }

  __device__ void move_along(int end, int free_dead) {
    // All dead columns that are left are as near to dead rows as one.
    if (end == problem_.cols && columns_.leader[end] == problem_.rows) {
      atomicAdd(&block_.dead_left, -free_dead);
      atomicAdd(&block_.dead_out, free_dead);
      return;
    }
    walk(end, [&](int col, int row, int before) {
      const bool dead_row = row == problem_.rows, dead_col = col == problem_.cols;
      if (dead_row) {
        atomicAdd(&block_.dead_left, -1);
      } else {
        columns_.partner[row] = col;
      }
      if (!dead_col) columns_.holder[col] = row;
      if (dead_col) atomicAdd(dead_row ? &block_.dead_out : &block_.out, 1);
      if (before == problem_.cols) atomicAdd(&block_.out, -1);
      return true;
    });
  }

  Block<T, memory>& block_;
  Problem<T, memory>& problem_;
  const Working<memory>& columns_;
  Distances<T, memory> distances_;
};

// Not copied into its callers, as `run_phase`.
template <typename T, Memory memory>
[[gnu::noinline]] __device__ void move_along_paths() {
  Block<T, memory>& block = shared_memory<Block<T, memory>>();
  const Working<memory> columns = block.problem.columns;  // where they are, in registers
  Paths<T, memory>(block, columns).move();
}

}  // namespace fastrebasin::cuda::assignment
