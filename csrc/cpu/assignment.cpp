// Exact dense linear assignment by shortest augmenting paths.
//
// R. Jonker and A. Volgenant, "A shortest augmenting path algorithm for dense and sparse linear
// assignment problems", Computing 38, 325-340 (1987), doi:10.1007/BF02278710.
// D. F. Crouse, "On implementing 2D rectangular assignment algorithms", IEEE Trans. Aerospace and
// Electronic Systems 52, 1679-1696 (2016), doi:10.1109/TAES.2016.140952, for rectangular problems.
//
// We differ from Jonker and Volgenant in two ways. Prices start at zero and only ever fall, instead
// of starting from column minima: a column left over then keeps the price zero that a rectangular
// optimum asks of it, and columns of equal entries (dead units of a network) don't drag every row
// to the same place. And a tie between columns at the same distance goes to a free one, which ends
// the search at once.
//
// Legend: price[j] = dual of column j; reduced cost of (i, j) = cost(i, j) - price[j];
// col4row / row4col = the assignment seen from either side, `none` where there is none.

#include "cpu/assignment.hpp"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "cpu/kernels/row_kernels.hpp"

namespace fastrebasin::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t none = -1;

// Entries read between two polls for an interrupt: about ten milliseconds of scanning.
constexpr std::int64_t entries_per_poll = std::int64_t{1} << 24;

template <typename T>
class Solver {
 public:
  // Requires rows <= cols.
  Solver(MatrixView<T> cost, bool maximize, const std::function<bool()>& interrupted)
      : cost_(cost),
        sign_(maximize ? T(-1) : T(1)),
        kernels_(row_kernels<T>()),
        interrupted_(interrupted),
        price_(cost.cols, 0.0),
        col4row_(cost.rows, none),
        row4col_(cost.cols, none) {
    if (cost.col_stride != 1) pack();
  }

  AssignmentStatus solve() {
    const AssignmentStatus status = assign_row_minima();
    if (status != AssignmentStatus::optimal) return status;
    // Each sweep halves the unassigned rows or so; after two, searching beats bidding.
    for (int sweep = 0; sweep < 2 && !unassigned_.empty(); ++sweep) {
      reduce_augmenting_rows();
      if (stopped_) return AssignmentStatus::interrupted;
    }
    Search search(price_);
    for (const std::int64_t row : unassigned_) {
      const std::int64_t sink = find_shortest_path(row, search);
      if (stopped_) return AssignmentStatus::interrupted;
      if (sink == none) return AssignmentStatus::infeasible;
      augment(row, sink, search.predecessor);
    }
    return AssignmentStatus::optimal;
  }

  void write(bool maximize, std::int64_t* col4row, std::int64_t* row4col, double* row_duals,
             double* col_duals) const {
    const double sign = maximize ? -1.0 : 1.0;
    for (std::int64_t i = 0; i < cost_.rows; ++i) {
      const std::int64_t j = col4row_[i];
      if (col4row) col4row[i] = j;
      row_duals[i] = sign * reduced_cost(row(i), j);
    }
    if (row4col) std::copy(row4col_.begin(), row4col_.end(), row4col);
    for (std::int64_t j = 0; j < cost_.cols; ++j) col_duals[j] = sign * price_[j];
  }

 private:
  // The state of one shortest-path search over columns; allocated once per solve.
  struct Search {
    explicit Search(const std::vector<double>& price)
        : distance(price.size()), open_price(price), predecessor(price.size()) {}
    std::vector<double> distance;                         // tentative; +inf for a closed column
    std::vector<double> open_price;                       // price; -inf for a closed column
    std::vector<std::int64_t> predecessor;                // row that a column was reached from
    std::vector<std::pair<std::int64_t, double>> closed;  // columns and their final distances
  };

  const T* row(std::int64_t i) const { return cost_.data + i * cost_.row_stride; }
  T signed_cost(const T* row, std::int64_t j) const { return sign_ * row[j]; }

  // Copies the matrix so that rows are contiguous: every scan below runs along a row.
  void pack() {
    packed_.resize(cost_.rows * cost_.cols);
    for (std::int64_t i = 0; i < cost_.rows; ++i)
      for (std::int64_t j = 0; j < cost_.cols; ++j)
        packed_[i * cost_.cols + j] = row(i)[j * cost_.col_stride];
    cost_ = {packed_.data(), cost_.rows, cost_.cols, cost_.cols, 1};
  }

  void count_row_scan() {
    entries_read_ += cost_.cols;
    if (entries_read_ < entries_per_poll) return;
    entries_read_ = 0;
    stopped_ = interrupted_();
  }

  // Checks every entry and gives each row its cheapest column if that is still free. The first
  // free one of several equal columns is taken, so that constant costs give the identity.
  AssignmentStatus assign_row_minima() {
    bool feasible = true;
    for (std::int64_t i = 0; i < cost_.rows; ++i) {
      const RowRange range = kernels_.range(row(i), sign_, cost_.cols);
      if (!range.valid) return AssignmentStatus::invalid_entry;
      feasible &= range.lowest < infinity;  // reported once all entries are checked
      count_row_scan();
      if (stopped_) return AssignmentStatus::interrupted;
      std::int64_t j = 0;
      while (j < cost_.cols && !(signed_cost(row(i), j) == range.lowest && row4col_[j] == none))
        ++j;
      if (j < cost_.cols) {
        assign(i, j);
      } else {
        unassigned_.push_back(i);
      }
    }
    return feasible ? AssignmentStatus::optimal : AssignmentStatus::infeasible;
  }

  double reduced_cost(const T* row, std::int64_t j) const {
    return double(signed_cost(row, j)) - price_[j];
  }

