#pragma once

// How far columns are from rows without one: shortest paths, found in rounds.
//
// Meyer and Sanders, "Delta-stepping", J. Algorithms 49, 114-152 (2003),
// doi:10.1016/S0196-6774(03)00076-2, where a round goes on from all columns that are about as near
// as the nearest. Our graph isn't there in memory: edges are candidates of lists, and of whole rows
// where a list doesn't tell.
//
// What is found doesn't depend on the order in which threads run: distances are least fixed points,
// and the leader of a column is the first row that gave it its distance in the round of its last
// change, which rules out cycles of length zero. Distances are kept as two words each, as only
// single words have fast atomic operations.

#include <cuda_runtime.h>

#include <limits>

#include "cuda/assignment/block.cuh"
#include "cuda/relaxed.cuh"

namespace fastrebasin::cuda::assignment {

// A round goes on from all columns within so much of the nearest, in units of the usual spread of a
// row's candidates: more of them at a time, some of them too early.
constexpr double search_step = 0.05;
// As far as a search may go: what can't be reached is farther, at infinity.
constexpr double unlimited = std::numeric_limits<double>::max();

template <typename T, Memory memory>
class Distances {
 public:
  static constexpr int no_leader = 0x7FFFFFFF;

  __device__ Distances(Block<T, memory>& block, const Working<memory>& columns)
      : block_(block), problem_(block.problem), columns_(columns) {}

  __device__ int room() const { return problem_.state->room; }
  __device__ bool is_column(int j) const {
    return j < problem_.cols ? columns_.price[j] > -infinity : room() > 0;
  }
  __device__ int free_dead_cols() const { return room() - block_.out - block_.dead_out; }
  __device__ bool is_end(int j) const {
    return j < problem_.cols ? columns_.holder[j] == none && is_column(j) : free_dead_cols() > 0;
  }

  __device__ double at(int j) const {
    return double_of(Bits{columns_.high[j]} << 32 | columns_.low[j]);
  }
  __device__ void set(int j, double at) {
    columns_.high[j] = high_word(at);
    columns_.low[j] = low_word(at);
  }

  __device__ void begin() {
    for_each_thread(problem_.cols + 1, [&](int j) {
      set(j, infinity);
      columns_.changed[j] = 0;
    });
    for_each_word([&](Bits& word, int) { word = 0; });
    for_each_thread(problem_.rows, [&](int row) { problem_.whole_at[row] = infinity; });
    if (threadIdx.x == 0) {
      for (const int parity : {0, 1})
        block_.counts[parity] = block_.listed_count[parity] = block_.whole_count[parity] = 0;
      block_.open_class = false;
      ++block_.search;
    }
    __syncthreads();
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

  // Finds the distances of all columns up to a radius, which the block keeps: that given, or so
  // many times as far as to the nearest end, or as far as lists tell beyond it. False where no end
  // can be reached.
  __device__ bool find(bool from_queue, double radius, double reach) {
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
      const bool goes_on = nearest <= radius_, known = whole_ <= open && end_ <= whole_;
      if (goes_on && known) radius_ = whole_;
      if (!goes_on || known) break;
      if (nearest > limit) limit = nearest + step;
      go_on(1 - now, limit);
      __syncthreads();
    }
    if (threadIdx.x == 0) block_.radius = radius_;
    __syncthreads();
    return end_ < infinity;
  }

 private:
  // Three times over all edges that leave the queues' rows: the first word of distances, then the
  // second, then who led there. All threads meet.
  __device__ void relax(int now, int round) {
    const int count = block_.counts[now], listed = block_.listed_count[now];
    const int whole = block_.whole_count[now];
    const int* queue = columns_.queues[now];
    // What a team reads stays with it.
    const bool at_hand = count + listed <= int(blockDim.x) / team_lanes;
    Reached reached;
#pragma unroll 1
    for (int pass = 0; pass < 3; ++pass) {
      const auto reach = [&](int row, int col, double at) {
        if (pass == 0) reach_high(col, at, round);
        if (pass == 1) reach_low(col, at, round);
        if (pass == 2) lead(row, col, at, round);
      };
      for_each_team_of(
          count + listed, [&](int k) { return k < count ? queue[k] : problem_.stale[k - count]; },
          [&](int, int row) {
            if (pass == 0 || !at_hand) reached = Reached(*this, row);
            reached.visit(reach);
          });
      if (whole > 0) visit_whole(whole, reach);
      __syncthreads();
    }
  }

