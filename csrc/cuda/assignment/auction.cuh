#pragma once

// An auction in rounds: prices to start from, and most of the assignment.
//
// Bertsekas, "Auction algorithms for network flow problems", Computational Optimization and
// Applications 1, 7-66 (1992), doi:10.1007/BF00247653, in its Jacobi form with scaling: in a round
// all rows without a column bid at once. We differ in that rows look at lists of candidates, read
// anew where a list doesn't tell any more; that a phase ends while few rows are left; and that dead
// columns are no goods to bid for, but a way out at a price that a phase holds fixed. The last
// phase, without tolerance, is the row reduction of Jonker and Volgenant.

#include <cuda_runtime.h>

#include "cuda/assignment/block.cuh"
#include "cuda/relaxed.cuh"

namespace fastrebasin::cuda::assignment {

template <typename T, Memory memory>
class Auction {
 public:
  __device__ Auction(Block<T, memory>& block, const Working<memory>& columns)
      : block_(block), problem_(block.problem), columns_(columns) {}

  // Rows that have a column within `tolerance` of their best keep it; the others bid, for so many
  // rounds or until `few` are left. Without tolerance once more if too many rows want a dead
  // column: their price falls in between. Returns how many are left. All threads meet.
  __device__ int phase(double tolerance, int few, int rounds) {
    for (int turn = 1;; ++turn) {
      const int left = sell(tolerance, few, rounds);
      const bool enough = block_.refused <= problem_.rows / few_refused;
      __syncthreads();
      if (enough || turn == most_turns) return left;
    }
  }

 private:
  static constexpr int dropped = -2;
  static constexpr int most_turns = 3, few_refused = 64;
  static constexpr int enough_stale = 32;

  __device__ int sell(double tolerance, int few, int rounds) {
    begin(tolerance);
    bool open = true;
    int now = 0, active = block_.counts[0], waiting = 0, round = 0;
    for (; active + waiting > few && round < rounds; ++round) {
      const int next = now == 2 ? 0 : now + 1;
      int* queue = columns_.queues[round % 2];
      if (waiting > 0 && (active <= few || waiting >= enough_stale)) {
        take_stale(queue + active, waiting);
        active += waiting;
      }
      if (threadIdx.x == 0) {
        block_.counts[next == 2 ? 0 : next + 1] = 0;
        settle_out(1 - round % 2, open);
      }
      for_each_team(queue, active, [&](int k, int row) { bid(k, row, tolerance, round); });
      __syncthreads();
      for_each_thread(active, [&](int k) { compete(k, queue[k]); });
      __syncthreads();
      open = tolerance > 0 || block_.out + block_.wanting_out[round % 2] <= room();
      push_each(active, columns_.queues[1 - round % 2], block_.counts[next],
                [&](int k) { return resolve(k, queue[k], open); });
      waiting = block_.stale;
      __syncthreads();
      active = block_.counts[next];
      now = next;
    }
    if (threadIdx.x == 0) {
      settle_out(1 - round % 2, open);
      block_.stale = 0;
    }
    __syncthreads();
    return active + waiting;
  }

  // Lists rows whose lists don't tell their best column any more, and lets them bid again. They
  // wait until there are enough of them, as a warp takes long to read a row.
  __device__ void take_stale(int* queue, int waiting) {
    for_each_thread(waiting, [&](int k) { queue[k] = problem_.stale[k]; });
    list_stale(block_);
    __syncthreads();
  }

  __device__ int room() const { return problem_.state->room; }

  // Rows got all the dead columns that they bid for in one round, or none.
  __device__ void settle_out(int parity, bool open) {
    if (open) block_.out += block_.wanting_out[parity];
    block_.wanting_out[parity] = 0;
  }

  // Takes columns from rows that have better ones; these make up the first queue.
  __device__ void begin(double tolerance) {
    for_each_thread(problem_.cols, [&](int j) {
      columns_.high[j] = no_bid;
      columns_.leader[j] = no_winner;
    });
    if (threadIdx.x == 0) {
      for (int& count : block_.counts) count = 0;
      block_.out = block_.wanting_out[0] = block_.wanting_out[1] = block_.refused = 0;
    }
    find_pair_costs(problem_);
    const bool all = room() > 0;
    push_each(problem_.rows, columns_.queues[1], block_.counts[2], [&](int row) {
      return columns_.partner[row] != none || (all && !problem_.is_dead_row(row)) ? row : none;
    });
    __syncthreads();
    find_best<T, memory>(1, block_.counts[2]);
    price_dead_columns();
    const double outside = problem_.outside();
    push_each(problem_.rows, columns_.queues[0], block_.counts[0], [&](int row) {
      if (problem_.is_dead_row(row)) return none;
      const int col = columns_.partner[row];
      const double best = outside < problem_.best[row] ? outside : problem_.best[row];
      const double own =
          col == none ? infinity : double(problem_.pair_cost[row]) - columns_.price[col];
      // Without tolerance no more rows keep a dead column than there are: those that must.
      const bool must = tolerance > 0 || col != problem_.cols || own < problem_.best[row];
      if (own < infinity && own <= best + tolerance && must) {
        if (col == problem_.cols) atomicAdd(&block_.out, 1);
        return none;
      }
      if (col != none && col != problem_.cols) columns_.holder[col] = none;
      columns_.partner[row] = none;
      return row;
    });
    __syncthreads();
  }

