#include "cpu/dead_units.hpp"

#include <algorithm>

#include "cpu/sparse_paths.hpp"

namespace fastrebasin::cpu {
namespace {

// Whether row i is constant: most rows show in four entries that they are not.
template <typename T>
bool is_constant_row(Problem<T>& problem, std::int64_t i) {
  const std::int64_t n = problem.cols();
  const double first = problem.cost(i, 0);
  for (const std::int64_t j : {n / 3, n / 2, n - 1})
    if (problem.cost(i, j) != first) return false;
  const RowRange range = problem.range(i);
  return range.valid && range.lowest == range.highest && range.lowest < infinity;
}

// Columns that hold one and the same value wherever the first, middle and last of `rows` look.
template <typename T>
std::vector<std::int64_t> likely_dead_columns(const Problem<T>& problem,
                                              const std::vector<std::int64_t>& rows) {
  std::vector<std::int64_t> found;
  if (rows.empty()) return found;
  for (std::int64_t j = 0; j < problem.cols(); ++j) {
    const double value = problem.cost(rows.front(), j);
    if (value == problem.cost(rows[rows.size() / 2], j) && value == problem.cost(rows.back(), j) &&
        value == problem.cost(rows[rows.size() / 3], j) && value < infinity)
      found.push_back(j);
  }
  if (found.empty()) return found;
  const double common = problem.cost(rows.front(), found[found.size() / 2]);
  const auto differs = [&](std::int64_t j) { return problem.cost(rows.front(), j) != common; };
  found.erase(std::remove_if(found.begin(), found.end(), differs), found.end());
  return found;
}

}  // namespace

template <typename T>
DeadUnits find_dead_units(Problem<T>& problem) {
  DeadUnits dead;
  std::vector<std::int64_t> live;
  for (std::int64_t i = 0; i < problem.rows(); ++i)
    (is_constant_row(problem, i) ? dead.rows : live).push_back(i);
  if (dead.rows.empty()) return dead;
  if (live.empty()) {
    dead.cols = dead.rows;
  } else {
    dead.cols = likely_dead_columns(problem, live);
  }
  const std::size_t pairs = std::min(dead.rows.size(), dead.cols.size());
  dead.rows.resize(pairs);
  dead.cols.resize(pairs);
  return dead;
}

template <typename T>
bool dead_columns_agree(const Problem<T>& problem, const DeadUnits& dead, std::int64_t i) {
  return dead.cols.empty() || std::all_of(dead.cols.begin(), dead.cols.end(), [&](std::int64_t j) {
           return problem.cost(i, j) == problem.cost(i, dead.cols.front());
         });
}

template <typename T>
void set_aside(Problem<T>& problem, const DeadUnits& dead) {
  for (const std::int64_t j : dead.cols) problem.price[j] = -infinity;
}

template <typename T>
bool bring_back(Problem<T>& problem, CandidateLists<T>& lists, const DeadUnits& dead) {
  if (dead.cols.empty()) return true;
  const std::int64_t any = dead.cols.front();
  double price = infinity;
  for (std::int64_t i = 0; i < problem.rows(); ++i)
    if (const std::int64_t j = problem.col4row[i]; j != none)
      price = std::min(price, problem.cost(i, any) - problem.reduced_cost(i, j));
  if (price == infinity) price = 0.0;  // there is no core
  for (const std::int64_t j : dead.cols) problem.price[j] = price;

  std::vector<std::int64_t> free_cols(dead.cols.rbegin(), dead.cols.rend());
  std::vector<std::int64_t> free_rows(dead.rows.rbegin(), dead.rows.rend());
  SparsePaths<T> paths(problem, lists);
  while (!free_rows.empty()) {
    if (*std::max_element(problem.price.begin(), problem.price.end()) <= price) break;
    lists.build(free_rows.back());
    paths.set_exit(free_cols.back());
    if (!paths.augment(free_rows.back())) return false;
    free_rows.pop_back();
    free_cols.pop_back();
  }
  for (; !free_rows.empty(); free_rows.pop_back(), free_cols.pop_back())
    problem.assign(free_rows.back(), free_cols.back());
  return true;
}

#define FASTREBASIN_INSTANTIATE(T)                                                     \
  template DeadUnits find_dead_units(Problem<T>&);                                     \
  template bool dead_columns_agree(const Problem<T>&, const DeadUnits&, std::int64_t); \
  template void set_aside(Problem<T>&, const DeadUnits&);                              \
  template bool bring_back(Problem<T>&, CandidateLists<T>&, const DeadUnits&);
FASTREBASIN_INSTANTIATE(float)
FASTREBASIN_INSTANTIATE(double)
#undef FASTREBASIN_INSTANTIATE

}  // namespace fastrebasin::cpu
