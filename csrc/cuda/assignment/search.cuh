#pragma once

// Shortest augmenting paths: the rest of the assignment, and prices that prove it.
//
// The paths are those of Jonker and Volgenant (doi:10.1007/BF02278710). We find them another way: a
// search begins from all rows without a column at once, and corrects distances in rounds, as
// Meyer and Sanders do in "Delta-stepping", J. Algorithms 49, 114-152 (2003),
// doi:10.1016/S0196-6774(03)00076-2. So a search over hundreds of rows takes tens of rounds. It
// goes on beyond the nearest column where a path may end, and moves rows along all paths that share
// no row: with the prices of the longest of them, all are tight.
//
// What is found doesn't depend on the order in which threads run: distances are least fixed points;
// the leader of a column is the first row that gave it its distance in the round of its last
// change, which rules out cycles of length zero; and of paths that meet that of the first column
// counts. Distances are kept as two words each, as only single words have fast atomic operations.

#include <cuda_runtime.h>

#include "cuda/assignment/block.cuh"
#include "cuda/relaxed.cuh"

namespace fastrebasin::cuda {

// A search goes on from all columns within so much of the nearest, in units of the usual spread of
// a row's candidates: more of them at a time, some of them too early.
constexpr double search_step = 0.05;
// And so many times as far as to the nearest end.
constexpr double search_reach = 10;

template <typename T>
class Search {
 public:
  __device__ explicit Search(Block<T>& block)
      : block_(block),
        problem_(block.problem),
        columns_(block.problem.columns),
        high_(reinterpret_cast<unsigned*>(columns_.distance)),
        low_(high_ + problem_.cols + 1),
        changed_(reinterpret_cast<int*>(columns_.mark)),
        leader_(changed_ + problem_.cols + 1) {}

  // Gives every row but dead ones a column; false where there's none. All threads meet.
  __device__ bool assign_rows() {
    // Columns that will be left to dead rows keep their price.
    const double reach = problem_.dead_rows() > 0 ? 1 : search_reach;
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
      if (take_dead_columns(outside) > 0) continue;
      for_each_thread(free, [&](int k) {
        const int row = queue[k];
        problem_.base[row] = 0;
        if (outside < problem_.best[row]) problem_.best[row] = outside;
      });
      __syncthreads();
      if (!run(true, infinity, reach)) return false;
      augment();
    }
  }

  // Gives every dead row a column. All threads meet.
  __device__ void assign_dead_rows() {
    if (threadIdx.x == 0) block_.dead_left = problem_.dead_rows();
    for (;;) {
      begin();
      const double highest = highest_price();
      take_all_at(highest);
      __syncthreads();
      if (block_.dead_left == 0) return;
      double farthest = 0;
      for_each_thread(problem_.cols + 1, [&](int j) {
        if (!is_column(j)) return;
        const double at = highest - columns_.price[j];
        set_distance(j, at);
        changed_[j] = 1;
        leader_[j] = problem_.rows;
        if (is_end(j) && at > farthest) farthest = at;
      });
      farthest = block_highest(farthest, block_.parts);
      run(false, farthest, infinity);
      augment();
    }
  }

 private:
  static constexpr int no_leader = 0x7FFFFFFF;

  __device__ int dead_cols() const { return problem_.state->dead_cols; }
  __device__ bool is_column(int j) const {
    return j < problem_.cols ? columns_.price[j] > -infinity : dead_cols() > 0;
  }
  __device__ int free_dead_cols() const { return dead_cols() - block_.out - block_.dead_out; }
  __device__ bool is_end(int j) const {
    return j < problem_.cols ? columns_.holder[j] == none && is_column(j) : free_dead_cols() > 0;
  }

  __device__ double distance(int j) const { return double_of(Bits{high_[j]} << 32 | low_[j]); }
  __device__ void set_distance(int j, double at) {
    high_[j] = high_word(at);
    low_[j] = low_word(at);
  }

  __device__ void begin() {
    for_each_thread(problem_.cols + 1, [&](int j) {
      set_distance(j, infinity);
      changed_[j] = 0;
      columns_.pending[j] = 0;
    });
    for_each_thread(problem_.rows, [&](int row) { problem_.whole_at[row] = infinity; });
    if (threadIdx.x == 0) {
      block_.counts[0] = block_.counts[1] = block_.whole_count[0] = block_.whole_count[1] = 0;
      block_.open_class = false;
    }
    __syncthreads();
  }

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

