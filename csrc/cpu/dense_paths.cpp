// R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
// assignment problems", Computing 38, 325-340 (1987), doi:10.1007/BF02278710.
//
// We differ in a tie between columns at the same distance, which goes to a free one and ends the
// search at once; and in rows with the same entries, of which a search reads one.

#include "cpu/dense_paths.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "cpu/equal_rows.hpp"
#include "cpu/row_reduction.hpp"

namespace fastrebasin::cpu {
namespace {

template <typename T>
class DensePaths {
 public:
  explicit DensePaths(Problem<T>& problem) : problem_(problem) {}

  // The best two columns of row i; a free one in place of a held one that is no cheaper.
  BestTwo choose(std::int64_t i) {
    BestTwo choice = problem_.best_two(i);
    // Less than rounding could make of equal sums is no lead.
    if (choice.second - choice.best <= 1e-12 * std::abs(choice.best)) choice.second = choice.best;
    if (choice.second == choice.best && choice.best_col != none)
      choice.best_col = find_free_tie(i, choice.best, choice.best_col);
    return choice;
  }

  // Assigns one more row along a shortest path; false when there is none.
  bool augment(std::int64_t start) {
    const std::int64_t sink = find_shortest_path(start);
    if (sink == none) return false;
    free_.erase(std::lower_bound(free_.begin(), free_.end(), sink));
    std::int64_t i = none, j = sink;
    while (i != start) {
      i = predecessor_[j];
      problem_.row4col[j] = i;
      std::swap(problem_.col4row[i], j);
    }
    return true;
  }

 private:
  // The first free column that is as cheap for row i as its best, or `held`.
  std::int64_t find_free_tie(std::int64_t i, double best, std::int64_t held) const {
    for (std::int64_t j = held; j < problem_.cols(); ++j)
      if (problem_.row4col[j] == none && problem_.reduced_cost(i, j) == best) return j;
    return held;
  }

  // The closest column, or a free one that is as close.
  std::int64_t prefer_free(Closest closest) const {
    if (!closest.tied || problem_.row4col[closest.col] == none) return closest.col;
    const auto next = row_kernels<double>().find(distance_.data(), problem_.cols(),
                                                 closest.distance, closest.col + 1);
    if (next == problem_.cols()) return closest.col;
    for (const std::int64_t j : free_)
      if (distance_[j] == closest.distance) return j;
    return closest.col;
  }

  // Dijkstra's algorithm over columns, with reduced costs as lengths (less the row's minimum, so
  // never negative), from an unassigned row to the closest free column. Then lowers the prices of
  // the closed columns so that the path has length zero. Returns the free column, or `none`.
  //
  // A closed column has an open price of -inf and is never relaxed again: rounding could otherwise
  // find it "closer" by an ulp and bend the predecessors into a loop.
  std::int64_t find_shortest_path(std::int64_t start) {
    if (open_price_.empty()) {
      open_price_ = problem_.prices();
      predecessor_.resize(problem_.cols());
      equal_ = equal_rows(problem_);
      scanned_from_.resize(problem_.rows());
      for (std::int64_t j = 0; j < problem_.cols(); ++j)
        if (problem_.row4col[j] == none) free_.push_back(j);
    }
    distance_.assign(problem_.cols(), infinity);
    std::fill(scanned_from_.begin(), scanned_from_.end(), infinity);
    closed_.clear();
    std::int64_t i = start, sink = none;
    double offset = 0.0, lowest = infinity;
    for (;;) {
      const Closest closest =
          problem_.relax(i, offset, open_price_.data(), distance_.data(), predecessor_.data());
      if (closest.col == none) break;
      scanned_from_[equal_[i]] = std::min(scanned_from_[equal_[i]], offset);
      lowest = closest.distance;
      std::int64_t j = prefer_free(closest);
      if (problem_.row4col[j] == none) {
        sink = j;
        break;
      }
      i = close(j, lowest, offset);
      // A row equal to one that was scanned from no farther reaches nothing new.
      while (offset >= scanned_from_[equal_[i]]) {
        j = find_next(lowest, j);
        if (j == problem_.cols()) {
          offset = infinity;  // the next pass only looks for the next distance
          break;
        }
        i = close(j, lowest, offset);
      }
    }
    for (const auto& [j, distance] : closed_) {
      if (sink != none) problem_.lower_price(j, lowest - distance);
      open_price_[j] = problem_.price(j);
    }
    return sink;
  }

  // Closes a column and returns its row, which goes on at `offset`.
  std::int64_t close(std::int64_t j, double at, double& offset) {
    const std::int64_t i = problem_.row4col[j];
    offset = at - problem_.reduced_cost(i, j);
    closed_.emplace_back(j, at);
    open_price_[j] = -infinity;
    distance_[j] = infinity;
    return i;
  }

  std::int64_t find_next(double distance, std::int64_t j) const {
    return row_kernels<double>().find(distance_.data(), problem_.cols(), distance, j + 1);
  }

  Problem<T>& problem_;
  std::vector<std::int64_t> equal_;       // for each row, one with its entries
  std::vector<double> scanned_from_;      // the least offset that a row like this was scanned at
  std::vector<std::int64_t> free_;        // columns, ascending
  LineVector<double> distance_;           // tentative; +inf for a closed column
  LineVector<double> open_price_;         // price; -inf for a closed column
  LineVector<std::int64_t> predecessor_;  // row that a column was reached from
  std::vector<std::pair<std::int64_t, double>> closed_;  // columns and their final distances
};

}  // namespace

template <typename T>
bool complete_dense(Problem<T>& problem, std::vector<std::int64_t> unassigned) {
  DensePaths<T> paths(problem);
  // Each sweep halves the unassigned rows or so; after two, searching beats bidding.
  const auto choose = [&](std::int64_t i) { return paths.choose(i); };
  for (int sweep = 0; sweep < 2 && !unassigned.empty(); ++sweep)
    unassigned = reduce_rows(problem, unassigned, 3, choose);
  return std::all_of(unassigned.begin(), unassigned.end(),
                     [&](std::int64_t row) { return paths.augment(row); });
}

template bool complete_dense(Problem<float>&, std::vector<std::int64_t>);
template bool complete_dense(Problem<double>&, std::vector<std::int64_t>);

}  // namespace fastrebasin::cpu
