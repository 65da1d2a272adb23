#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// Columns that are equal on every row, treated as one column with room for several rows: they
// share one price, and no candidate list holds them, where they would crowd out all others.
template <typename T>
class EqualColumns {
 public:
  explicit EqualColumns(Problem<T>& problem) : problem_(problem), holds_(problem.cols(), 0) {}

  // Takes in more columns, equal to those inside. They get the common price.
  void add(const std::vector<std::int64_t>& cols) {
    if (cols.empty()) return;
    if (cols_.empty()) {
      cost_.resize(problem_.rows());
      for (std::int64_t i = 0; i < problem_.rows(); ++i)
        cost_[i] = static_cast<T>(problem_.cost(i, cols.front()));
    }
    cols_.insert(cols_.end(), cols.begin(), cols.end());
    for (const std::int64_t j : cols) holds_[j] = 1;
    set_price(price_);
  }

  void clear() {
    for (const std::int64_t j : cols_) holds_[j] = 0;
    cols_.clear();
  }

  bool empty() const { return cols_.empty(); }
  bool holds(std::int64_t j) const { return holds_[j] != 0; }
  const std::vector<std::int64_t>& cols() const { return cols_; }

  double price() const { return price_; }
  void set_price(double price) {
    price_ = price;
    for (const std::int64_t j : cols_) problem_.set_unlisted_price(j, price);
  }

  // Gives them one price again after a stage that took them for different columns. In an optimum
  // they differ by rounding only, and none is preferred to the one with the highest price.
  void level() {
    double highest = -infinity;
    for (const std::int64_t j : cols_) highest = std::max(highest, problem_.price(j));
    if (!empty()) set_price(highest);
  }

  // What any of the columns costs row i; +inf when there are none.
  double cost(std::int64_t i) const { return empty() ? infinity : double(cost_[i]); }
  double reduced_cost(std::int64_t i) const { return cost(i) - price_; }

  // A column that no row has, or `none`.
  std::int64_t find_free() const {
    const auto is_free = [&](std::int64_t j) { return problem_.row4col[j] == none; };
    const auto found = std::find_if(cols_.begin(), cols_.end(), is_free);
    return found == cols_.end() ? none : *found;
  }

 private:
  Problem<T>& problem_;
  std::vector<std::int64_t> cols_;
  std::vector<char> holds_;  // for each column of the problem: whether it is one of them
  std::vector<T> cost_;      // for each row, so that asking doesn't read the matrix
  double price_ = 0.0;
};

}  // namespace fastrebasin::cpu
