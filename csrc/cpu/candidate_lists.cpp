// Lazily cached candidate lists: our own design; the idea of solving on a sparse subset with
// verified bounds goes back to Jonker and Volgenant's sparse code (1987).

#include "cpu/candidate_lists.hpp"

#include <algorithm>

namespace fastrebasin::cpu {
namespace {

// Of 32 group minima, the one that serves as threshold: about 37 columns of a row of random
// numbers lie below it.
constexpr int first_rank = 22;

}  // namespace

template <typename T>
CandidateLists<T>::CandidateLists(Problem<T>& problem)
    : problem_(problem), candidates_(problem.rows() * capacity), rows_(problem.rows()) {}

template <typename T>
bool CandidateLists<T>::build(std::int64_t i) {
  ++builds_;
  double minima[row_groups];
  if (!problem_.group_minima(i, minima)) return false;
  std::sort(minima, minima + row_groups);
  // Rows start at different places, so that rows of many equal costs keep different columns.
  const std::int64_t blocks = problem_.cols() / row_groups;
  const std::int64_t start = blocks ? i * 7919 % blocks * row_groups : 0;
  std::int32_t columns[capacity];
  double reduced[capacity];
  double threshold = infinity;
  Collected found{};
  for (int rank = first_rank;; rank /= 2) {
    threshold = minima[rank];
    found = problem_.collect(i, threshold, start, capacity, columns, reduced);
    if (found.smallest_missed == infinity || rank == 0) break;
  }
  Row& row = rows_[i];
  row.bound = std::min(threshold, found.smallest_missed);
  row.count = static_cast<std::int32_t>(found.count);
  Candidate* list = &candidates_[i * capacity];
  for (std::int32_t k = 0; k < row.count; ++k)
    list[k] = {reduced[k], static_cast<T>(problem_.cost(i, columns[k])), columns[k]};
  std::sort(list, list + row.count, [](const Candidate& a, const Candidate& b) {
    return a.floor < b.floor || (a.floor == b.floor && a.col < b.col);
  });
  return true;
}

template <typename T>
typename CandidateLists<T>::Choice CandidateLists<T>::choose(std::int64_t i) {
  for (bool fresh = false;; fresh = true) {
    Choice choice{infinity, infinity, none};
    for (const Candidate *c = begin(i), *last = end(i); c != last; ++c) {
      if (c->floor > choice.second) break;
      const double reduced = double(c->cost) - problem_.price[c->col];
      if (reduced < choice.best ||
          (reduced == choice.best && problem_.row4col[choice.col] != none &&
           problem_.row4col[c->col] == none)) {
        choice.second = choice.best;
        choice.best = reduced;
        choice.col = c->col;
      } else if (reduced < choice.second) {
        choice.second = reduced;
      }
    }
    if (choice.best <= bound(i) || fresh) {
      choice.second = std::max(choice.best, std::min(choice.second, bound(i)));
      return choice;
    }
    build(i);
  }
}

template class CandidateLists<float>;
template class CandidateLists<double>;

}  // namespace fastrebasin::cpu
