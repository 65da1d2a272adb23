#pragma once

#include <cstdint>
#include <vector>

#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// The cheapest few columns of every row, and a bound on all its others: what the sparse stages of
// the solver read instead of the matrix.
//
// Why the bound is rigorous: a list holds every column whose reduced cost was at most the bound
// when the list was built. Prices only fall, so reduced costs only rise: whatever isn't in the
// list stays above the bound for ever. The subtraction cost - price is the same here and in every
// later stage, and rounding is monotone, so this holds in floating point too. A row whose cheapest
// candidate rises above the bound is read again, at the prices of that moment.
template <typename T>
class CandidateLists {
 public:
  struct Candidate {
    T cost;
    std::int32_t col;
  };

  explicit CandidateLists(Problem<T>& problem);

  // Reads row i and makes its list anew; false when an entry is NaN or minus infinity.
  bool build(std::int64_t i);

  // The best edge of row i, a free column before others among equals. Reads the row again if its
  // list no longer tells. `second` may be an underestimate (the bound), never an overestimate.
  BestTwo choose(std::int64_t i);

  // Near candidates come first: no reduced cost from near_end on is below near_bound, and none
  // outside the list below bound.
  const Candidate* begin(std::int64_t i) const { return &candidates_[i * capacity]; }
  const Candidate* near_end(std::int64_t i) const { return begin(i) + rows_[i].near_count; }
  const Candidate* end(std::int64_t i) const { return begin(i) + rows_[i].count; }
  double near_bound(std::int64_t i) const { return rows_[i].near_bound; }
  double bound(std::int64_t i) const { return rows_[i].bound; }

  std::int64_t builds() const { return builds_; }

 private:
  static constexpr std::int64_t capacity = 64;

  struct Row {
    double bound = -infinity, near_bound = -infinity;
    std::int32_t count = 0, near_count = 0;
  };

  bool preferred(std::int64_t col, std::int64_t to) const;

  Problem<T>& problem_;
  std::vector<Candidate> candidates_;  // (rows, capacity)
  std::vector<Row> rows_;
  std::int64_t builds_ = 0;
};

}  // namespace fastrebasin::cpu
