#pragma once

// Shortest augmenting paths: the rest of the assignment, and prices that prove it.
//
// The paths are those of Jonker and Volgenant (doi:10.1007/BF02278710). We find them another way: a
// search begins from all rows without a column at once, and corrects distances in rounds, as
// Meyer and Sanders do in "Delta-stepping", J. Algorithms 49, 114-152 (2003),
// doi:10.1016/S0196-6774(03)00076-2. So a search over hundreds of rows takes tens of rounds. What
// is found doesn't depend on the order in which threads run: distances are least fixed points, and
// the predecessor of a column is the first row that gave it its distance in the round of its last
// change, which rules out cycles of length zero.

#include <cuda_runtime.h>

#include "cuda/assignment/block.cuh"
#include "cuda/relaxed.cuh"

namespace fastrebasin::cuda {

// A search goes on from all columns within so much of the nearest, in units of the usual spread of
// a row's candidates: more of them at a time, some of them too early.
constexpr double search_step = 0.05;

template <typename T>
class Search {
 public:
  __device__ explicit Search(Block<T>& block)
      : block_(block), problem_(block.problem), columns_(block.problem.columns) {}

  // Gives every row but dead ones a column; false where there's none. All threads meet.
  __device__ bool assign_rows() {
    for (;;) {
      begin();
      for_each_thread(problem_.rows, [&](int row) {
        if (!problem_.is_dead_row(row) && columns_.partner[row] == none)
          push(columns_.queues[0], block_.counts[0], row);
      });
      __syncthreads();
      const int free = block_.counts[0];
      if (free == 0) return true;
      const int* queue = columns_.queues[0];
      find_best(block_, free, [&](int k) { return queue[k]; });
      const double outside = problem_.outside();
      for_each_thread(free, [&](int k) {
        const int row = queue[k];
        problem_.base[row] = 0;
        if (outside < problem_.best[row]) problem_.best[row] = outside;
      });
      __syncthreads();
      if (!run(false)) return false;
      augment();
    }
  }

  // Gives every dead row a column. All threads meet.
  __device__ void assign_dead_rows() {
    if (threadIdx.x == 0) block_.dead_left = problem_.dead_rows();
    for (;;) {
      begin();
      find_highest_price();
      take_highest();
      __syncthreads();
      if (block_.dead_left == 0) return;
      const double highest = number_of(block_.highest);
      for_each_thread(problem_.cols + 1, [&](int j) {
        if (!is_column(j)) return;
        columns_.distance[j] = bits_of(highest - columns_.price[j]);
        columns_.mark[j] = mark_of(1, problem_.rows);
      });
      __syncthreads();
      run(true);
      augment();
    }
  }

 private:
  __device__ int dead_cols() const { return problem_.state->dead_cols; }
  __device__ bool is_column(int j) const {
    return j < problem_.cols ? columns_.price[j] > -infinity : dead_cols() > 0;
  }
  __device__ int free_dead_cols() const { return dead_cols() - block_.out - block_.dead_out; }
  __device__ bool is_end(int j) const {
    return j < problem_.cols ? columns_.holder[j] == none && is_column(j) : free_dead_cols() > 0;
  }

  // A later round counts more, then an earlier row.
  __device__ static Bits mark_of(int round, int row) {
    return Bits(unsigned(round)) << 32 | (0xFFFFFFFFu - unsigned(row));
  }
  __device__ static int round_of(Bits mark) { return int(mark >> 32); }
  __device__ static int row_of(Bits mark) { return int(0xFFFFFFFFu - unsigned(mark)); }

  __device__ void begin() {
    for_each_thread(problem_.cols + 1, [&](int j) {
      columns_.distance[j] = bits_of(infinity);
      columns_.mark[j] = 0;
      columns_.pending[j] = 0;
    });
    for_each_thread(problem_.rows, [&](int row) { problem_.whole_at[row] = infinity; });
    if (threadIdx.x == 0) {
      block_.counts[0] = block_.counts[1] = block_.whole_count[0] = block_.whole_count[1] = 0;
      block_.end = block_.open = block_.whole = bits_of(infinity);
      block_.highest = 0;
      block_.first_end = problem_.cols + 1;
      block_.ends = block_.path_rows = 0;
      block_.open_class = false;
    }
    __syncthreads();
  }

