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
      : block_(block), problem_(block.problem), columns_(block.problem.columns) {}

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
        columns_.changed[j] = 1;
        columns_.leader[j] = problem_.rows;
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

  __device__ double distance(int j) const {
    return double_of(Bits{columns_.high[j]} << 32 | columns_.low[j]);
  }
  __device__ void set_distance(int j, double at) {
    columns_.high[j] = high_word(at);
    columns_.low[j] = low_word(at);
  }

  __device__ void begin() {
    for_each_thread(problem_.cols + 1, [&](int j) {
      set_distance(j, infinity);
      columns_.changed[j] = 0;
    });
    for_each_word([&](Bits& word, int) { word = 0; });
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

  // Calls body(word, first column) for a thread's words of bits, of every so many columns from the
  // first.
  template <typename Body>
  __device__ void for_each_word(Body body) {
    const int cols = problem_.cols + 1, stride = blockDim.x;
    Bits* word = columns_.pending + threadIdx.x;
    for (int first = threadIdx.x; first < cols; first += bits_of_word * stride, word += stride)
      body(*word, first);
  }

  // Finds the distances of all columns up to a radius: that given, or so many times as far as to
  // the nearest end, or as far as lists tell beyond it. False where no end can be reached.
  __device__ bool run(bool from_queue, double radius, double reach) {
    const double step = search_step * problem_.state->spread;
    double limit = step;
    end_ = whole_ = own_whole_ = infinity;
    radius_ = radius;
    for (int round = 1;; ++round) {
      const int now = 1 - round % 2;
      if (round > 1 || from_queue) relax(now, round);
      const double open = look(round);
      if (end_ * reach < radius_) radius_ = end_ * reach;
      const double nearest = open < whole_ ? open : whole_;
      if (!(nearest <= radius_ && nearest < infinity)) return end_ < infinity;
      if (whole_ <= open && end_ <= whole_) {
        radius_ = whole_;
        return true;
      }
      if (nearest > limit) limit = nearest + step;
      go_on(1 - now, limit);
      __syncthreads();
    }
  }

  // Three times over all edges that leave the queues' rows: the first word of distances, then the
  // second, then who led there. All threads meet.
  __device__ void relax(int now, int round) {
    const int count = block_.counts[now], whole = block_.whole_count[now];
    const int teams = blockDim.x / team_lanes, team = threadIdx.x / team_lanes;
    const int* queue = columns_.queues[now];
    if (whole == 0 && count <= teams) {  // what a team read is still at hand
      const Reached reached(*this, team < count ? queue[team] : none);
      reached.visit([&](int, int col, double at) { reach_high(col, at, round); });
      __syncthreads();
      reached.visit([&](int, int col, double at) { reach_low(col, at, round); });
      __syncthreads();
      reached.visit([&](int row, int col, double at) { lead(row, col, at, round); });
    } else {
      visit_edges(now, [&](int, int col, double at) { reach_high(col, at, round); });
      __syncthreads();
      visit_edges(now, [&](int, int col, double at) { reach_low(col, at, round); });
      __syncthreads();
      visit_edges(now, [&](int row, int col, double at) { lead(row, col, at, round); });
    }
    __syncthreads();
  }

  // Calls visit(row, column, distance of the column) for what the queues' rows can reach.
  template <typename Visit>
  __device__ void visit_edges(int now, Visit visit) {
    for_each_team(columns_.queues[now], block_.counts[now],
                  [&](int, int row) { Reached(*this, row).visit(visit); });
    const int whole = block_.whole_count[now];
    if (whole == 0) return;
    for_each_part(problem_.stale, whole, [&](int row, Part part) {
      const double base = problem_.base[row], best = lowest(row);
      for_each_col(
          problem_, row,
          [&](int col, double reduced, int) {
            const double at = base + above(reduced, best);
            if (at <= radius_) visit(row, col, at);
          },
          part);
    });
  }

  // A lane's part of the columns that a list leads to, and how far they are.
  class Reached {
   public:
    __device__ Reached(Search& search, int row) : edges_(search.problem_, row), row_(row) {
      if (row == none) return;
      const double base = search.problem_.base[row], best = search.lowest(row);
      const double bound = search.problem_.lists.bound[row];
      radius_ = search.radius_;
#pragma unroll
      for (int k = 0; k < own_slots; ++k) edges_.reduced[k] = base + above(edges_.reduced[k], best);
      if (!leads_team()) return;
      dead_col_ = search.problem_.cols;
      outside_ = base + above(search.problem_.outside(), best);
      search.note_whole(row, base + above(bound, best));
    }

    template <typename Visit>
    __device__ void visit(Visit visit) const {
      if (row_ == none) return;
#pragma unroll
      for (int k = 0; k < own_slots; ++k)
        if (edges_.reduced[k] <= radius_) visit(row_, edges_.cols[k], edges_.reduced[k]);
      if (outside_ <= radius_ && outside_ < infinity) visit(row_, dead_col_, outside_);
    }

   private:
    Edges<T> edges_;
    int row_, dead_col_ = none;
    double outside_ = infinity, radius_ = infinity;
  };

  // Beyond this distance a row's list doesn't tell what it leads to.
  __device__ void note_whole(int row, double at) {
    if (!(at <= radius_)) return;
    problem_.whole_at[row] = at;
    own_whole_ = at < own_whole_ ? at : own_whole_;
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

  __device__ void reach_high(int col, double at, int round) {
    const unsigned word = high_word(at);
    if (word < relaxed_load(&columns_.high[col]) && word < atomicMin(&columns_.high[col], word)) {
      relaxed_store(&columns_.low[col], ~0u);
      note_change(col, round);
    }
  }
  __device__ void reach_low(int col, double at, int round) {
    const unsigned word = low_word(at);
    if (columns_.high[col] == high_word(at) && word < relaxed_load(&columns_.low[col]) &&
        word < atomicMin(&columns_.low[col], word))
      note_change(col, round);
  }
  __device__ void note_change(int col, int round) {
    relaxed_store(&columns_.changed[col], round);
    relaxed_store(&columns_.leader[col], no_leader);
  }
  __device__ void lead(int row, int col, double at, int round) {
    if (columns_.changed[col] == round && columns_.high[col] == high_word(at) &&
        columns_.low[col] == low_word(at))
      atomicMin(&columns_.leader[col], row);
  }

  // Finds the nearest ends, and returns how far the nearest column to go on from is. Each thread
  // has columns of its own. All threads meet.
  __device__ double look(int round) {
    Nearest own;
    own.whole = own_whole_;
    const int cols = problem_.cols + 1, stride = blockDim.x;
    for_each_word([&](Bits& word, int first) {
      Bits bits = word;
#pragma unroll 8
      for (int k = 0; k < bits_of_word; ++k) {
        const int j = first + k * stride;
        if (j >= cols) break;
        if (columns_.changed[j] == round) bits |= Bits{1} << k;
      }
      for (Bits rest = bits; rest; rest &= rest - 1) {
        const int k = __ffsll(rest) - 1, j = first + k * stride;
        const double at = distance(j);
        if (is_end(j)) {
          bits &= ~(Bits{1} << k);
          own.end = at < own.end ? at : own.end;
        } else {
          own.open = at < own.open ? at : own.open;
        }
      }
      word = bits;
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
    const int stride = blockDim.x;
    for_each_word([&](Bits& word, int first) {
      for (Bits rest = word; rest; rest &= rest - 1) {
        const int k = __ffsll(rest) - 1, j = first + k * stride;
        const double at = distance(j);
        if (at > limit || at > radius_) continue;
        word &= ~(Bits{1} << k);
        if (j == problem_.cols) {
          block_.open_class = true;
          continue;
        }
        const int row = columns_.holder[j];
        if (row != problem_.rows) go_on_from(row, at, next);  // dead rows are where it begins
      }
    });
    if (whole_ <= limit) queue_whole_rows(next, limit);
    if (dead_cols() == 0) return;
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

  // Calls is_left(end) for the ends within the radius, those whose bits are set, each by a thread
  // of its own; their bits become what it says.
  template <typename IsLeft>
  __device__ void for_each_end(IsLeft is_left) {
    const int stride = blockDim.x;
    for_each_word([&](Bits& word, int first) {
      for (Bits rest = word; rest; rest &= rest - 1) {
        const int k = __ffsll(rest) - 1;
        if (!is_left(first + k * stride)) word &= ~(Bits{1} << k);
      }
    });
  }

  __device__ void set_ends() {
    const int cols = problem_.cols + 1, stride = blockDim.x;
    for_each_word([&](Bits& word, int first) {
      word = 0;
      for (int k = 0; k < bits_of_word && first + k * stride < cols; ++k) {
        const int j = first + k * stride;
        if (columns_.high[j] < high_word(infinity) && distance(j) <= radius_ && is_end(j))
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

  // Moves rows along the paths to all ends, as far as they don't meet, and lowers the prices of all
  // columns nearer than the farthest of these.
  __device__ void augment() {
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
      if (own && distance(end) > farthest) farthest = distance(end);
      return own;
    });
    const int free_dead = free_dead_cols();
    farthest = block_highest(farthest, block_.parts);
    for_each_end([&](int end) {
      move_along(end, free_dead);
      return true;
    });
    for_each_thread(problem_.cols + 1, [&](int j) {
      const double at = distance(j);
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
  // The nearest end, the least distance at which a row must be read whole, and how far the search
  // goes; the same in all threads but for what a thread found itself since they met.
  double end_ = infinity, whole_ = infinity, radius_ = infinity, own_whole_ = infinity;
};

}  // namespace fastrebasin::cuda
