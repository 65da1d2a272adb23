#pragma once

// An assignment problem on the device: its costs, to be minimised, and what is known so far.
//
// Legend: price[j] = dual of column j; reduced cost of (i, j) = cost(i, j) - price[j]. The stages
// keep what those of csrc/cpu do: assigned edges are tight, and prices never rise.
//
// Dead rows are constant. They care for prices alone, so any of them may have any of the columns
// that are left when all others have theirs, if those are priced highest; columns left over in a
// rectangular problem are as if dead rows had them, too. Dead columns are equal on all other rows;
// they are one column with room for several rows: index `cols`. Index `rows` stands for all dead
// rows. Both are set aside in pairs: until all other rows have their columns, these have room only
// in dead columns beyond the number of dead rows.

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "cuda/assignment/memory.cuh"
#include "cuda/assignment/numbers.cuh"

namespace fastrebasin::cuda::assignment {

constexpr int list_capacity = 64;

// What all blocks must know of a problem.
struct State {
  int invalid, infeasible;  // flags
  int first_live_row, live_rows;
  int first_dead_col, dead_cols;
  int room;          // dead columns that rows may have which aren't dead
  double dead_cost;  // of a dead column to every row that isn't dead
  int warm;          // whether there are prices to start from
  int settled;       // whether the auction's first phase did its work
  double spread;     // how far the candidates of a list are usually apart
};

// Takes pieces off a workspace, or finds out how much they take.
class Room {
 public:
  __host__ __device__ explicit Room(char* begin) : begin_(begin) {}

  template <typename T>
  __host__ __device__ T* take(std::int64_t count) {
    T* piece = reinterpret_cast<T*>(begin_ + taken_);
    taken_ += (count * sizeof(T) + alignment - 1) / alignment * alignment;
    return piece;
  }
  // Moves an array of no content here, if there is room for it in so many bytes.
  template <typename T, Memory memory>
  __device__ void move(Array<T, memory>& piece, std::int64_t count, std::size_t bytes) {
    if (taken_ + count * sizeof(T) <= bytes) piece = take<T>(count);
  }
  __host__ __device__ std::size_t taken() const { return taken_; }

  static constexpr std::size_t alignment = 128;

 private:
  char* begin_;
  std::size_t taken_ = 0;
};

constexpr int most_threads = 512;  // of the block that solves a problem
constexpr int bits_of_word = 64;

// What the solving block has in its shared memory as far as there is room, first things first.
template <Memory memory>
struct Working {
  // Of each column, and of all dead ones as one.
  Array<double, memory> price;
  // The words of its distance in a search, the round in which that last changed, and the first row
  // that led there in that round. In an auction the lowest bid and who wins, and, of each row in
  // the queue, the words of its bid.
  Array<unsigned, memory> high, low;
  Array<int, memory> changed, leader;
  Array<int, memory> holder;    // the row that has it, or none
  Array<Bits, memory> pending;  // a word of each thread for its columns, 64 at a time
  // Of each row.
  Array<int, memory> partner;    // its column, or none
  Array<int, memory> wanted;     // the columns that a queue's rows bid for
  Array<int, memory> queues[2];  // of rows

  Working() = default;
  __host__ __device__ Working(Room& room, int rows, int cols)
      : price(room.take<double>(cols + 1)),
        high(room.take<unsigned>(cols + 1)),
        low(room.take<unsigned>(cols + 1)),
        changed(room.take<int>(cols + 1)),
        leader(room.take<int>(cols + 1)),
        holder(room.take<int>(cols + 1)),
        pending(room.take<Bits>(pending_words(cols))),
        partner(room.take<int>(rows)),
        wanted(room.take<int>(rows)),
        queues{room.take<int>(rows), room.take<int>(rows)} {}

  __host__ __device__ static std::int64_t pending_words(int cols) {
    return cols / bits_of_word + most_threads + 1;
  }

  // Moves those arrays to another memory for which it has room. What they hold stays behind.
  __device__ void move(Room& room, std::size_t bytes, int rows, int cols) {
    room.move(price, cols + 1, bytes);
    room.move(high, cols + 1, bytes);
    room.move(pending, pending_words(cols), bytes);
    room.move(changed, cols + 1, bytes);
    room.move(leader, cols + 1, bytes);
    room.move(low, cols + 1, bytes);
    room.move(queues[0], rows, bytes);
    room.move(queues[1], rows, bytes);
    room.move(holder, cols + 1, bytes);
    room.move(wanted, rows, bytes);
    room.move(partner, rows, bytes);
  }
};

// The cheapest few columns of a row and what they cost, infinite where there are none; every other
// has at least the bound for its reduced cost, for ever, as prices only fall.
template <typename T>
struct Lists {
  Array<int, Memory::global> cols;
  Array<T, Memory::global> costs;
  Array<double, Memory::global> bound;

  Lists() = default;
  __host__ __device__ Lists(Room& room, int rows)
      : cols(room.take<int>(std::int64_t{rows} * list_capacity)),
        costs(room.take<T>(std::int64_t{rows} * list_capacity)),
        bound(room.take<double>(rows)) {}
};

// `memory` is where the working arrays and the state are.
template <typename T, Memory memory>
struct Problem {
  Array<const T, Memory::global> costs;
  std::int64_t row_stride;
  int rows, cols;
  T sign;
  bool aligned;  // whether rows can be read in packs
  Array<State, memory> state;
  Array<unsigned char, Memory::global> dead_row, dead_col;
  Working<memory> columns;
  Lists<T> lists;
  // Of each row, for a stage or longer.
  Array<double, Memory::global> base;      // how far it is from where a search begins
  Array<T, Memory::global> pair_cost;      // of the column that it has
  Array<double, Memory::global> best;      // its lowest reduced cost
  Array<double, Memory::global> whole_at;  // at which distance a search reads it whole
  Array<double, Memory::global> slack;     // of its pair, at the end
  Array<int, Memory::global> stale;        // rows to be listed anew, or read whole
  Array<int, Memory::global> listed_in;    // the search that listed it last

  Problem() = default;
  __host__ __device__ Problem(Room& room, int rows, int cols)
      : rows(rows),
        cols(cols),
        state(room.take<State>(1)),
        dead_row(room.take<unsigned char>(rows)),
        dead_col(room.take<unsigned char>(cols)),
        columns(room, rows, cols),
        lists(room, rows),
        base(room.take<double>(rows)),
        pair_cost(room.take<T>(rows)),
        best(room.take<double>(rows)),
        whole_at(room.take<double>(rows)),
        slack(room.take<double>(rows)),
        stale(room.take<int>(rows)),
        listed_in(room.take<int>(rows)) {}

  __device__ T cost(int i, int j) const { return sign * costs[i * row_stride + j]; }
  __device__ void find_pair_cost(int i) {
    const int j = columns.partner[i];
    if (j != none) pair_cost[i] = j == cols ? T(state->dead_cost) : cost(i, j);
  }
  __device__ bool is_dead_row(int i) const { return dead_row[i] != 0; }
  // Dead rows, and those that a rectangular problem lacks.
  __device__ int dead_rows() const { return cols - state->live_rows; }
  // Columns that dead rows will have besides dead ones.
  __device__ int left_over() const { return dead_rows() - state->dead_cols; }
  // What any dead column costs a row, less its price; infinite if there's no room.
  __device__ double outside() const {
    return state->room ? state->dead_cost - columns.price[cols] : infinity;
  }
};

}  // namespace fastrebasin::cuda::assignment
