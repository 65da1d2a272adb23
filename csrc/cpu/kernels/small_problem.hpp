#pragma once

#include <cstdint>

// Whole assignment problems of so few columns that a few words have a bit for each: keeping lists
// of candidates, as larger problems do, would take longer than reading whole rows.

namespace fastrebasin::cpu {

constexpr std::int64_t largest_small = 320;

// Entries from row to row of a copy in which rows are whole vectors.
constexpr std::int64_t small_stride(std::int64_t cols) { return (cols + 7) / 8 * 8; }

enum class SmallOutcome : char { optimal, infeasible, invalid_entry };

// What `solve_small` reads and writes; "cost" means sign * entry.
template <typename T>
struct SmallProblem {
  const T* entries;  // rows <= cols <= largest_small; contiguous rows, `stride` apart
  std::int64_t rows, cols, stride;
  T sign;
  T* workspace;              // (rows, small_stride(cols)) on a cache line
  const std::int64_t* warm;  // a column for each row, to keep where it is a best one; or null
  double* price;             // (cols) to start from; all equal where rows < cols
  std::int64_t* col4row;     // (rows) -1 to start from
  std::int64_t* row4col;     // (cols) likewise
};

template <typename T>
using SolveSmall = SmallOutcome (*)(const SmallProblem<T>& problem);

}  // namespace fastrebasin::cpu
