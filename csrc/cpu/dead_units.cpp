#include "cpu/dead_units.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <functional>
#include <numeric>

#include "cpu/sparse_paths.hpp"

namespace fastrebasin::cpu {
namespace {

// Whether row i is constant. Most rows show in two entries, side by side, that they are not.
template <typename T>
bool is_constant_row(Problem<T>& problem, std::int64_t i) {
  const T* row = problem.row(i);
  for (const std::int64_t j : {std::int64_t{1}, problem.cols() / 2, problem.cols() - 1})
    if (row[j] != row[0]) return false;
  const RowRange range = problem.range(i);
  return range.valid && range.lowest == range.highest && range.lowest < infinity;
}

// Columns that hold one and the same value on a few of `rows`.
template <typename T>
std::vector<std::int64_t> likely_dead_columns(const Problem<T>& problem,
                                              const std::vector<std::int64_t>& rows) {
  constexpr std::size_t glances = 16;
  std::vector<std::int64_t> found(problem.cols());
  std::iota(found.begin(), found.end(), 0);
  const T* first = problem.row(rows.front());
  const auto keep_where = [&](auto holds) {
    found.erase(std::remove_if(found.begin(), found.end(), std::not_fn(holds)), found.end());
  };
  for (std::size_t k = 1; k < glances && !found.empty(); ++k) {
    const T* row = problem.row(rows[k * (rows.size() - 1) / (glances - 1)]);
    keep_where([&](std::int64_t j) { return row[j] == first[j]; });
  }
  if (found.empty()) return found;
  const T common = first[found[found.size() / 2]];
  keep_where([&](std::int64_t j) {
    return first[j] == common && problem.cost(rows.front(), j) < infinity;
  });
  return found;
}

}  // namespace

template <typename T>
DeadUnits find_dead_units(Problem<T>& problem) {
  DeadUnits dead;
  std::vector<std::int64_t> live;
  dead.constant.resize(problem.rows());
  for (std::int64_t i = 0; i < problem.rows(); ++i) {
    dead.constant[i] = is_constant_row(problem, i);
    (dead.is_constant(i) ? dead.rows : live).push_back(i);
  }
  dead.cols = live.empty() ? dead.rows : likely_dead_columns(problem, live);
  if (dead.rows.empty() && dead.cols.size() < 2) return {};
  const std::size_t pairs = std::min(dead.rows.size(), dead.cols.size());
  dead.rows.resize(pairs);
  dead.spare_cols.assign(dead.cols.begin() + static_cast<std::ptrdiff_t>(pairs), dead.cols.end());
  dead.cols.resize(pairs);
  return dead;
}

template <typename T>
bool dead_columns_agree(const Problem<T>& problem, const DeadUnits& dead, std::int64_t i) {
  const auto& known = dead.cols.empty() ? dead.spare_cols : dead.cols;
  if (known.empty()) return true;
  const double cost = problem.cost(i, known.front());
  const auto agrees = [&](std::int64_t j) { return problem.cost(i, j) == cost; };
  return std::all_of(dead.cols.begin(), dead.cols.end(), agrees) &&
         std::all_of(dead.spare_cols.begin(), dead.spare_cols.end(), agrees);
}

template <typename T>
void set_aside(Problem<T>& problem, const DeadUnits& dead) {
  for (const std::int64_t j : dead.cols) problem.set_unlisted_price(j, -infinity);
}

template <typename T>
void price_spares(EqualColumns<T>& equal, CandidateLists<T>& lists,
                  const std::vector<std::int64_t>& rows) {
  if (equal.empty()) return;
  // The price from which on a row prefers an equal column to its best listed one.
  std::vector<double> thresholds;
  for (const std::int64_t i : rows) {
    const double threshold = equal.cost(i) - lists.floor(i);
    if (std::abs(threshold) < infinity) thresholds.push_back(threshold);
  }
  if (thresholds.empty()) return;
  const std::size_t wanted = std::min(equal.cols().size(), thresholds.size() - 1);
  const auto last = thresholds.begin() + static_cast<std::ptrdiff_t>(wanted);
  std::nth_element(thresholds.begin(), last, thresholds.end());
  equal.set_price(*last);
}

template <typename T>
bool bring_back(Problem<T>& problem, CandidateLists<T>& lists, EqualColumns<T>& equal,
                const DeadUnits& dead) {
  if (dead.rows.empty()) return true;
  equal.add(dead.cols);
  double price = infinity;
  for (std::int64_t i = 0; i < problem.rows(); ++i)
    if (const std::int64_t j = problem.col4row[i]; j != none)
      price = std::min(price, equal.cost(i) - problem.reduced_cost(i, j));
  equal.set_price(price < infinity ? price : 0.0);  // without a core, any will do

  std::vector<std::int64_t> free_rows(dead.rows.rbegin(), dead.rows.rend());
  SparsePaths<T> paths(problem, lists, equal, dead);
  for (; !free_rows.empty(); free_rows.pop_back()) {
    if (*std::max_element(problem.prices().begin(), problem.prices().end()) <= equal.price()) break;
    lists.build(free_rows.back());
    if (!paths.augment(free_rows.back())) return false;
  }
  for (const std::int64_t j : dead.cols) {
    if (problem.row4col[j] != none) continue;
    problem.assign(free_rows.back(), j);
    free_rows.pop_back();
  }
  return true;
}

#define FASTREBASIN_INSTANTIATE(T)                                                     \
  template DeadUnits find_dead_units(Problem<T>&);                                     \
  template bool dead_columns_agree(const Problem<T>&, const DeadUnits&, std::int64_t); \
  template void set_aside(Problem<T>&, const DeadUnits&);                              \
  template void price_spares(EqualColumns<T>&, CandidateLists<T>&,                     \
                             const std::vector<std::int64_t>&);                        \
  template bool bring_back(Problem<T>&, CandidateLists<T>&, EqualColumns<T>&, const DeadUnits&);
FASTREBASIN_INSTANTIATE(float)
FASTREBASIN_INSTANTIATE(double)
#undef FASTREBASIN_INSTANTIATE

}  // namespace fastrebasin::cpu
