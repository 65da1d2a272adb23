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

namespace fastrebasin::cuda {

constexpr int row_bits = 16;
constexpr int most_rounds = 0xFFFE;

template <typename T>
class Auction {
 public:
  __device__ explicit Auction(Block<T>& block)
      : block_(block), problem_(block.problem), columns_(block.problem.columns) {}

  // Rows that have a column within `tolerance` of their best keep it; the others bid, for so many
  // rounds or until `few` are left. Returns how many are left. All threads meet.
  __device__ int phase(double tolerance, int few, int rounds) {
    begin(tolerance);
    bool open = true;
    int now = 0, active = block_.counts[0], round = 0;
    for (; active > few && round < rounds; ++round) {
      const int next = now == 2 ? 0 : now + 1;
      if (threadIdx.x == 0) {
        block_.counts[next == 2 ? 0 : next + 1] = 0;
        settle_out(1 - round % 2, open);
      }
      const int* queue = columns_.queues[round % 2];
      for_each_team(queue, active, [&](int k, int row) { bid(k, row, tolerance, round); });
      __syncthreads();
      if (block_.stale > 0) list_stale(block_);
      open = tolerance > 0 || block_.out + block_.wanting_out[round % 2] <= dead_cols();
      for_each_thread(active, [&](int k) {
        resolve(k, queue[k], open, columns_.queues[1 - round % 2], block_.counts[next]);
      });
      __syncthreads();
      active = block_.counts[next];
      now = next;
    }
    if (threadIdx.x == 0) settle_out(1 - round % 2, open);
    __syncthreads();
    return active;
  }

 private:
  static constexpr int dropped = -2;

  __device__ int dead_cols() const { return problem_.state->dead_cols; }

  // Rows got all the dead columns that they bid for in one round, or none.
  __device__ void settle_out(int parity, bool open) {
    if (open) block_.out += block_.wanting_out[parity];
    block_.wanting_out[parity] = 0;
  }

  // Takes columns from rows that have better ones; these make up the first queue.
  __device__ void begin(double tolerance) {
    for_each_thread(problem_.cols, [&](int j) { columns_.mark[j] = ~Bits{0}; });
    if (threadIdx.x == 0) {
      for (int& count : block_.counts) count = 0;
      block_.out = block_.wanting_out[0] = block_.wanting_out[1] = 0;
    }
    find_pair_costs(problem_);
    find_best(block_, problem_.rows,
              [&](int row) { return problem_.is_dead_row(row) ? none : row; });
    price_dead_columns();
    const double outside = problem_.outside();
    for_each_thread(problem_.rows, [&](int row) {
      if (problem_.is_dead_row(row)) return;
      const int col = columns_.partner[row];
      const double best = outside < problem_.best[row] ? outside : problem_.best[row];
      const double own =
          col == none ? infinity : double(problem_.pair_cost[row]) - columns_.price[col];
      // Without tolerance no more rows keep a dead column than there are: those that must.
      const bool must = tolerance > 0 || col != problem_.cols || own < problem_.best[row];
      if (own < infinity && own <= best + tolerance && must) {
        if (col == problem_.cols) atomicAdd(&block_.out, 1);
        return;
      }
      if (col != none && col != problem_.cols) columns_.holder[col] = none;
      columns_.partner[row] = none;
      push(columns_.queues[0], block_.counts[0], row);
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
    if (dead_cols() == 0 || wanting_out_at(columns_.price[problem_.cols]) <= dead_cols()) return;
    Bits low = 0, high = ordered(columns_.price[problem_.cols]);
    while (low + 1 < high) {
      const Bits middle = low + (high - low) / 2;
      const double price = number_of(middle);
      const bool enough = price != price || wanting_out_at(price) <= dead_cols();
      (enough ? low : high) = middle;
    }
    __syncthreads();
    if (threadIdx.x == 0) columns_.price[problem_.cols] = number_of(low);
    __syncthreads();
  }

  // A bid that counts in this round only: of two the lower, then that of the lower row.
  __device__ static Bits mark_of(int round, double price, int row) {
    return Bits(most_rounds - round) << 48 | ordered(price) >> 32 << row_bits | Bits(row);
  }

  // The team's row, number `k` of the queue, bids for its best column.
  __device__ void bid(int k, int row, double tolerance, int round) {
    const Choice choice = choose(problem_, row);
    if (row == none || !leads_team()) return;
    const double outside = problem_.outside(), bound = problem_.lists.bound[row];
    const double best = outside < choice.best ? outside : choice.best;
    int col = none;
    if (best > bound) {
      push(problem_.stale, block_.stale, row);
    } else if (!(best < infinity)) {
      problem_.state->infeasible = 1;
      col = dropped;
    } else if (outside < choice.best) {
      atomicAdd(&block_.wanting_out[round % 2], 1);
      col = problem_.cols;
    } else {
      double second = choice.second < outside ? choice.second : outside;
      second = second < bound ? second : bound;
      const double lead = second < infinity ? second - best : 0;
      col = problem_.lists.cols[std::int64_t{row} * list_capacity + choice.slot];
      const double price = columns_.price[col] - (lead + tolerance);
      columns_.distance[k] = bits_of(price);
      atomicMin(&columns_.mark[col], mark_of(round, price, row));
    }
    columns_.wanted[k] = col;
  }

  // A row gets what it bid for, or bids again in the next round, or not any more in this phase.
  __device__ void resolve(int k, int row, bool open, int* next, int& count) {
    const int col = columns_.wanted[k];
    if (col == dropped || (col == problem_.cols && !open)) return;
    if (col == problem_.cols) {
      columns_.partner[row] = col;
    } else if (col == none || int(columns_.mark[col] & ((1u << row_bits) - 1)) != row) {
      push(next, count, row);
    } else {
      const int other = columns_.holder[col];
      const double price = double_of(columns_.distance[k]);
      // A row that gains nothing would only change places with the other for ever.
      if (other != none && !(price < columns_.price[col])) return;
      columns_.holder[col] = row;
      columns_.price[col] = price;
      columns_.partner[row] = col;
      if (other == none) return;
      columns_.partner[other] = none;
      push(next, count, other);
    }
  }

  Block<T>& block_;
  Problem<T>& problem_;
  Working& columns_;
};

}  // namespace fastrebasin::cuda
