#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "cpu/assignment.hpp"
#include "cpu/kernels/row_kernels.hpp"

namespace fastrebasin::cpu {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr std::int64_t none = -1;

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
  Problem(MatrixView<T> cost, bool maximize, const std::function<bool()>& interrupted)
      : col4row(cost.rows, none),
        row4col(cost.cols, none),
        price_(cost.cols, 0.0),
        ceiling_(cost.cols, T(0)),
        cost_(cost),
        sign_(maximize ? T(-1) : T(1)),
        kernels_(row_kernels<T>()),
        interrupted_(interrupted) {
    if (cost.col_stride != 1) pack();
  }

  std::int64_t rows() const { return cost_.rows; }
  std::int64_t cols() const { return cost_.cols; }

  double cost(std::int64_t i, std::int64_t j) const { return double(sign_ * row(i)[j]); }
  double reduced_cost(std::int64_t i, std::int64_t j) const { return cost(i, j) - price_[j]; }

  double price(std::int64_t j) const { return price_[j]; }
  const std::vector<double>& prices() const { return price_; }
  void set_price(std::int64_t j, double value) {
    price_[j] = value;
    ceiling_[j] = rounded_up(value);
  }
  // Prices a column that no list may hold: to the passes that look for candidates it costs +inf.
  void set_unlisted_price(std::int64_t j, double value) {
    price_[j] = value;
    ceiling_[j] = T(-infinity);
  }

  const T* row(std::int64_t i) const { return cost_.data + i * cost_.row_stride; }  // times sign()
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
  double relax(std::int64_t i, double offset, const double* open_price, double* distance,
               std::int64_t* predecessor) {
    count_reads(cols());
    return kernels_.relax(row(i), sign_, open_price, cols(), offset, i, distance, predecessor);
  }
  std::int64_t find(const std::vector<double>& values, double wanted, std::int64_t from) const {
    return kernels_.find(values.data(), static_cast<std::int64_t>(values.size()), wanted, from);
  }

  // Counts entries read, and polls every ten milliseconds or so of reading.
  void count_reads(std::int64_t entries) {
    entries_read_ += entries;
    if (entries_read_ < entries_per_poll) return;
    entries_read_ = 0;
    stopped_ = stopped_ || interrupted_();
  }
  bool stopped() const { return stopped_; }

  std::vector<std::int64_t> col4row, row4col;

 private:
  static constexpr std::int64_t entries_per_poll = std::int64_t{1} << 24;

  // The smallest T that is not below the price.
  static T rounded_up(double price) {
    const T nearest = static_cast<T>(price);
    return double(nearest) < price ? std::nextafter(nearest, std::numeric_limits<T>::max())
                                   : nearest;
  }

  // Copies the matrix so that rows are contiguous. Blocks keep both sides of a transposition in
  // the cache.
  void pack() {
    constexpr std::int64_t block = 64;
    packed_.resize(cost_.rows * cost_.cols);
    for (std::int64_t i0 = 0; i0 < cost_.rows; i0 += block)
      for (std::int64_t j0 = 0; j0 < cost_.cols; j0 += block)
        for (std::int64_t i = i0; i < cost_.rows && i < i0 + block; ++i)
          for (std::int64_t j = j0; j < cost_.cols && j < j0 + block; ++j)
            packed_[i * cost_.cols + j] = row(i)[j * cost_.col_stride];
    cost_ = {packed_.data(), cost_.rows, cost_.cols, cost_.cols, 1};
  }

  std::vector<double> price_;
  std::vector<T> ceiling_;
  MatrixView<T> cost_;
  std::vector<T> packed_;
  const T sign_;
  const RowKernels<T>& kernels_;
  const std::function<bool()>& interrupted_;
  std::int64_t entries_read_ = 0;
  bool stopped_ = false;
};

}  // namespace fastrebasin::cpu
