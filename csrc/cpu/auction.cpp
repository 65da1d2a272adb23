// D. P. Bertsekas, "The auction algorithm: a distributed relaxation method for the assignment
// problem", Annals of Operations Research 14, 105-123 (1988), doi:10.1007/BF02186476.
//
// We differ in stopping early: the auction's last rows are its slowest, and shortest paths are
// better at them. Bids are read off candidate lists.

#include "cpu/auction.hpp"

#include <algorithm>

namespace fastrebasin::cpu {
namespace {

// Tolerances in units of the typical spread of a row's candidates, chosen by measurement on
// correlation and weight-matching matrices of trained networks.
constexpr double tolerances[] = {0.3, 0.06, 0.012};

// A phase ends when all but this share of the rows is assigned.
constexpr std::int64_t leave_one_in = 64;

// Prices can only get worse after so many bids for each row: rows compete for too few columns.
constexpr std::int64_t bids_per_row = 6;

// The median over rows of how far a list reaches above its best candidate.
template <typename T>
double typical_spread(CandidateLists<T>& lists, const std::vector<std::int64_t>& rows) {
  std::vector<double> spreads;
  const std::size_t step = std::max<std::size_t>(1, rows.size() / 256);
  for (std::size_t k = 0; k < rows.size(); k += step) {
    const BestTwo choice = lists.choose(rows[k]);
    const double spread = lists.bound(rows[k]) - choice.best;
    if (spread < infinity) spreads.push_back(spread);
  }
  if (spreads.empty()) return 0.0;
  const auto middle = spreads.begin() + static_cast<std::ptrdiff_t>(spreads.size() / 2);
  std::nth_element(spreads.begin(), middle, spreads.end());
  return *middle;
}

template <typename T>
class Auction {
 public:
  Auction(Problem<T>& problem, CandidateLists<T>& lists) : problem_(problem), lists_(lists) {}

  void phase(const std::vector<std::int64_t>& rows, double tolerance) {
    std::vector<std::int64_t> queue;
    for (auto row = rows.rbegin(); row != rows.rend(); ++row)
      if (!stays(*row, tolerance)) queue.push_back(*row);
    const std::size_t enough = rows.size() / leave_one_in;
    auto budget = bids_per_row * static_cast<std::int64_t>(rows.size());
    while (queue.size() > enough && budget-- > 0 && !problem_.stopped()) {
      const std::int64_t i = queue.back();
      queue.pop_back();
      bid(i, tolerance, queue);
    }
  }

 private:
  // Whether row i keeps its column: it costs at most `tolerance` more than its best. Frees the
  // column otherwise.
  bool stays(std::int64_t i, double tolerance) {
    const std::int64_t j = problem_.col4row[i];
    if (j == none) return false;
    if (problem_.reduced_cost(i, j) <= lists_.choose(i).best + tolerance) return true;
    problem_.col4row[i] = none;
    problem_.row4col[j] = none;
    return false;
  }

  void bid(std::int64_t i, double tolerance, std::vector<std::int64_t>& queue) {
    const BestTwo choice = lists_.choose(i);
    if (choice.best_col == none) return;
    const double lead = choice.second < infinity ? choice.second - choice.best : 0.0;
    problem_.price[choice.best_col] -= lead + tolerance;
    const std::int64_t displaced = problem_.row4col[choice.best_col];
    problem_.assign(i, choice.best_col);
    if (displaced == none) return;
    problem_.col4row[displaced] = none;
    queue.push_back(displaced);
  }

  Problem<T>& problem_;
  CandidateLists<T>& lists_;
};

}  // namespace

template <typename T>
void auction_prices(Problem<T>& problem, CandidateLists<T>& lists,
                    const std::vector<std::int64_t>& rows) {
  const double spread = typical_spread(lists, rows);
  problem.clear_assignment();
  if (!(spread > 0)) return;  // ties everywhere: no price is better than another
  Auction<T> auction(problem, lists);
  for (const double tolerance : tolerances) auction.phase(rows, tolerance * spread);
  problem.clear_assignment();
}

template void auction_prices(Problem<float>&, CandidateLists<float>&,
                             const std::vector<std::int64_t>&);
template void auction_prices(Problem<double>&, CandidateLists<double>&,
                             const std::vector<std::int64_t>&);

}  // namespace fastrebasin::cpu
