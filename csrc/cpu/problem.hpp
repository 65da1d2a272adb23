#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/aligned.hpp"
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
// assigned edges are tight, and once lists are made prices never rise. In a rectangular problem
// they start equal, so that a column which was never assigned keeps the highest price, as the
// optimum asks of columns left over.
template <typename T>
class Problem {
 public:
  // Requires cost.rows <= cost.cols. `interrupted` must outlive the problem.
  Problem(MatrixView<T> cost, bool maximize, const Poll& interrupted, int threads)
      : col4row(cost.rows, none),
        row4col(cost.cols, none),
        price_(cost.cols, 0.0),
        ceiling_(cost.cols, T(0)),
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
  double reduced_cost(std::int64_t i, std::int64_t j) const { return cost(i, j) - price_[j]; }

  double price(std::int64_t j) const { return price_[j]; }
  const LineVector<double>& prices() const { return price_; }
  void set_price(std::int64_t j, double value) {
    price_[j] = value;
    ceiling_[j] = rounded_up(value);
  }
  // Rounding may make a fall come out below zero, where a price stays as it is.
  void lower_price(std::int64_t j, double by) { set_price(j, price_[j] - std::max(0.0, by)); }
  // Prices a column that no list may hold: to the passes that look for candidates it costs +inf.
  void set_unlisted_price(std::int64_t j, double value) {
    price_[j] = value;
    ceiling_[j] = T(-infinity);
  }

  const T* row(std::int64_t i) const { return cost_.data + i * cost_.row_stride; }  // times sign()
  std::int64_t stride() const { return cost_.row_stride; }
  T sign() const { return sign_; }
  const T* ceiling() const { return ceiling_.data(); }  // the prices, rounded up to T
  const RowKernels<T>& kernels() const { return kernels_; }

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
    return kernels_.best_two(row(i), sign_, price_.data(), cols());
  }
  Closest relax(std::int64_t i, double offset, const double* open_price, double* distance,
                std::int64_t* predecessor) {
    count_reads(cols());
    return kernels_.relax(row(i), sign_, open_price, cols(), offset, i, distance, predecessor);
  }
  // The first column >= from that costs row i so much, or cols().
  std::int64_t find(std::int64_t i, double cost, std::int64_t from) const {
    return kernels_.find(row(i), cols(), sign_ * static_cast<T>(cost), from);
  }

  // Calls body(i) for every row i, or those given, on several threads where the matrix is large
  // enough to pay for them. A body writes only what belongs to its row, and makes no pass that
  // counts: the count belongs to the caller's thread. Throws Interrupted.
  template <typename Body>
  void for_each_row(const Body& body) {
    for_ranges(rows(), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) body(i);
    });
  }
  template <typename Body>
  void for_each(const std::vector<std::int64_t>& rows, const Body& body) {
    for_ranges(static_cast<std::int64_t>(rows.size()), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t k = begin; k < end; ++k) body(rows[k]);
    });
  }
  BestTwo best_two_uncounted(std::int64_t i) const {
    return kernels_.best_two(row(i), sign_, price_.data(), cols());
  }

  // Counts entries read, and polls every millisecond or so of reading. Throws Interrupted, so that
  // no stage goes on with what it has half done.
  void count_reads(std::int64_t entries) {
    entries_read_ += entries;
    if (entries_read_ < entries_per_poll) return;
    entries_read_ = 0;
    if (interrupted_()) throw Interrupted();
  }

  std::vector<std::int64_t> col4row, row4col;

 private:
  static constexpr std::int64_t entries_per_poll = std::int64_t{1} << 20;
  // Reading this many takes several times as long as starting a thread.
  static constexpr std::int64_t entries_per_task = std::int64_t{1} << 18;

  // The smallest T that is not below the price.
  static T rounded_up(double price) {
    const T nearest = static_cast<T>(price);
    return double(nearest) < price ? std::nextafter(nearest, std::numeric_limits<T>::max())
                                   : nearest;
  }

  // Calls body(begin, end) for ranges that make up 0 to count, in which each is one row's work.
  template <typename Body>
  void for_ranges(std::int64_t count, const Body& body) {
    const std::int64_t tasks = std::min(count, count * cols() / entries_per_task);
    if (tasks <= 1) return body(0, count);
    const bool all =
        parallel_for(tasks, threads_, interrupted_, [&](std::int64_t task, const Poll&) {
          body(task * count / tasks, (task + 1) * count / tasks);
        });
    if (!all) throw Interrupted();
  }

  // Copies the matrix so that rows are contiguous. Blocks keep both sides of a transposition in
  // the cache.
  void pack() {
    constexpr std::int64_t block = 64;
    packed_.reset(new T[cost_.rows * cost_.cols]);
    for_ranges(rows(), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i0 = begin; i0 < end; i0 += block)
        for (std::int64_t j0 = 0; j0 < cost_.cols; j0 += block)
          for (std::int64_t i = i0; i < end && i < i0 + block; ++i)
            for (std::int64_t j = j0; j < cost_.cols && j < j0 + block; ++j)
              packed_[i * cost_.cols + j] = row(i)[j * cost_.col_stride];
    });
    cost_ = {packed_.get(), cost_.rows, cost_.cols, cost_.cols, 1};
  }

  LineVector<double> price_;
  LineVector<T> ceiling_;
  MatrixView<T> cost_;
  std::unique_ptr<T[]> packed_;
  const T sign_;
  const RowKernels<T>& kernels_;
  const Poll& interrupted_;
  const int threads_;
  std::int64_t entries_read_ = 0;
};

}  // namespace fastrebasin::cpu