  // Finds the nearest end, and the distances of all columns nearer than that.
  __device__ bool run(bool from_dead_rows) {
    const double step = search_step * problem_.state->spread;
    double limit = step;
    for (int round = 1;; ++round) {
      const int now = 1 - round % 2;
      if (round > 1 || !from_dead_rows) {
        relax(now, [&](int, int col, double at) { reach(col, at, round); }, true);
        __syncthreads();
        relax(now, [&](int row, int col, double at) { lead(col, at, row, round); }, false);
        __syncthreads();
      }
      look(round);
      __syncthreads();
      const double end = double_of(block_.end);
      const double open = double_of(block_.open), whole = double_of(block_.whole);
      const double nearest = open < whole ? open : whole;
      if (!(nearest < end)) return end < infinity;
      if (nearest > limit) limit = nearest + step;
      go_on(1 - now, limit, end);
      __syncthreads();
    }
  }

  // Calls visit(row, column, distance of the column) for what the queues' rows can reach before the
  // nearest end.
  template <typename Visit>
  __device__ void relax(int now, Visit visit, bool first) {
    const double end = double_of(block_.end);
    for_each_team(columns_.queues[now], block_.counts[now], [&](int, int row) {
      if (row != none) relax_list(row, end, visit, first);
    });
    for_each_warp(problem_.stale, block_.whole_count[now], [&](int row) {
      const double base = problem_.base[row], best = lowest(row);
      for_each_col(problem_, row, [&](int col, double reduced, int) {
        const double at = base + above(reduced, best);
        if (at < end) visit(row, col, at);
      });
    });
  }

  template <typename Visit>
  __device__ void relax_list(int row, double end, Visit visit, bool first) {
    const double base = problem_.base[row], best = lowest(row);
    const int* cols = problem_.lists.cols + std::int64_t{row} * list_capacity;
    const T* costs = problem_.lists.costs + std::int64_t{row} * list_capacity;
#pragma unroll
    for (int k = 0; k < list_capacity / team_lanes; ++k) {
      const int slot = threadIdx.x % team_lanes + k * team_lanes;
      const int col = cols[slot];
      const double at = base + above(double(costs[slot]) - columns_.price[col], best);
      if (at < end) visit(row, col, at);
    }
    if (!leads_team()) return;
    const double outside = base + above(problem_.outside(), best);
    if (outside < end) visit(row, problem_.cols, outside);
    const double whole = base + above(problem_.lists.bound[row], best);
    if (first && whole < end) {
      problem_.whole_at[row] = whole;
      atomicMin(&block_.whole, bits_of(whole));
    }
  }

  // What a row's own column costs it less its price, or the best where it has none.
  __device__ double lowest(int row) const {
    const int col = columns_.partner[row];
    return col == none ? problem_.best[row] : double(problem_.pair_cost[row]) - columns_.price[col];
  }
  // Rounding may make it come out below zero.
  __device__ static double above(double reduced, double best) {
    const double length = reduced - best;
    return length > 0 ? length : 0;
  }

  __device__ void reach(int col, double at, int round) {
    const Bits bits = bits_of(at);
    Bits* distance = &columns_.distance[col];
    if (bits < relaxed_load(distance) && bits < atomicMin(distance, bits))
      atomicMax(&columns_.mark[col], Bits(unsigned(round)) << 32);
  }

  __device__ void lead(int col, double at, int row, int round) {
    if (columns_.distance[col] == bits_of(at) &&
        round_of(relaxed_load(&columns_.mark[col])) == round)
      atomicMax(&columns_.mark[col], mark_of(round, row));
  }

