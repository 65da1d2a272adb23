#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

#include "cpu/equal_columns.hpp"
#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// The cheapest few columns of every row, and a bound on all its others: what the sparse stages of
// the solver read instead of the matrix.
//
// Why the bound is rigorous: a list holds every column whose reduced cost was at most the bound
// when the list was made. Prices only fall, so reduced costs only rise: whatever isn't in the list
// stays above the bound for ever. Lists are made in the precision of the costs, from prices rounded
// up: what is above the bound there is above it with the price itself, as rounding is monotone. A
// row whose cheapest candidate rises above the bound is read again, at the prices of that moment.
//
// After a warm start most rows keep their columns. Of these a list would be made in vain: what is
// known of a row that is kept is its best edge, a bound on all, until something else is asked.
template <typename T>
class CandidateLists {
 public:
  static constexpr std::int64_t capacity = list_capacity;

  // `equal` are in no list; they must outlive the lists.
  CandidateLists(Problem<T>& problem, const EqualColumns<T>& equal);

  // Reads row i and makes its list; false when an entry is NaN or minus infinity. Row `next`, the
  // one to be listed after it, comes into the cache meanwhile. Rows may be listed by several
  // threads at once.
  bool list(std::int64_t i, std::int64_t next);

  // Keeps row i with column j instead, if that is its best edge but for the equal columns; false
  // when it is not, or when the row has to be read for an invalid entry.
  bool keep(std::int64_t i, std::int64_t j);

  // Lists a row that was kept.
  void list_kept(std::int64_t i) {
    if (lists_[i].is_kept) list_anew(i);
  }

  // Lists row i anew. Counts towards `builds`, and the next poll for an interrupt.
  void build(std::int64_t i);

  // The best edge of row i but for the equal columns, a free column before others among equals.
  // Reads the row again if its list no longer tells. `second` may be an underestimate (the bound),
  // never an overestimate.
  BestTwo choose_listed(std::int64_t i);

  // The reduced cost of that edge alone.
  double best_listed(std::int64_t i);

  // The best edge of row i. One of several equal columns has no lead over the others.
  BestTwo choose(std::int64_t i);
  double best(std::int64_t i) { return std::min(best_listed(i), equal_.reduced_cost(i)); }

  // No reduced cost of row i's but for the equal columns is below this: of a row that is kept what
  // its best was when it was, and else what it is.
  double floor(std::int64_t i) { return lists_[i].is_kept ? lists_[i].bound : best_listed(i); }

  // What row i pays for column j at the present prices.
  double reduced_cost(std::int64_t i, std::int64_t j) const {
    return cost(i, j) - problem_.price(j);
  }

  // Calls visit(column, reduced cost) for the candidates of row i: the near ones, or the others. No
  // reduced cost of the others is below near_bound, and none outside the list below bound. As
  // prices fall, a row that looked at all candidates moves near_bound up, so that it needn't often.
  template <typename Visit>
  void visit_near(std::int64_t i, Visit visit) const {
    visit_range(i, 0, lists_[i].near_count, visit);
  }
  template <typename Visit>
  void visit_far(std::int64_t i, Visit visit) const {
    visit_range(i, lists_[i].near_count, lists_[i].count, visit);
  }
  double near_bound(std::int64_t i) const { return lists_[i].near_bound; }
  double bound(std::int64_t i) const { return lists_[i].bound; }

  std::int64_t builds() const { return builds_; }

 private:
  using Block = ListBlock<T>;

  // Near candidates come first. Starts a cache line, as each block of float costs does.
  struct alignas(64) List {
    double bound = -infinity, near_bound = -infinity;
    std::int32_t count = 0, near_count = 0;
    bool is_kept = false;
    alignas(64) Block blocks[capacity / Block::size];
  };

  template <typename Visit>
  void visit_range(std::int64_t i, std::int32_t from, std::int32_t to, Visit visit) const {
    for (std::int32_t k = from; k < to; ++k) {
      const Block& block = lists_[i].blocks[k / Block::size];
      const std::int32_t j = block.columns[k % Block::size];
      visit(j, double(block.costs[k % Block::size]) - problem_.price(j));
    }
  }

  void list_anew(std::int64_t i);
  void list_allowed(std::int64_t i);
  void fill(std::int64_t i, const std::int32_t* columns, std::int64_t count, T bound, T near_bound);
  void move_near_bound(List& list, double near_bound);
  double cost(std::int64_t i, std::int64_t j) const;
  std::int64_t preferred_tie(std::int64_t i, double reduced) const;

  Problem<T>& problem_;
  const EqualColumns<T>& equal_;
  std::unique_ptr<List[]> lists_;  // for each row
  std::int64_t builds_ = 0;
};

}  // namespace fastrebasin::cpu
