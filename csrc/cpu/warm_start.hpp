#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// Starts from the prices of `warm` and returns true, unless there is no warm start, the problem is
// not square (columns left over must have the highest price, which old prices don't promise), or
// the prices are so large beside the costs that differences would drown in rounding.
//
// Any other prices are right: a stage assigns only edges that are tight at the prices it finds.
template <typename T>
bool take_prices(Problem<T>& problem, const WarmStart& warm, bool maximize) {
  if (warm.col4row == nullptr || problem.rows() != problem.cols() || problem.rows() == 0)
    return false;
  double scale = 0.0;
  const std::int64_t step = std::max<std::int64_t>(1, problem.rows() / 8);
  for (std::int64_t i = 0; i < problem.rows(); i += step) {
    const double size = std::abs(problem.cost(i, i));
    if (size < infinity) scale = std::max(scale, size);
  }
  // A shift of all prices means nothing; the highest becomes zero, as in a cold start.
  const double sign = maximize ? -1.0 : 1.0;
  double highest = -infinity;
  for (std::int64_t j = 0; j < problem.cols(); ++j)
    highest = std::max(highest, sign * warm.col_duals[j]);
  for (std::int64_t j = 0; j < problem.cols(); ++j) {
    problem.set_price(j, sign * warm.col_duals[j] - highest);
    if (!(problem.price(j) >= -1024 * scale)) {  // false for NaN too
      for (std::int64_t k = 0; k < problem.cols(); ++k) problem.set_price(k, 0.0);
      return false;
    }
  }
  return true;
}

// Assigns those pairs of `warm` for which is_tight(i, j), and returns the other `rows`.
template <typename T, typename IsTight>
std::vector<std::int64_t> assign_tight_pairs(Problem<T>& problem, const WarmStart& warm,
                                             const std::vector<std::int64_t>& rows,
                                             IsTight is_tight) {
  std::vector<std::int64_t> left;
  for (const std::int64_t i : rows) {
    const std::int64_t j = warm.col4row[i];
    const bool possible = j >= 0 && j < problem.cols() && problem.row4col[j] == none;
    if (possible && is_tight(i, j)) {
      problem.assign(i, j);
    } else {
      left.push_back(i);
    }
  }
  return left;
}

}  // namespace fastrebasin::cpu
