// D. P. Bertsekas, "The auction algorithm: a distributed relaxation method for the assignment
// problem", Annals of Operations Research 14, 105-123 (1988), doi:10.1007/BF02186476.
//
// We differ in stopping early: the auction's last rows are its slowest, and shortest paths are
// better at them. Bids are read off candidate lists.

#include "cpu/auction.hpp"

#include <algorithm>
#include <iterator>
#include <utility>

namespace fastrebasin::cpu {
namespace {

// Tolerances in units of the typical spread of a row's candidates, chosen by measurement on
// correlation and weight-matching matrices of trained networks. These seldom need the first: only
// where many rows compete for few columns do prices have far to fall.
constexpr double tolerances[] = {0.3, 0.06, 0.012, 0.0024};

// A phase ends when all but this share of the rows is assigned.
constexpr std::int64_t leave_one_in = 256;

// A start at the second tolerance that takes more bids for each row than this was too fine.
constexpr std::int64_t bids_to_settle = 14;

// Prices can only get worse after so many bids for each row: rows compete for too few columns.
constexpr std::int64_t bids_per_row = 24;

// The median over rows of how far a list reaches above its best candidate.
template <typename T>
double typical_spread(CandidateLists<T>& lists, const std::vector<std::int64_t>& rows) {
  std::vector<double> spreads;
  const std::size_t step = std::max<std::size_t>(1, rows.size() / 256);
  for (std::size_t k = 0; k < rows.size(); k += step) {
    const double best = lists.best_listed(rows[k]);
    const double spread = lists.bound(rows[k]) - best;
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
  Auction(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal)
      : problem_(problem), lists_(lists), equal_(equal) {}

  // Returns whether so many bids for each row were enough.
  bool phase(const std::vector<std::int64_t>& rows, double tolerance, std::int64_t bids_each) {
    std::vector<std::int64_t> queue;
    holders_.clear();
    free_equal_.clear();
    for (auto row = rows.rbegin(); row != rows.rend(); ++row)
      if (!stays(*row, tolerance)) queue.push_back(*row);
    for (const std::int64_t j : equal_.cols())
      if (problem_.row4col[j] == none) free_equal_.push_back(j);
    const std::size_t enough = rows.size() / leave_one_in;
    auto budget = bids_each * static_cast<std::int64_t>(rows.size());
    while (queue.size() > enough && budget-- > 0) {
      const std::int64_t i = queue.back();
      queue.pop_back();
      const std::int64_t displaced = bid(i, tolerance);
      if (displaced != none) queue.push_back(displaced);
    }
    return queue.size() <= enough;
  }

 private:
  // A row that has one of the equal columns, and the price below which it would rather have its
  // best listed column. That price may be out of date: it only falls, as all prices do.
  using Holder = std::pair<double, std::int64_t>;

  // Whether row i keeps its column: it costs at most `tolerance` more than its best. Frees the
  // column otherwise.
  bool stays(std::int64_t i, double tolerance) {
    const std::int64_t j = problem_.col4row[i];
    if (j == none) return false;
    const double best = lists_.best_listed(i);
    if (lists_.reduced_cost(i, j) <= std::min(best, equal_.reduced_cost(i)) + tolerance) {
      if (equal_.holds(j)) add_holder(i, equal_.cost(i) - best);
      return true;
    }
    problem_.col4row[i] = none;
    problem_.row4col[j] = none;
    return false;
  }

  // Lets row i bid for its best column. Returns the row that loses its column by that, or `none`.
  std::int64_t bid(std::int64_t i, double tolerance) {
    const BestTwo choice = lists_.choose_listed(i);
    const double equal = equal_.reduced_cost(i);
    if (equal < choice.best) return join(i, equal_.cost(i) - choice.best, tolerance);
    const std::int64_t j = choice.best_col;
    if (j == none) return none;
    const double second = std::min(choice.second, equal);
    const double lead = second < infinity ? second - choice.best : 0.0;
    problem_.lower_price(j, lead + tolerance);
    const std::int64_t displaced = problem_.row4col[j];
    problem_.assign(i, j);
    if (displaced != none) problem_.col4row[displaced] = none;
    return displaced;
  }

  // Gives row i one of the equal columns. When all are taken, their price falls until the row that
  // is least attached to them would go.
  std::int64_t join(std::int64_t i, double threshold, double tolerance) {
    add_holder(i, threshold);
    if (!free_equal_.empty()) {
      problem_.assign(i, free_equal_.back());
      free_equal_.pop_back();
      return none;
    }
    const auto [leaving_at, leaver] = least_attached(i);
    equal_.set_price(std::min(equal_.price(), leaving_at - tolerance));
    if (leaver == i) return i;
    problem_.assign(i, problem_.col4row[leaver]);
    problem_.col4row[leaver] = none;
    return leaver;
  }

  void add_holder(std::int64_t i, double threshold) {
    holders_.emplace_back(threshold, i);
    std::push_heap(holders_.begin(), holders_.end());
  }

  // Takes the holder with the highest threshold off the heap, once that is up to date.
  Holder least_attached(std::int64_t newest) {
    for (;;) {
      std::pop_heap(holders_.begin(), holders_.end());
      Holder holder = holders_.back();
      holders_.pop_back();
      if (holder.second == newest) return holder;
      const double now = equal_.cost(holder.second) - lists_.best_listed(holder.second);
      if (now >= holder.first) return holder;
      add_holder(holder.second, now);
    }
  }

  Problem<T>& problem_;
  CandidateLists<T>& lists_;
  EqualColumns<T>& equal_;
  std::vector<Holder> holders_;  // a heap
  std::vector<std::int64_t> free_equal_;
};

}  // namespace

template <typename T>
void auction_prices(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal,
                    const std::vector<std::int64_t>& rows) {
  const double spread = typical_spread(lists, rows);
  problem.clear_assignment();
  if (!(spread > 0)) return;  // ties everywhere: no price is better than another
  Auction<T> auction(problem, lists, equal);
  std::size_t next = 2;
  if (!auction.phase(rows, tolerances[1] * spread, bids_to_settle)) next = 0;
  for (; next < std::size(tolerances); ++next)
    auction.phase(rows, tolerances[next] * spread, bids_per_row);
  problem.clear_assignment();
}

template void auction_prices(Problem<float>&, CandidateLists<float>&, EqualColumns<float>&,
                             const std::vector<std::int64_t>&);
template void auction_prices(Problem<double>&, CandidateLists<double>&, EqualColumns<double>&,
                             const std::vector<std::int64_t>&);

}  // namespace fastrebasin::cpu