  // Rows that would rather have a dead column than any other.
  __device__ int wanting_out_at(double price) {
    double wanting = 0;
    for_each_thread(problem_.rows, [&](int row) {
      wanting +=
          !problem_.is_dead_row(row) && problem_.state->dead_cost - price < problem_.best[row];
    });
    return int(block_sum(wanting, block_.parts));
  }

  // Lowers the price of dead columns until no more rows want one than there are: to what the first
  // row that gets none would pay. Halves the bits between the prices that are too high, and not.
  __device__ void price_dead_columns() {
    if (room() == 0 || wanting_out_at(columns_.price[problem_.cols]) <= room()) return;
    Bits low = 0, high = ordered(columns_.price[problem_.cols]);
    while (low + 1 < high) {
      const Bits middle = low + (high - low) / 2;
      const double price = number_of(middle);
      const bool enough = price != price || wanting_out_at(price) <= room();
      (enough ? low : high) = middle;
    }
    __syncthreads();
    if (threadIdx.x == 0) columns_.price[problem_.cols] = number_of(low);
    __syncthreads();
  }

  // The team's row, number `k` of the queue, bids for its best column.
  __device__ void bid(int k, int row, double tolerance, int round) {
    const double bound = row == none ? 0 : problem_.lists.bound[row];
    const double outside = problem_.outside();
    const Choice choice = choose(problem_, row);
    if (row == none || !leads_team()) return;
    const double best = outside < choice.best ? outside : choice.best;
    int col = dropped;
    if (best > bound) {
      push(problem_.stale, block_.stale, row);
    } else if (outside < choice.best) {
      atomicAdd(&block_.wanting_out[round % 2], 1);
      col = problem_.cols;
    } else if (best < infinity) {
      double second = choice.second < outside ? choice.second : outside;
      second = second < bound ? second : bound;
      const double lead = second < infinity ? second - best : 0;
      col = choice.col;
      const double price = columns_.price[col] - (lead + tolerance);
      columns_.low[k] = high_word(price);
      columns_.changed[k] = int(low_word(price));
      atomicMin(&columns_.high[col], rounded(price));
    }
    columns_.wanted[k] = col;
  }

  __device__ double bid_of(int k) const {
    return double_of(Bits{columns_.low[k]} << 32 | unsigned(columns_.changed[k]));
  }

  // Of rows that bid the lowest price, but for rounding, the first wins.
  __device__ void compete(int k, int row) {
    const int col = columns_.wanted[k];
    if (col >= 0 && col < problem_.cols && columns_.high[col] == rounded(bid_of(k)))
      atomicMin(&columns_.leader[col], row);
  }

  // The high word of a price, in an order that bits have.
  __device__ static unsigned rounded(double price) { return unsigned(ordered(price) >> 32); }

  // A row gets what it bid for, or bids again in the next round, or not any more in this phase.
  // Returns who bids: the row, or that which had the column, or none.
  __device__ int resolve(int k, int row, bool open) {
    const int col = columns_.wanted[k];
    if (col == dropped) return none;
    if (col == problem_.cols) {
      if (open) columns_.partner[row] = col;
      if (!open) atomicAdd(&block_.refused, 1);
      return none;
    }
    if (relaxed_load(&columns_.leader[col]) != row) return row;
    relaxed_store(&columns_.leader[col], no_winner);
    columns_.high[col] = no_bid;
    const int other = columns_.holder[col];
    const double price = bid_of(k);
    // A row that gains nothing would only change places with the other for ever.
    if (other != none && !(price < columns_.price[col])) return none;
    columns_.holder[col] = row;
    columns_.price[col] = price;
    columns_.partner[row] = col;
    if (other != none) columns_.partner[other] = none;
    return other;
  }

  Block<T, memory>& block_;
  Problem<T, memory>& problem_;
  const Working<memory>& columns_;
  // Of a column, where nobody bids.
  static constexpr unsigned no_bid = ~0u;
  static constexpr int no_winner = 0x7FFFFFFF;
};

// Not copied into its callers: what a block does in every round must stay in the instruction cache.
template <typename T, Memory memory>
[[gnu::noinline]] __device__ int run_phase(double tolerance, int few, int rounds) {
  Block<T, memory>& block = shared_memory<Block<T, memory>>();
  const Working<memory> columns = block.problem.columns;  // where they are, in registers
  return Auction<T, memory>(block, columns).phase(tolerance, few, rounds);
}

}  // namespace fastrebasin::cuda::assignment