  // Finds the nearest end, and the nearest column to go on from. Each thread has columns of its
  // own.
  __device__ void look(int round) {
    Bits end = bits_of(infinity), open = end;
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (round_of(columns_.mark[j]) == round) columns_.pending[j] = 1;
      if (!columns_.pending[j]) return;
      const Bits distance = columns_.distance[j];
      if (is_end(j)) {
        columns_.pending[j] = 0;
        end = distance < end ? distance : end;
      } else {
        open = distance < open ? distance : open;
      }
    });
    if (end < bits_of(infinity)) atomicMin(&block_.end, end);
    if (open < bits_of(infinity)) atomicMin(&block_.open, open);
    if (threadIdx.x == 0) {
      const int now = 1 - round % 2;
      block_.counts[now] = block_.whole_count[now] = 0;
    }
  }

  // Puts the rows of near columns in the next queue.
  __device__ void go_on(int next, double limit, double end) {
    __syncthreads();  // all have read what is nearest
    if (threadIdx.x == 0) block_.open = bits_of(infinity);
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (!columns_.pending[j]) return;
      const double at = double_of(columns_.distance[j]);
      if (at > limit || !(at < end)) return;
      columns_.pending[j] = 0;
      if (j == problem_.cols) {
        block_.open_class = true;
        return;
      }
      const int row = columns_.holder[j];
      if (row == problem_.rows) return;  // dead rows are where this search begins
      problem_.base[row] = at;
      push(columns_.queues[next], block_.counts[next], row);
    });
    if (double_of(block_.whole) <= limit) queue_whole_rows(next, limit);
    __syncthreads();
    if (!block_.open_class) return;
    const double at = double_of(columns_.distance[problem_.cols]);
    for_each_thread(problem_.rows, [&](int row) {
      if (columns_.partner[row] != problem_.cols) return;
      problem_.base[row] = at;
      push(columns_.queues[next], block_.counts[next], row);
    });
    __syncthreads();
    if (threadIdx.x == 0) block_.open_class = false;
  }

  __device__ void queue_whole_rows(int next, double limit) {
    __syncthreads();
    if (threadIdx.x == 0) block_.whole = bits_of(infinity);
    __syncthreads();
    for_each_thread(problem_.rows, [&](int row) {
      const double at = problem_.whole_at[row];
      if (at > limit) {
        if (at < infinity) atomicMin(&block_.whole, bits_of(at));
        return;
      }
      problem_.whole_at[row] = infinity;
      push(problem_.stale, block_.whole_count[next], row);
    });
  }

  // Lowers the prices of all columns nearer than the end, and moves rows along the paths to ends
  // that are equally near, as far as they don't meet.
  __device__ void augment() {
    const double end = double_of(block_.end);
    for_each_thread(problem_.cols + 1, [&](int j) {
      const double at = double_of(columns_.distance[j]);
      if (at < end) {
        columns_.price[j] += at - end;
      } else if (at == end && is_end(j)) {
        atomicMin(&block_.first_end, j);
        atomicAdd(&block_.ends, 1);
      }
    });
    __syncthreads();
    if (block_.ends == 1) {
      if (threadIdx.x == 0) move_along(block_.first_end);
    } else {
      int* ends = columns_.wanted;
      const int count = for_each_ranked(
          problem_.cols + 1, block_.ranks,
          [&](int j) { return double_of(columns_.distance[j]) == end && is_end(j); },
          [&](int j, int rank) {
            if (rank < problem_.rows) ends[rank] = j;
          });
      __syncthreads();
      if (threadIdx.x == 0)
        for (int k = 0; k < count && k < problem_.rows; ++k) move_along(ends[k]);
    }
    __syncthreads();
    for_each_thread(block_.path_rows, [&](int k) {
      const int row = problem_.stale[k], col = columns_.partner[row];
      problem_.pair_cost[row] =
          col == problem_.cols ? T(problem_.state->dead_cost) : problem_.cost(row, col);
    });
    __syncthreads();
  }

  // Marks a row that a path has used.
  static constexpr double used = -1;

  __device__ bool is_open_path(int col) const {
    for (;;) {
      const int row = row_of(columns_.mark[col]);
      if (row == problem_.rows) return block_.dead_left > 0;
      if (problem_.whole_at[row] == used) return false;
      col = columns_.partner[row];
      if (col == none) return true;
    }
  }

  __device__ void move_along(int col) {
    if (!is_open_path(col)) return;
    for (;;) {
      const int row = row_of(columns_.mark[col]);
      if (row == problem_.rows) {
        --block_.dead_left;
        if (col == problem_.cols) {
          ++block_.dead_out;
        } else {
          columns_.holder[col] = row;
        }
        return;
      }
      const int before = columns_.partner[row];
      columns_.partner[row] = col;
      if (col == problem_.cols) {
        ++block_.out;
      } else {
        columns_.holder[col] = row;
      }
      if (before == problem_.cols) --block_.out;
      problem_.whole_at[row] = used;
      problem_.stale[block_.path_rows++] = row;
      if (before == none) return;
      col = before;
    }
  }

  __device__ void find_highest_price() {
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (is_column(j)) atomicMax(&block_.highest, ordered(columns_.price[j]));
    });
    __syncthreads();
  }

  // Dead rows take what is free at the highest price.
  __device__ void take_highest() {
    const int left = block_.dead_left;
    const double highest = number_of(block_.highest);
    const int inside = columns_.price[problem_.cols] == highest && dead_cols() > 0
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

  Block<T>& block_;
  Problem<T>& problem_;
  Working& columns_;
};

}  // namespace fastrebasin::cuda
