// Lazily cached candidate lists: our own design; the idea of solving on a sparse subset with
// verified bounds goes back to Jonker and Volgenant's sparse code (1987).

#include "cpu/candidate_lists.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fastrebasin::cpu {
template <typename T>
CandidateLists<T>::CandidateLists(Problem<T>& problem, const EqualColumns<T>& equal)
    : problem_(problem), equal_(equal), lists_(new List[problem.rows()]) {}

template <typename T>
void CandidateLists<T>::build(std::int64_t i) {
  builds_ += !lists_[i].is_kept;
  list_anew(i);
}

template <typename T>
void CandidateLists<T>::list_anew(std::int64_t i) {
  problem_.count_reads(2 * problem_.cols());
  list(i, i);
}

template <typename T>
bool CandidateLists<T>::keep(std::int64_t i, std::int64_t j) {
  const double reduced = problem_.reduced_cost(i, j);
  if (equal_.holds(j) || !(reduced < infinity) ||
      !problem_.kernels().at_least(problem_.row(i), problem_.sign(), problem_.prices().data(),
                                   problem_.cols(), reduced))
    return false;
  List& list = lists_[i];
  list.bound = list.near_bound = reduced;
  list.is_kept = true;
  return true;
}

template <typename T>
bool CandidateLists<T>::list(std::int64_t i, std::int64_t next) {
  const T* row = problem_.row(i);
  const T* ceiling = problem_.ceiling();
  Depths<T> depths;
  if (!problem_.kernels().measure(row, problem_.sign(), ceiling, problem_.cols(), &depths))
    return false;
  if (depths.forty == T(infinity)) return list_allowed(i), true;
  // Rows start at different places, so that rows of many equal costs keep different columns.
  const std::int64_t blocks = problem_.cols() / collect_width;
  const std::int64_t start = blocks ? i * 7919 % blocks * collect_width : 0;
  std::int32_t columns[capacity + collect_width];
  // Should equal costs be too many for the list, a lower bound will have to do. The lowest of all
  // holds even where the list has no room for all its columns.
  for (const T bound : {depths.forty, depths.seven, depths.lowest}) {
    const std::int64_t count =
        problem_.kernels().collect(row, problem_.sign(), ceiling, problem_.cols(), bound, start,
                                   capacity, problem_.row(next), columns);
    if (count >= capacity && bound > depths.lowest) continue;
    fill(i, columns, std::min(count, capacity), bound, std::min(bound, depths.seven));
    break;
  }
  return true;
}

// Makes the list of a row with few allowed edges, reading them one by one.
template <typename T>
void CandidateLists<T>::list_allowed(std::int64_t i) {
  std::vector<std::pair<double, std::int32_t>> allowed;
  for (std::int64_t j = 0; j < problem_.cols(); ++j)
    if (problem_.cost(i, j) < infinity && problem_.ceiling()[j] > -T(infinity))
      allowed.emplace_back(problem_.reduced_cost(i, j), static_cast<std::int32_t>(j));
  T bound = T(infinity);
  if (static_cast<std::int64_t>(allowed.size()) > capacity) {
    std::nth_element(allowed.begin(), allowed.begin() + capacity, allowed.end());
    bound = std::nextafter(static_cast<T>(allowed[capacity].first), -T(infinity));
    allowed.resize(capacity);
  }
  std::int32_t columns[capacity] = {};
  std::transform(allowed.begin(), allowed.end(), columns, [](const auto& a) { return a.second; });
  fill(i, columns, static_cast<std::int64_t>(allowed.size()), bound, bound);
}

