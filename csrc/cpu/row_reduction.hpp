#pragma once

#include <cstdint>
#include <vector>

#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// Jonker and Volgenant's augmenting row reduction: each row takes its cheapest column and lowers
// that column's price until the second cheapest is as good; the row that held the column is next.
// Returns the rows left unassigned.
//
// `choose(i)` gives row i's BestTwo; it may underestimate `second`, and makes it equal to `best`
// where the lead is too small to bid: rows that outbid each other by next to nothing would spend
// the budget of `choices_per_row`.
template <typename T, typename Choose>
std::vector<std::int64_t> reduce_rows(Problem<T>& problem,
                                      const std::vector<std::int64_t>& unassigned,
                                      std::int64_t choices_per_row, Choose choose) {
  std::vector<std::int64_t> queue(unassigned.rbegin(), unassigned.rend()), left;
  std::int64_t budget = choices_per_row * static_cast<std::int64_t>(queue.size());
  while (!queue.empty()) {
    const std::int64_t i = queue.back();
    queue.pop_back();
    if (budget-- <= 0) {
      left.push_back(i);
      continue;
    }
    const BestTwo choice = choose(i);
    if (choice.best_col == none) {
      left.push_back(i);
      continue;
    }
    // With a single allowed edge there is no lead to bid: the price would go to minus infinity.
    const double lead = choice.second - choice.best;
    const bool bids = lead > 0 && lead < infinity;
    if (bids) problem.lower_price(choice.best_col, lead);
    const std::int64_t displaced = problem.row4col[choice.best_col];
    problem.assign(i, choice.best_col);
    if (displaced == none) continue;
    problem.col4row[displaced] = none;
    // Going on with a row displaced without a bid could go on for ever.
    (bids ? queue : left).push_back(displaced);
  }
  return left;
}

}  // namespace fastrebasin::cpu
