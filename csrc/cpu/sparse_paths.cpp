// R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
// assignment problems", Computing 38, 325-340 (1987), doi:10.1007/BF02278710.
//
// We differ in searching on candidate lists: a scanned row enters the heap a second time, at the
// distance from which its unlisted columns could matter. Only when the search gets there is the
// row read again.

#include "cpu/sparse_paths.hpp"

#include <algorithm>
#include <cstddef>
#include <utility>

#include "cpu/dense_paths.hpp"
#include "cpu/row_reduction.hpp"

namespace fastrebasin::cpu {
namespace {

// A lead this small beside what a row's list spans isn't worth a bid.
constexpr double negligible_lead = 1e-3;

}  // namespace

template <typename T>
bool SparsePaths<T>::augment(std::int64_t start) {
  ++search_;
  heap_.clear();
  closed_.clear();
  shortest_ = infinity;
  sink_ = none;
  start_ = start;
  free_equal_ = equal_.find_free();
  scan(start, 0.0);
  while (!heap_.empty()) {
    const Event event = pop();
    if (event.distance >= shortest_) break;
    if (event.node <= problem_.cols()) {
      close(event);
    } else {
      look_further(event.node - problem_.cols() - 1);
    }
  }
  if (sink_ == none) return false;
  lower_prices();
  flip();
  return true;
}

template <typename T>
void SparsePaths<T>::push(double distance, std::int64_t node) {
  heap_.push_back({distance, node});
  std::push_heap(heap_.begin(), heap_.end());
}

template <typename T>
typename SparsePaths<T>::Event SparsePaths<T>::pop() {
  std::pop_heap(heap_.begin(), heap_.end());
  const Event event = heap_.back();
  heap_.pop_back();
  return event;
}

// How far row i is from the start: its column's distance less that edge's (tight) reduced cost.
template <typename T>
double SparsePaths<T>::offset(std::int64_t i) const {
  if (i == start_) return 0.0;
  const std::int64_t j = problem_.col4row[i];
  return columns_[node(j)].distance - lists_.reduced_cost(i, j);
}

template <typename T>
bool SparsePaths<T>::is_free(std::int64_t node) const {
  return node == problem_.cols() ? free_equal_ != none : problem_.row4col[node] == none;
}

template <typename T>
void SparsePaths<T>::relax(std::int64_t i, std::int64_t node, double distance) {
  Column& column = columns_[node];
  if (distance >= shortest_ || column.closed == search_) return;
  if (column.search == search_ && distance >= column.distance) return;
  column.distance = distance;
  column.predecessor = i;
  column.search = search_;
  if (is_free(node)) {
    shortest_ = distance;
    sink_ = node;
  } else {
    push(distance, node);
  }
}

// Relaxes a row's near candidates; its others wait until the search has come that far.
template <typename T>
void SparsePaths<T>::scan(std::int64_t i, double offset) {
  problem_.count_reads(CandidateLists<T>::capacity);
  lists_.list_kept(i);
  if (!equal_.empty()) relax(i, problem_.cols(), offset + equal_.reduced_cost(i));
  lists_.visit_near(i, relax_from(i, offset));
  look_later(i, offset + lists_.near_bound(i), Seen::near);
}

template <typename T>
void SparsePaths<T>::look_later(std::int64_t i, double distance, Seen seen) {
  seen_[i] = seen;
  if (distance < shortest_) push(distance, problem_.cols() + 1 + i);
}

// Goes on from the holder of the column. Two constant rows differ by a constant: one that is
// reached from another is as far from every column as that one.
template <typename T>
void SparsePaths<T>::close(const Event& event) {
  Column& column = columns_[event.node];
  if (column.closed == search_ || event.distance > column.distance) return;
  column.closed = search_;
  closed_.push_back(event.node);
  const auto scan_holder = [&](std::int64_t j) {
    const std::int64_t i = problem_.row4col[j];
    if (!dead_.is_constant(i) || !dead_.is_constant(column.predecessor)) scan(i, offset(i));
  };
  if (event.node < problem_.cols()) {
    scan_holder(event.node);
  } else {
    std::for_each(equal_.cols().begin(), equal_.cols().end(), scan_holder);
  }
}

// The search has come as far as the nearest that row i's unseen columns can be: those of its list;
// then those of a new list, at prices that don't change during a search; then all.
template <typename T>
void SparsePaths<T>::look_further(std::int64_t i) {
  const double from = offset(i);
  switch (seen_[i]) {
    case Seen::near:
      lists_.visit_far(i, relax_from(i, from));
      return look_later(i, from + lists_.bound(i), Seen::list);
    case Seen::list:
      lists_.build(i);
      lists_.visit_near(i, relax_from(i, from));
      lists_.visit_far(i, relax_from(i, from));
      return look_later(i, from + lists_.bound(i), Seen::new_list);
    case Seen::new_list:
      ++full_reads_;
      problem_.count_reads(problem_.cols());
      for (std::int64_t j = 0; j < problem_.cols(); ++j)
        relax(i, node(j), from + problem_.reduced_cost(i, j));
  }
}

template <typename T>
void SparsePaths<T>::lower_prices() {
  for (const std::int64_t node : closed_) {
    const double fall = std::max(0.0, shortest_ - columns_[node].distance);
    if (node < problem_.cols()) {
      problem_.lower_price(node, fall);
    } else {
      equal_.set_price(equal_.price() - fall);
    }
  }
}

// Flips the path that ends in the free column found and starts at the row searched from.
template <typename T>
void SparsePaths<T>::flip() {
  std::int64_t i = none, j = sink_ < problem_.cols() ? sink_ : free_equal_;
  while (i != start_) {
    i = columns_[node(j)].predecessor;
    problem_.row4col[j] = i;
    std::swap(problem_.col4row[i], j);
  }
}

template <typename T>
std::vector<std::int64_t> assign_free_bests(Problem<T>& problem, CandidateLists<T>& lists,
                                            const std::vector<std::int64_t>& rows) {
  std::vector<std::int64_t> left;
  for (const std::int64_t i : rows) {
    const BestTwo choice = lists.choose(i);
    if (choice.best_col != none && problem.row4col[choice.best_col] == none) {
      problem.assign(i, choice.best_col);
    } else {
      left.push_back(i);
    }
  }
  return left;
}

template <typename T>
bool complete_sparse(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal,
                     const DeadUnits& dead, std::vector<std::int64_t> unassigned) {
  SparsePaths<T> paths(problem, lists, equal, dead);
  const auto choose = [&](std::int64_t i) {
    BestTwo choice = lists.choose(i);
    if (choice.second - choice.best <= negligible_lead * (lists.bound(i) - choice.best))
      choice.second = choice.best;
    return choice;
  };
  for (int sweep = 0; sweep < 2 && !unassigned.empty(); ++sweep)
    unassigned = reduce_rows(problem, unassigned, 4, choose);
  const std::int64_t patience = lists.builds() + problem.rows();
  for (; !unassigned.empty(); unassigned.pop_back()) {
    if (lists.builds() + paths.full_reads() > patience) {
      const bool complete = complete_dense(problem, unassigned);
      equal.level();
      return complete;
    }
    if (!paths.augment(unassigned.back())) return false;
  }
  return true;
}

#define FASTREBASIN_INSTANTIATE(T)                                                        \
  template class SparsePaths<T>;                                                          \
  template std::vector<std::int64_t> assign_free_bests(Problem<T>&, CandidateLists<T>&,   \
                                                       const std::vector<std::int64_t>&); \
  template bool complete_sparse(Problem<T>&, CandidateLists<T>&, EqualColumns<T>&,        \
                                const DeadUnits&, std::vector<std::int64_t>);
FASTREBASIN_INSTANTIATE(float)
FASTREBASIN_INSTANTIATE(double)
#undef FASTREBASIN_INSTANTIATE

}  // namespace fastrebasin::cpu