template <typename T>
void CandidateLists<T>::fill(std::int64_t i, const std::int32_t* columns, std::int64_t count,
                             T bound, T near_bound) {
  List& list = lists_[i];
  const T* const row = problem_.row(i);
  for (std::int64_t k = 0; k < count || k % Block::size != 0; ++k) {
    Block& block = list.blocks[k / Block::size];
    block.columns[k % Block::size] = k < count ? columns[k] : 0;
    block.costs[k % Block::size] = k < count ? problem_.sign() * row[columns[k]] : T(infinity);
  }
  list.bound = bound;
  list.is_kept = false;
  list.count = static_cast<std::int32_t>(count);
  move_near_bound(list, near_bound);
}

template <typename T>
void CandidateLists<T>::move_near_bound(List& list, double near_bound) {
  list.near_bound = near_bound;
  list.near_count = static_cast<std::int32_t>(
      problem_.kernels().partition(list.blocks, list.count, problem_.prices().data(), near_bound));
}

template <typename T>
BestTwo CandidateLists<T>::choose_listed(std::int64_t i) {
  problem_.count_reads(capacity);
  for (bool renewed = false;; renewed = true) {
    List& list = lists_[i];
    const auto best_of = [&](std::int64_t count) {
      return problem_.kernels().best_two_listed(list.blocks, count, problem_.prices().data());
    };
    BestTwo choice = best_of(list.near_count);
    const bool far = choice.second > list.near_bound;
    if (far) choice = best_of(list.count);
    if (choice.best <= list.bound) {
      if (choice.best_col != none)
        choice.best_col =
            choice.second > choice.best
                ? list.blocks[choice.best_col / Block::size].columns[choice.best_col % Block::size]
                : preferred_tie(i, choice.best);
      choice.second = std::max(choice.best, std::min(choice.second, list.bound));
      if (far && choice.second < list.bound)
        move_near_bound(list, choice.second + (list.bound - choice.second) / 2);
      return choice;
    }
    // The bound may lie below the best by what rounding a price up to T makes.
    if (renewed) return problem_.best_two(i);
    build(i);
  }
}

template <typename T>
double CandidateLists<T>::best_listed(std::int64_t i) {
  problem_.count_reads(capacity);
  const List& list = lists_[i];
  const auto best_of = [&](std::int64_t count) {
    return problem_.kernels().best_two_listed(list.blocks, count, problem_.prices().data()).best;
  };
  double best = best_of(list.near_count);
  if (best > list.near_bound) best = best_of(list.count);
  return best <= list.bound ? best : choose_listed(i).best;
}

template <typename T>
BestTwo CandidateLists<T>::choose(std::int64_t i) {
  BestTwo choice = choose_listed(i);
  const double reduced = equal_.reduced_cost(i);
  if (reduced < choice.best) {
    const std::int64_t free = equal_.find_free();
    return {reduced, reduced, free == none ? equal_.cols().front() : free};
  }
  choice.second = std::min(choice.second, reduced);
  return choice;
}

// What row i pays for column j. Most columns that are asked for are equal ones or in the list,
// which the processor has at hand: for the matrix it would have to wait.
template <typename T>
double CandidateLists<T>::cost(std::int64_t i, std::int64_t j) const {
  if (equal_.holds(j)) return equal_.cost(i);
  const List& list = lists_[i];
  for (std::int32_t k = 0; k < list.count; ++k) {
    const Block& block = list.blocks[k / Block::size];
    if (block.columns[k % Block::size] == j) return double(block.costs[k % Block::size]);
  }
  return problem_.cost(i, j);
}

// Of row i's candidates with this reduced cost the first that is free, or else the first.
template <typename T>
std::int64_t CandidateLists<T>::preferred_tie(std::int64_t i, double reduced) const {
  std::int64_t best = none;
  bool best_is_free = false;
  visit_range(i, 0, lists_[i].count, [&](std::int64_t j, double r) {
    if (r != reduced) return;
    const bool free = problem_.row4col[j] == none;
    if (best == none || (free != best_is_free ? free : j < best)) {
      best = j;
      best_is_free = free;
    }
  });
  return best;
}

template class CandidateLists<float>;
template class CandidateLists<double>;

}  // namespace fastrebasin::cpu
