#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

#include "check.hpp"
#include "cpu/assignment.hpp"

// Linear programming's own proof that an assignment is optimal; knows nothing of how it was found.

namespace fastrebasin::tests {

struct Answer {
  cpu::AssignmentStatus status;
  std::vector<std::int64_t> col4row;
  std::vector<double> row_costs, row_duals, col_duals;
  double gap;
};

inline bool never() { return false; }

// An answer that holds nonsense, so that what the solver leaves unwritten shows.
inline Answer unwritten(std::int64_t rows, std::int64_t cols) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> row_values(rows, nan);
  return {cpu::AssignmentStatus::interrupted,
          std::vector<std::int64_t>(rows, -99),
          row_values,
          row_values,
          std::vector<double>(cols, nan),
          nan};
}

inline cpu::AssignmentResult result_in(Answer& answer) {
  return {answer.col4row.data(), answer.row_costs.data(), answer.row_duals.data(),
          answer.col_duals.data(), &answer.gap};
}

template <typename T>
Answer solve(const cpu::MatrixView<T>& cost, bool maximize, const Answer* former = nullptr,
             const std::function<bool()>& interrupted = never) {
  Answer answer = unwritten(cost.rows, cost.cols);
  cpu::WarmStart warm{nullptr, nullptr};
  if (former) warm = {former->col4row.data(), former->col_duals.data()};
  answer.status = cpu::solve_assignment<T>(cost, maximize, warm, result_in(answer), interrupted);
  return answer;
}

template <typename T>
double cost_to_minimise(const cpu::MatrixView<T>& cost, bool maximize, std::int64_t i,
                        std::int64_t j) {
  const double entry = cost.data[i * cost.row_stride + j * cost.col_stride];
  return maximize ? -entry : entry;
}

// Whether the allowed edges hold a complete assignment: augmenting paths, one row after another.
template <typename T>
bool is_feasible(const cpu::MatrixView<T>& given, bool maximize) {
  const cpu::MatrixView<T> cost = given.rows <= given.cols ? given : given.transposed();
  std::vector<std::int64_t> row4col(cost.cols, -1), seen(cost.cols, -1);
  const std::function<bool(std::int64_t, std::int64_t)> augment = [&](std::int64_t i,
                                                                      std::int64_t start) {
    for (std::int64_t j = 0; j < cost.cols; ++j) {
      if (seen[j] == start || std::isinf(cost_to_minimise(cost, maximize, i, j))) continue;
      seen[j] = start;
      if (row4col[j] < 0 || augment(row4col[j], start)) {
        row4col[j] = i;
        return true;
      }
    }
    return false;
  };
  for (std::int64_t i = 0; i < cost.rows; ++i)
    if (!augment(i, i)) return false;
  return true;
}

// As many pairs as the shorter side has, and no column twice.
template <typename T>
void check_is_assignment(const cpu::MatrixView<T>& cost, const Answer& answer) {
  std::vector<bool> taken(cost.cols, false);
  std::int64_t pairs = 0;
  for (std::int64_t i = 0; i < cost.rows; ++i) {
    const std::int64_t j = answer.col4row[i];
    CHECK(j >= -1 && j < cost.cols);
    CHECK(answer.row_costs[i] ==
          (j < 0 ? 0.0 : cost.data[i * cost.row_stride + j * cost.col_stride]));
    if (j < 0) continue;
    CHECK(!taken[j]);
    taken[j] = true;
    ++pairs;
  }
  CHECK(pairs == std::min(cost.rows, cost.cols));
}

// Weak duality: no assignment can cost less than the duals' sum, which feasible duals with no slack
// on the assigned pairs reach.
template <typename T>
void check_duals(const cpu::MatrixView<T>& cost, bool maximize, const Answer& answer) {
  const double sign = maximize ? -1.0 : 1.0;
  double scale = 0.0, tightest = std::numeric_limits<double>::infinity(), loosest_pair = 0.0;
  for (std::int64_t i = 0; i < cost.rows; ++i)
    for (std::int64_t j = 0; j < cost.cols; ++j) {
      const double entry = cost_to_minimise(cost, maximize, i, j);
      const double slack = entry - sign * answer.row_duals[i] - sign * answer.col_duals[j];
      if (!std::isinf(entry)) scale = std::max(scale, std::abs(entry));
      CHECK(!std::isnan(slack));
      tightest = std::min(tightest, slack);
      if (answer.col4row[i] == j) loosest_pair = std::max(loosest_pair, std::abs(slack));
    }
  // Duals add up costs along paths of up to n edges; tiny beside them is rounding.
  const double rounding = 1e-13 * scale * double(cost.rows + cost.cols);
  CHECK(tightest >= -rounding);
  CHECK(loosest_pair <= rounding);
  CHECK(std::abs(answer.gap) <= rounding);

  std::vector<bool> taken(cost.cols, false);
  for (std::int64_t i = 0; i < cost.rows; ++i) {
    if (answer.col4row[i] >= 0) taken[answer.col4row[i]] = true;
    CHECK(answer.col4row[i] >= 0 || answer.row_duals[i] == 0.0);
    CHECK(cost.rows <= cost.cols || sign * answer.row_duals[i] <= rounding);
  }
  for (std::int64_t j = 0; j < cost.cols; ++j) {
    CHECK(taken[j] || answer.col_duals[j] == 0.0);
    CHECK(cost.rows >= cost.cols || sign * answer.col_duals[j] <= rounding);
  }
}

// The answer to a matrix of valid entries is right.
template <typename T>
void check_answer(const cpu::MatrixView<T>& cost, bool maximize, const Answer& answer) {
  if (answer.status == cpu::AssignmentStatus::infeasible) {
    CHECK(!is_feasible(cost, maximize));
    return;
  }
  CHECK(answer.status == cpu::AssignmentStatus::optimal);
  check_is_assignment(cost, answer);
  check_duals(cost, maximize, answer);
}

template <typename T>
double objective(const cpu::MatrixView<T>& cost, bool maximize, const Answer& answer) {
  double sum = 0.0;
  for (std::int64_t i = 0; i < cost.rows; ++i)
    if (answer.col4row[i] >= 0) sum += cost_to_minimise(cost, maximize, i, answer.col4row[i]);
  return sum;
}

}  // namespace fastrebasin::tests