  // Finds the distances of all columns up to a radius: that given, or so many times as far as to
  // the nearest end; from a queue only as far as lists tell beyond that. False where no end can be
  // reached.
  __device__ bool run(bool from_queue, double radius, double reach) {
    const double step = search_step * problem_.state->spread;
    double limit = step;
    end_ = whole_ = own_whole_ = infinity;
    radius_ = radius;
    for (int round = 1;; ++round) {
      const int now = 1 - round % 2;
      if (round > 1 || from_queue) {
        relax(now, [&](int, int col, double at) { reach_high(col, at, round); });
        __syncthreads();
        relax(now, [&](int, int col, double at) { reach_low(col, at, round); });
        __syncthreads();
        relax(now, [&](int row, int col, double at) { lead(row, col, at, round); });
        __syncthreads();
      }
      const double open = look(round);
      if (end_ * reach < radius_) radius_ = end_ * reach;
      const double nearest = open < whole_ ? open : whole_;
      if (!(nearest <= radius_ && nearest < infinity)) return end_ < infinity;
      if (from_queue && whole_ <= open && end_ <= whole_) {
        radius_ = whole_;
        return true;
      }
      if (nearest > limit) limit = nearest + step;
      go_on(1 - now, limit);
      __syncthreads();
    }
  }

  // Calls visit(row, column, distance of the column) for what the queues' rows can reach.
  template <typename Visit>
  __device__ void relax(int now, Visit visit) {
    for_each_team(columns_.queues[now], block_.counts[now], [&](int, int row) {
      if (row != none) relax_list(row, visit);
    });
    for_each_warp(problem_.stale, block_.whole_count[now], [&](int row) {
      const double base = problem_.base[row], best = lowest(row);
      for_each_col(problem_, row, [&](int col, double reduced, int) {
        const double at = base + above(reduced, best);
        if (at <= radius_) visit(row, col, at);
      });
    });
  }

  template <typename Visit>
  __device__ void relax_list(int row, Visit visit) {
    const Edges<T> edges(problem_, row);
    const double base = problem_.base[row], best = lowest(row);
    const double whole = base + above(problem_.lists.bound[row], best);
    const double outside = base + above(problem_.outside(), best);
#pragma unroll
    for (int k = 0; k < own_slots; ++k) {
      const double at = base + above(edges.reduced[k], best);
      if (at <= radius_) visit(row, edges.cols[k], at);
    }
    if (!leads_team()) return;
    if (outside <= radius_) visit(row, problem_.cols, outside);
    if (whole <= radius_) {
      problem_.whole_at[row] = whole;
      own_whole_ = whole < own_whole_ ? whole : own_whole_;
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

  // Three times over all edges: the first word of distances, then the second, then who led there.
  __device__ void reach_high(int col, double at, int round) {
    const unsigned word = high_word(at);
    if (word < relaxed_load(&high_[col]) && word < atomicMin(&high_[col], word)) {
      relaxed_store(&low_[col], ~0u);
      note_change(col, round);
    }
  }
  __device__ void reach_low(int col, double at, int round) {
    const unsigned word = low_word(at);
    if (high_[col] == high_word(at) && word < relaxed_load(&low_[col]) &&
        word < atomicMin(&low_[col], word))
      note_change(col, round);
  }
  __device__ void note_change(int col, int round) {
    relaxed_store(&changed_[col], round);
    relaxed_store(&leader_[col], no_leader);
  }
  __device__ void lead(int row, int col, double at, int round) {
    if (changed_[col] == round && high_[col] == high_word(at) && low_[col] == low_word(at))
      atomicMin(&leader_[col], row);
  }

  // Finds the nearest ends, and returns how far the nearest column to go on from is. Each thread
  // has columns of its own. All threads meet.
  __device__ double look(int round) {
    Nearest own;
    own.whole = own_whole_;
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (changed_[j] == round) columns_.pending[j] = 1;
      if (!columns_.pending[j]) return;
      const double at = distance(j);
      if (is_end(j)) {
        columns_.pending[j] = 0;
        own.end = at < own.end ? at : own.end;
      } else {
        own.open = at < own.open ? at : own.open;
      }
    });
    own_whole_ = infinity;
    if (threadIdx.x == 0) {
      const int now = 1 - round % 2;
      block_.counts[now] = block_.whole_count[now] = 0;
    }
    const Nearest nearest = meet(own);
    end_ = nearest.end < end_ ? nearest.end : end_;
    whole_ = nearest.whole < whole_ ? nearest.whole : whole_;
    return nearest.open;
  }

  // The nearest of what all threads found; all get it.
  __device__ Nearest meet(const Nearest& own) {
    const unsigned lane = threadIdx.x % warp_lanes;
    const Nearest of_warp = nearest_of_warp(own);
    if (lane == 0) block_.nearest[threadIdx.x / warp_lanes] = of_warp;
    __syncthreads();
    Nearest other;
    if (lane < blockDim.x / warp_lanes) other = block_.nearest[lane];
    return nearest_of_warp(other);
  }

