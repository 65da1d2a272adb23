#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/assignment.hpp"
#include "cpu/kernels/row_kernels.hpp"
#include "cpu/parallel.hpp"

namespace fastrebasin::cpu {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t none = -1;

// What leaves the stages when `interrupted` returned true; solve_assignment catches it.
struct Interrupted {};

// An assignment problem on its way to a solution: costs to minimise, with rows <= cols and
// contiguous rows; prices; and a partial assignment. What every stage of the solver works on.
//
// Legend: price[j] = dual of column j; reduced cost of (i, j) = cost(i, j) - price[j]; an edge is
// tight when no edge of its row has a smaller reduced cost. Every stage keeps two invariants: all
// assigned edges are tight, and prices never rise. Prices start equal, so a column that was never
// assigned keeps the highest price, as a rectangular optimum asks of columns left over.
template <typename T>
class Problem {
 public:
  // Requires cost.rows <= cost.cols. `interrupted` must outlive the problem.
  Problem(MatrixView<T> cost, bool maximize, const Poll& interrupted, int threads)
      : price(cost.cols, 0.0),
        col4row(cost.rows, none),
        row4col(cost.cols, none),
        cost_(cost),
        sign_(maximize ? T(-1) : T(1)),
        kernels_(row_kernels<T>()),
        interrupted_(interrupted),
        threads_(threads) {
    if (cost.col_stride != 1) pack();
  }

  std::int64_t rows() const { return cost_.rows; }
  std::int64_t cols() const { return cost_.cols; }

  double cost(std::int64_t i, std::int64_t j) const { return double(sign_ * row(i)[j]); }
  double reduced_cost(std::int64_t i, std::int64_t j) const { return cost(i, j) - price[j]; }

  void assign(std::int64_t i, std::int64_t j) {
    col4row[i] = j;
    row4col[j] = i;
  }

  void clear_assignment() {
    std::fill(col4row.begin(), col4row.end(), none);
    std::fill(row4col.begin(), row4col.end(), none);
  }

  // Passes along row i. Each counts towards the next poll for an interrupt.
  RowRange range(std::int64_t i) {
    count_reads(cols());
    return kernels_.range(row(i), sign_, cols());
  }
  BestTwo best_two(std::int64_t i) {
    count_reads(cols());
    return kernels_.best_two(row(i), sign_, price.data(), cols());
  }
  double relax(std::int64_t i, double offset, const double* open_price, double* distance,
               std::int64_t* predecessor) {
    count_reads(cols());
    return kernels_.relax(row(i), sign_, open_price, cols(), offset, i, distance, predecessor);
  }
  bool group_minima(std::int64_t i, double* minima) {
    count_reads(cols());
    return kernels_.group_minima(row(i), sign_, price.data(), cols(), minima);
  }
  Collected collect(std::int64_t i, double threshold, std::int64_t start, std::int64_t capacity,
                    std::int32_t* columns, double* reduced) {
    count_reads(cols());
    return kernels_.collect(row(i), sign_, price.data(), cols(), threshold, start, capacity,
                            columns, reduced);
  }
  std::int64_t find(const std::vector<double>& values, double wanted, std::int64_t from) const {
    return kernels_.find(values.data(), static_cast<std::int64_t>(values.size()), wanted, from);
  }

  // Calls body(i) for every row, on several threads where the matrix is large enough to pay for
  // them. A body writes only what belongs to its row, and makes no pass that counts: the count
  // belongs to the caller's thread. Throws Interrupted.
  template <typename Body>
  void for_each_row(const Body& body) {
    for_row_ranges([&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) body(i);
    });
  }
  BestTwo best_two_uncounted(std::int64_t i) const {
    return kernels_.best_two(row(i), sign_, price.data(), cols());
  }

  // Counts entries read, and polls every millisecond or so of reading. Throws Interrupted, so that
  // no stage goes on with what it has half done.
  void count_reads(std::int64_t entries) {
    entries_read_ += entries;
    if (entries_read_ < entries_per_poll) return;
    entries_read_ = 0;
    stopped_ = interrupted_();
    if (stopped_) throw Interrupted();
  }
  bool stopped() const { return stopped_; }

  std::vector<double> price;
  std::vector<std::int64_t> col4row, row4col;

 private:
  static constexpr std::int64_t entries_per_poll = std::int64_t{1} << 20;
  // Reading this many takes several times as long as starting a thread.
  static constexpr std::int64_t entries_per_task = std::int64_t{1} << 18;

  const T* row(std::int64_t i) const { return cost_.data + i * cost_.row_stride; }

  // Calls body(begin, end) for ranges of rows that make up all of them; see for_each_row.
  template <typename Body>
  void for_row_ranges(const Body& body) {
    const std::int64_t rows_each = std::max<std::int64_t>(1, entries_per_task / (cols() + 1));
    if (rows() <= rows_each) return body(0, rows());
    const std::int64_t tasks = (rows() + rows_each - 1) / rows_each;
    const bool all =
        parallel_for(tasks, threads_, interrupted_, [&](std::int64_t task, const Poll&) {
          body(task * rows_each, std::min(rows(), (task + 1) * rows_each));
        });
    if (!all) throw Interrupted();
  }

  // Copies the matrix so that rows are contiguous. Blocks keep both sides of a transposition in
  // the cache.
  void pack() {
    constexpr std::int64_t block = 64;
    packed_.reset(new T[cost_.rows * cost_.cols]);
    for_row_ranges([&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i0 = begin; i0 < end; i0 += block)
        for (std::int64_t j0 = 0; j0 < cost_.cols; j0 += block)
          for (std::int64_t i = i0; i < end && i < i0 + block; ++i)
            for (std::int64_t j = j0; j < cost_.cols && j < j0 + block; ++j)
              packed_[i * cost_.cols + j] = row(i)[j * cost_.col_stride];
    });
    cost_ = {packed_.get(), cost_.rows, cost_.cols, cost_.cols, 1};
  }

  MatrixView<T> cost_;
  std::unique_ptr<T[]> packed_;
  const T sign_;
  const RowKernels<T>& kernels_;
  const Poll& interrupted_;
  const int threads_;
  std::int64_t entries_read_ = 0;
  bool stopped_ = false;
};

}  // namespace fastrebasin::cpu