  // Jonker and Volgenant's augmenting row reduction: each unassigned row takes its cheapest
  // column and lowers that column's price until the second cheapest is as good; the row that held
  // the column is next. Prices fall by ever smaller steps when rows compete for few columns, so a
  // budget bounds the bids; whatever is left over is for the search.
  void reduce_augmenting_rows() {
    std::vector<std::int64_t> queue(unassigned_.rbegin(), unassigned_.rend());
    unassigned_.clear();
    auto budget = static_cast<std::int64_t>(3 * queue.size());
    while (!queue.empty() && !stopped_) {
      const std::int64_t i = queue.back();
      queue.pop_back();
      if (budget-- <= 0) {
        unassigned_.push_back(i);
        continue;
      }
      const BestTwo two = kernels_.best_two(row(i), sign_, price_.data(), cost_.cols);
      count_row_scan();
      std::int64_t j = two.best_col;
      // A row with a single allowed edge would send the price to minus infinity.
      const bool bids = two.best < two.second && two.second < infinity;
      if (bids) {
        price_[j] -= two.second - two.best;
      } else if (row4col_[j] != none && two.second < infinity) {
        j = find_free_tie(i, two.best, j);
      }
      const std::int64_t displaced = row4col_[j];
      if (displaced != none && !bids) {
        unassigned_.push_back(i);  // displacing without a bid could go on for ever
        continue;
      }
      assign(i, j);
      if (displaced == none) continue;
      col4row_[displaced] = none;
      queue.push_back(displaced);
    }
  }

  // The first free column at least as cheap for row `i` as its best, or `held`.
  std::int64_t find_free_tie(std::int64_t i, double best, std::int64_t held) const {
    for (std::int64_t j = held + 1; j < cost_.cols; ++j)
      if (row4col_[j] == none && reduced_cost(row(i), j) == best) return j;
    return held;
  }

  // The open column at distance `lowest`, a free one if there is one.
  std::int64_t closest_column(double lowest, const Search& search) const {
    const double* distance = search.distance.data();
    const std::int64_t first = kernels_.find(distance, cost_.cols, lowest, 0);
    std::int64_t j = first;
    while (j < cost_.cols && row4col_[j] != none)
      j = kernels_.find(distance, cost_.cols, lowest, j + 1);
    return j < cost_.cols ? j : first;
  }

  // Dijkstra's algorithm over columns, with reduced costs as lengths (less the row's minimum, so
  // never negative), from an unassigned row to the closest free column. Then lowers the prices of
  // the closed columns so that the path has length zero. Returns the free column, or `none`.
  //
  // A closed column has an open price of -inf and is never relaxed again: rounding could otherwise
  // find it "closer" by an ulp and bend the predecessors into a loop.
  std::int64_t find_shortest_path(std::int64_t start, Search& search) {
    std::fill(search.distance.begin(), search.distance.end(), infinity);
    search.closed.clear();
    std::int64_t i = start, sink = none;
    double offset = 0.0, lowest = infinity;
    while (!stopped_) {
      lowest = kernels_.relax(row(i), sign_, search.open_price.data(), cost_.cols, offset, i,
                              search.distance.data(), search.predecessor.data());
      count_row_scan();
      if (lowest == infinity) break;
      const std::int64_t j = closest_column(lowest, search);
      i = row4col_[j];
      if (i == none) {
        sink = j;
        break;
      }
      offset = lowest - reduced_cost(row(i), j);
      search.closed.emplace_back(j, lowest);
      search.open_price[j] = -infinity;
      search.distance[j] = infinity;
    }
    for (const auto& [j, distance] : search.closed) {
      if (sink != none) price_[j] += distance - lowest;
      search.open_price[j] = price_[j];
    }
    return sink;
  }

  // Flips the path that ends in the free column `sink` and starts at the row `start`.
  void augment(std::int64_t start, std::int64_t sink,
               const std::vector<std::int64_t>& predecessor) {
    std::int64_t i = none, j = sink;
    while (i != start) {
      i = predecessor[j];
      row4col_[j] = i;
      std::swap(col4row_[i], j);
    }
  }

  void assign(std::int64_t i, std::int64_t j) {
    col4row_[i] = j;
    row4col_[j] = i;
  }

  MatrixView<T> cost_;
  std::vector<T> packed_;
  const T sign_;
  const RowKernels<T>& kernels_;
  const std::function<bool()>& interrupted_;
  std::vector<double> price_;
  std::vector<std::int64_t> col4row_, row4col_;
  std::vector<std::int64_t> unassigned_;
  std::int64_t entries_read_ = 0;
  bool stopped_ = false;
};

}  // namespace

template <typename T>
AssignmentStatus solve_assignment(MatrixView<T> cost, bool maximize, AssignmentResult result,
                                  const std::function<bool()>& interrupted) {
  const bool wide = cost.rows <= cost.cols;
  Solver<T> solver(wide ? cost : cost.transposed(), maximize, interrupted);
  const AssignmentStatus status = solver.solve();
  if (status != AssignmentStatus::optimal) return status;
  if (wide) {
    solver.write(maximize, result.col4row, nullptr, result.row_duals, result.col_duals);
  } else {
    solver.write(maximize, nullptr, result.col4row, result.col_duals, result.row_duals);
  }
  return status;
}

template AssignmentStatus solve_assignment(MatrixView<float>, bool, AssignmentResult,
                                           const std::function<bool()>&);
template AssignmentStatus solve_assignment(MatrixView<double>, bool, AssignmentResult,
                                           const std::function<bool()>&);

}  // namespace fastrebasin::cpu