  // Calls visit(row, column, distance of the column) for what the rows read whole can reach.
  template <typename Visit>
  __device__ void visit_whole(int count, Visit visit) {
    for_each_part(problem_.stale + (problem_.rows - count), count, [&](int row, Part part) {
      const double base = problem_.base[row], best = lowest(row);
      for_each_col(
          problem_, row,
          [&](int col, double reduced, int) {
            const double at = base + above(reduced, best);  // infinite beyond the last column
            if (at <= radius_) visit(row, col, at);
          },
          part);
    });
  }

  // A lane's part of the columns that a list leads to, and how far they are.
  class Reached {
   public:
    Reached() = default;
    __device__ Reached(Distances& distances, int row) : edges_(distances.problem_, row), row_(row) {
      if (row == none) return;
      const double base = distances.problem_.base[row], best = distances.lowest(row);
      const double bound = distances.problem_.lists.bound[row];
      radius_ = distances.radius_;
#pragma unroll
      for (int k = 0; k < own_slots; ++k) edges_.reduced[k] = base + above(edges_.reduced[k], best);
      if (!leads_team()) return;
      dead_col_ = distances.problem_.cols;
      outside_ = base + above(distances.problem_.outside(), best);
      distances.note_whole(row, base + above(bound, best));
    }

    template <typename Visit>
    __device__ void visit(Visit visit) const {
      if (row_ == none) return;
#pragma unroll
      for (int k = 0; k < own_slots; ++k)
        if (edges_.reduced[k] <= radius_) visit(row_, edges_.cols[k], edges_.reduced[k]);
      if (outside_ <= radius_) visit(row_, dead_col_, outside_);
    }

   private:
    Edges<T> edges_;
    int row_ = none, dead_col_ = none;
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
        const double at = this->at(j);
        const bool end = is_end(j);
        if (end && at < own.end) own.end = at;
        // Dead columns have rows to go on from even while some of them are free.
        if (end && j < problem_.cols) {
          bits &= ~(Bits{1} << k);
        } else if (at < own.open) {
          own.open = at;
        }
      }
      word = bits;
    });
    own_whole_ = infinity;
    if (threadIdx.x == 0) {
      const int now = 1 - round % 2;
      block_.counts[now] = block_.listed_count[now] = block_.whole_count[now] = 0;
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
        const double at = this->at(j);
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
    if (room() == 0) return;
    __syncthreads();
    if (!block_.open_class) return;
    const double at = this->at(problem_.cols);
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

  // Rows whose lists don't tell as far as the search has come are listed anew, once in a search.
  // Those of which a new list doesn't tell, either, will be read whole.
  __device__ void queue_whole_rows(int next, double limit) {
    whole_ = infinity;
    for_each_thread(problem_.rows, [&](int row) {
      const double at = problem_.whole_at[row];
      if (at > limit) {
        own_whole_ = at < own_whole_ ? at : own_whole_;
        return;
      }
      problem_.whole_at[row] = infinity;
      if (problem_.listed_in[row] == block_.search) {
        problem_.stale[problem_.rows - 1 - atomicAdd(&block_.whole_count[next], 1)] = row;
      } else {
        problem_.listed_in[row] = block_.search;
        push(problem_.stale, block_.listed_count[next], row);
      }
    });
    __syncthreads();
    for_each_warp(problem_.stale, block_.listed_count[next],
                  [&](int row) { list_row(problem_, row); });
  }

  Block<T, memory>& block_;
  Problem<T, memory>& problem_;
  const Working<memory>& columns_;
  // The nearest end, the least distance at which a row must be read whole, and how far the search
  // goes; the same in all threads but for what a thread found itself since they met.
  double end_ = infinity, whole_ = infinity, radius_ = unlimited, own_whole_ = infinity;
};

// Not copied into its callers, as `run_phase`.
template <typename T, Memory memory>
[[gnu::noinline]] __device__ bool find_distances(bool from_queue, double radius, double reach) {
  Block<T, memory>& block = shared_memory<Block<T, memory>>();
  const Working<memory> columns = block.problem.columns;  // where they are, in registers
  Distances<T, memory> distances(block, columns);
  return distances.find(from_queue, radius, reach);
}

}  // namespace fastrebasin::cuda::assignment
