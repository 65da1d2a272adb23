// R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
// assignment problems", Computing 38, 325-340 (1987), doi:10.1007/BF02278710.
//
// The paths of `dense_paths`, in plain loops: among columns at the same distance the first free one
// goes before others.

#include "cpu/small_paths.hpp"

#include <array>
#include <utility>

namespace fastrebasin::cpu {
namespace {

template <typename T>
AssignmentStatus check_entries(const Problem<T>& problem) {
  bool feasible = true;  // reported once all entries are checked
  for (std::int64_t i = 0; i < problem.rows(); ++i) {
    double lowest = infinity;
    for (std::int64_t j = 0; j < problem.cols(); ++j) {
      const double cost = problem.cost(i, j);
      if (!(cost > -infinity)) return AssignmentStatus::invalid_entry;  // or NaN
      lowest = std::min(lowest, cost);
    }
    feasible &= lowest < infinity;
  }
  return feasible ? AssignmentStatus::optimal : AssignmentStatus::infeasible;
}

// Assigns row `start` along a shortest path to a free column; false when there is none. The path's
// lengths are reduced costs; prices of closed columns then fall so that they are zero along it.
template <typename T>
bool augment(Problem<T>& problem, std::int64_t start) {
  const std::int64_t cols = problem.cols();
  std::array<double, largest_small> distance;
  std::array<std::int64_t, largest_small> predecessor, open, closed;
  for (std::int64_t j = 0; j < cols; ++j) {
    distance[j] = infinity;
    open[j] = j;
  }
  std::int64_t i = start, open_count = cols, closed_count = 0, sink = none;
  double offset = 0.0, lowest = infinity;
  while (sink == none) {
    lowest = infinity;
    std::int64_t nearest = none;  // place in `open`
    for (std::int64_t k = 0; k < open_count; ++k) {
      const std::int64_t j = open[k];
      const double through = problem.reduced_cost(i, j) + offset;
      if (through < distance[j]) {
        distance[j] = through;
        predecessor[j] = i;
      }
      const bool frees = distance[j] == lowest && lowest < infinity && problem.row4col[j] == none &&
                         problem.row4col[open[nearest]] != none;
      if (distance[j] < lowest || frees) {
        lowest = distance[j];
        nearest = k;
      }
    }
    if (nearest == none) return false;
    const std::int64_t j = open[nearest];
    i = problem.row4col[j];
    if (i == none) {
      sink = j;
    } else {
      offset = lowest - problem.reduced_cost(i, j);
      closed[closed_count++] = j;
      // The others keep their order: equal columns are taken from the first to the last.
      for (--open_count; nearest < open_count; ++nearest) open[nearest] = open[nearest + 1];
    }
  }
  for (std::int64_t k = 0; k < closed_count; ++k)
    problem.lower_price(closed[k], lowest - distance[closed[k]]);
  for (i = none; i != start;) {
    i = predecessor[sink];
    problem.row4col[sink] = i;
    std::swap(problem.col4row[i], sink);
  }
  return true;
}

}  // namespace

template <typename T>
AssignmentStatus solve_small(Problem<T>& problem) {
  const AssignmentStatus status = check_entries(problem);
  if (status != AssignmentStatus::optimal) return status;
  for (std::int64_t i = 0; i < problem.rows(); ++i)
    if (!augment(problem, i)) return AssignmentStatus::infeasible;
  return AssignmentStatus::optimal;
}

template AssignmentStatus solve_small(Problem<float>&);
template AssignmentStatus solve_small(Problem<double>&);

}  // namespace fastrebasin::cpu
