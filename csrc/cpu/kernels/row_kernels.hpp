#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels/small_problem.hpp"

// Passes along one contiguous row of a cost matrix: the inner loops of the assignment solvers.
// One source is compiled for each instruction set, and the best is picked when the program runs.
//
// `sign` is +1 to minimise and -1 to maximise; "cost" below means sign * row[j]. Sizes are meant
// to be 8 and up; shorter rows work, at scalar speed. No kernel writes to `row`.

namespace fastrebasin::cpu {

struct RowRange {
  double lowest, highest;  // of the row's costs
  bool valid;              // false when a cost is NaN or minus infinity
};

// The cheapest and second cheapest columns of a row, by reduced cost (cost less price).
struct BestTwo {
  double best, second;    // +inf where there is no such column
  std::int64_t best_col;  // -1 where there is none
};

// The column at the smallest distance, the first of equals; +inf and none where all are at +inf.
struct Closest {
  double distance;
  std::int64_t col;
  bool tied;  // false only if no other column is as close
};

// Reduced costs of a row: the lowest, and those below which there are about so many columns (a
// little fewer in a row of few columns); +inf where there aren't as many.
template <typename T>
struct Depths {
  T lowest, seven, forty;
};

constexpr std::int64_t collect_width = 64;
constexpr std::int64_t list_capacity = 64;

// Eight entries of a list of columns. Costs are +inf, and columns zero, beyond its last one.
template <typename T>
struct ListBlock {
  static constexpr std::int64_t size = 8;
  T costs[size];
  std::int32_t columns[size];
};

template <typename T>
struct RowKernels {
  const char* name;

  // The range of the row's costs. Shape (cols); a single pass.
  RowRange (*range)(const T* row, T sign, std::int64_t cols);

  // The best two reduced costs; the first of equal columns wins.
  BestTwo (*best_two)(const T* row, T sign, const double* price, std::int64_t cols);

  // Whether no reduced cost is below `limit`, nor NaN.
  bool (*at_least)(const T* row, T sign, const double* price, std::int64_t cols, double limit);

  // distance[j] = min(distance[j], cost - price[j] + offset), with predecessor[j] = source where
  // the row is closer. Returns the closest column. A price of -inf keeps a column as it is.
  Closest (*relax)(const T* row, T sign, const double* price, std::int64_t cols, double offset,
                   std::int64_t source, double* distance, std::int64_t* predecessor);

  // The first j >= from with row[j] == wanted, or cols.
  std::int64_t (*find)(const T* row, std::int64_t cols, T wanted, std::int64_t from);

  // The next two look for candidates in the costs' own precision: twice as many lanes for float.
  // They read `ceiling`, the prices rounded up: a reduced cost is then never found greater than it
  // is.

  // Sets `depths`; returns false when a cost is NaN or minus infinity.
  bool (*measure)(const T* row, T sign, const T* ceiling, std::int64_t cols, Depths<T>* depths);

  // Writes columns whose reduced cost is at most `threshold` (finite), from column `start` (a
  // multiple of collect_width) onwards and around the end. Returns how many; stops at `capacity`,
  // or up to collect_width later, for which there must be room. Fetches the row `next` from memory
  // meanwhile, which this pass over a row in the cache leaves idle.
  std::int64_t (*collect)(const T* row, T sign, const T* ceiling, std::int64_t cols, T threshold,
                          std::int64_t start, std::int64_t capacity, const T* next,
                          std::int32_t* columns);

  // The best two of the first `count` columns of a list and the others of their block; best_col is
  // a position in the list.
  BestTwo (*best_two_listed)(const ListBlock<T>* blocks, std::int64_t count, const double* price);

  // Moves those of the first `count` entries of a list, at most list_capacity, to the front whose
  // reduced cost is at most `limit`, and returns how many. Both parts keep their order.
  std::int64_t (*partition)(ListBlock<T>* blocks, std::int64_t count, const double* price,
                            double limit);

  SolveSmall<T> solve_small;
};

// The kernels for this processor.
template <typename T>
const RowKernels<T>& row_kernels();

}  // namespace fastrebasin::cpu
