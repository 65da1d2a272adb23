#pragma once

#include <cstddef>
#include <cstdint>

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

// Columns at or below a threshold; see RowKernels::collect.
struct Collected {
  std::int64_t count;      // how many were written
  double smallest_missed;  // smallest reduced cost at or below the threshold for which there was
                           // no room; +inf when there was room for all
};

constexpr std::int64_t row_groups = 32;

template <typename T>
struct RowKernels {
  const char* name;

  // The range of the row's costs. Shape (cols); a single pass.
  RowRange (*range)(const T* row, T sign, std::int64_t cols);

  // The best two reduced costs; the first of equal columns wins.
  BestTwo (*best_two)(const T* row, T sign, const double* price, std::int64_t cols);

  // distance[j] = min(distance[j], cost - price[j] + offset), with predecessor[j] = source where
  // the row is closer. Returns the smallest distance. A price of -inf keeps a column as it is.
  double (*relax)(const T* row, T sign, const double* price, std::int64_t cols, double offset,
                  std::int64_t source, double* distance, std::int64_t* predecessor);

  // The smallest reduced cost of each of `row_groups` groups of columns, j modulo row_groups, in
  // ascending order. Returns false when a cost is NaN or minus infinity.
  bool (*group_minima)(const T* row, T sign, const double* price, std::int64_t cols,
                       double* minima);

  // Writes columns whose reduced cost is at most `threshold`, and finite, with their reduced
  // costs: at most `capacity` of them, from column `start` (a multiple of row_groups) onwards and
  // around the end.
  Collected (*collect)(const T* row, T sign, const double* price, std::int64_t cols,
                       double threshold, std::int64_t start, std::int64_t capacity,
                       std::int32_t* columns, double* reduced);

  // The first j >= from with values[j] == wanted, or cols.
  std::int64_t (*find)(const double* values, std::int64_t cols, double wanted, std::int64_t from);
};

// The kernels for this processor.
template <typename T>
const RowKernels<T>& row_kernels();

}  // namespace fastrebasin::cpu