  __device__ static Nearest nearest_of_warp(const Nearest& own) {
    Nearest found;
    found.end = warp_nearest(own.end);
    found.open = warp_nearest(own.open);
    found.whole = warp_nearest(own.whole);
    return found;
  }

  // Puts the rows of near columns in the next queue.
  __device__ void go_on(int next, double limit) {
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (!columns_.pending[j]) return;
      const double at = distance(j);
      if (at > limit || at > radius_) return;
      columns_.pending[j] = 0;
      if (j == problem_.cols) {
        block_.open_class = true;
        return;
      }
      const int row = columns_.holder[j];
      if (row != problem_.rows) go_on_from(row, at, next);  // dead rows are where it begins
    });
    if (whole_ <= limit) queue_whole_rows(next, limit);
    __syncthreads();
    if (!block_.open_class) return;
    const double at = distance(problem_.cols);
    for_each_thread(problem_.rows, [&](int row) {
      if (columns_.partner[row] == problem_.cols) go_on_from(row, at, next);
    });
    __syncthreads();
    if (threadIdx.x == 0) block_.open_class = false;
  }

  __device__ void go_on_from(int row, double at, int next) {
    problem_.base[row] = at;
    push(columns_.queues[next], block_.counts[next], row);
  }

  __device__ void queue_whole_rows(int next, double limit) {
    whole_ = infinity;
    for_each_thread(problem_.rows, [&](int row) {
      const double at = problem_.whole_at[row];
      if (at > limit) {
        own_whole_ = at < own_whole_ ? at : own_whole_;
        return;
      }
      problem_.whole_at[row] = infinity;
      push(problem_.stale, block_.whole_count[next], row);
    });
  }

  // Calls body(end) for the ends within the radius, each by a thread of its own.
  template <typename Body>
  __device__ void for_each_end(Body body) {
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (high_[j] < high_word(infinity) && distance(j) <= radius_ && is_end(j)) body(j);
    });
  }

  // Calls body(column, row that leads there, that row's own column) along the path to an end.
  template <typename Body>
  __device__ void walk(int col, Body body) {
    for (bool goes_on = true; goes_on;) {
      const int row = leader_[col], before = row == problem_.rows ? none : columns_.partner[row];
      goes_on = body(col, row, before) && before != none;
      col = before;
    }
  }

  // Moves rows along the paths to all ends, as far as they don't meet, and lowers the prices of all
  // columns nearer than the farthest of these.
  __device__ void augment() {
    int* claim = columns_.wanted;  // of each row: the first end whose path it is on
    for_each_thread(problem_.rows, [&](int row) { claim[row] = no_leader; });
    __syncthreads();
    for_each_end([&](int end) {
      walk(end, [&](int, int row, int) {
        if (row != problem_.rows) atomicMin(&claim[row], end);
        return true;
      });
    });
    __syncthreads();
    double farthest = 0;
    for_each_end([&](int end) {
      bool own = true;
      walk(end, [&](int, int row, int) { return own = row == problem_.rows || claim[row] == end; });
      columns_.pending[end] = own ? 2 : 0;
      if (own && distance(end) > farthest) farthest = distance(end);
    });
    const int free_dead = free_dead_cols();
    farthest = block_highest(farthest, block_.parts);
    for_each_thread(problem_.cols + 1, [&](int j) {
      const double at = distance(j);
      if (columns_.pending[j] == 2) move_along(j, free_dead);
      if (at < farthest) columns_.price[j] += at - farthest;
    });
    __syncthreads();
    for_each_thread(problem_.rows, [&](int row) {
      if (claim[row] != no_leader) problem_.find_pair_cost(row);
    });
    __syncthreads();
  }

  __device__ void move_along(int end, int free_dead) {
    // All dead columns that are left are as near to dead rows as one.
    if (end == problem_.cols && leader_[end] == problem_.rows) {
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

  __device__ double highest_price() {
    double highest = -infinity;
    for_each_thread(problem_.cols + 1, [&](int j) {
      if (is_column(j) && columns_.price[j] > highest) highest = columns_.price[j];
    });
    return block_highest(highest, block_.parts);
  }

  // Dead rows take what is free at the highest price.
  __device__ void take_all_at(double highest) {
    const int left = block_.dead_left;
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
  // Of each column: the words of its distance, the round in which that last changed, and the first
  // row that led there in that round. Bids aren't needed any more.
  unsigned *const high_, *const low_;
  int *const changed_, *const leader_;
  // The nearest end, the least distance at which a row must be read whole, and how far the search
  // goes; the same in all threads but for what a thread found itself since they met.
  double end_ = infinity, whole_ = infinity, radius_ = infinity, own_whole_ = infinity;
};

}  // namespace fastrebasin::cuda
