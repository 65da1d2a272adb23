// Lazily cached candidate lists: our own design; the idea of solving on a sparse subset with
// verified bounds goes back to Jonker and Volgenant's sparse code (1987).

#include "cpu/candidate_lists.hpp"

#include <algorithm>

namespace fastrebasin::cpu {
namespace {

// Which of a row's 32 group minima, in ascending order, bounds the list and its near part: in a row
// of random numbers, about 37 columns lie below the one and 7 below the other.
constexpr int list_rank = 22;
constexpr int near_rank = 6;

}  // namespace

template <typename T>
CandidateLists<T>::CandidateLists(Problem<T>& problem)
    : problem_(problem), candidates_(problem.rows() * capacity), rows_(problem.rows()) {}

template <typename T>
bool CandidateLists<T>::build(std::int64_t i) {
  ++builds_;
  double minima[row_groups];
  if (!problem_.group_minima(i, minima)) return false;
  // Rows start at different places, so that rows of many equal costs keep different columns.
  const std::int64_t blocks = problem_.cols() / row_groups;
  const std::int64_t start = blocks ? i * 7919 % blocks * row_groups : 0;
  std::int32_t columns[capacity];
  double reduced[capacity];
  double threshold = infinity;
  Collected found{};
  for (int rank = list_rank;; rank /= 2) {
    threshold = minima[rank];
    found = problem_.collect(i, threshold, start, capacity, columns, reduced);
    if (found.smallest_missed == infinity || rank == 0) break;
  }
  Row& row = rows_[i];
  row.bound = std::min(threshold, found.smallest_missed);
  row.near_bound = std::min(minima[near_rank], row.bound);
  row.count = static_cast<std::int32_t>(found.count);
  Candidate* near = &candidates_[i * capacity];
  Candidate* far = near + row.count;
  for (std::int32_t k = 0; k < row.count; ++k) {
    Candidate& place = reduced[k] <= row.near_bound ? *near++ : *--far;
    place = {static_cast<T>(problem_.cost(i, columns[k])), columns[k]};
  }
  row.near_count = static_cast<std::int32_t>(near - begin(i));
  return true;
}

template <typename T>
BestTwo CandidateLists<T>::choose(std::int64_t i) {
  for (bool fresh = false;; fresh = true) {
    BestTwo choice{infinity, infinity, none};
    const auto consider = [&](const Candidate* c, const Candidate* last) {
      for (; c != last; ++c) {
        const double reduced = double(c->cost) - problem_.price[c->col];
        if (reduced > choice.second) continue;
        if (reduced < choice.best ||
            (reduced == choice.best && preferred(c->col, choice.best_col))) {
          choice.second = choice.best;
          choice.best = reduced;
          choice.best_col = c->col;
        } else if (reduced < choice.second) {
          choice.second = reduced;
        }
      }
    };
    consider(begin(i), near_end(i));
    if (choice.second > near_bound(i)) consider(near_end(i), end(i));
    if (choice.best <= bound(i) || fresh) {
      choice.second = std::max(choice.best, std::min(choice.second, bound(i)));
      return choice;
    }
    build(i);
  }
}

// Of two equally cheap columns, the free one, then the one further left.
template <typename T>
bool CandidateLists<T>::preferred(std::int64_t col, std::int64_t to) const {
  const bool free = problem_.row4col[col] == none, to_free = problem_.row4col[to] == none;
  return free != to_free ? free : col < to;
}

template class CandidateLists<float>;
template class CandidateLists<double>;

}  // namespace fastrebasin::cpu
