// Exact linear assignment: the door to the stages that solve it.
//
// Rectangular problems as in D. F. Crouse, "On implementing 2D rectangular assignment algorithms",
// IEEE Trans. Aerospace and Electronic Systems 52, 1679-1696 (2016), doi:10.1109/TAES.2016.140952:
// the shorter side is assigned, and columns left over keep the highest price.

#include "cpu/assignment.hpp"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <vector>

#include "cpu/auction.hpp"
#include "cpu/candidate_lists.hpp"
#include "cpu/dead_units.hpp"
#include "cpu/dense_paths.hpp"
#include "cpu/problem.hpp"
#include "cpu/sparse_paths.hpp"
#include "cpu/warm_start.hpp"

namespace fastrebasin::cpu {
namespace {

// Checks every entry and gives each row its cheapest column if that is still free: the first free
// one of several equal columns, so that constant costs give the identity. The rows that found
// theirs taken go to `unassigned`.
template <typename T>
AssignmentStatus assign_row_minima(Problem<T>& problem, std::vector<std::int64_t>& unassigned) {
  bool feasible = true;
  for (std::int64_t i = 0; i < problem.rows(); ++i) {
    const RowRange range = problem.range(i);
    if (!range.valid) return AssignmentStatus::invalid_entry;
    feasible &= range.lowest < infinity;  // reported once all entries are checked
    std::int64_t j = problem.find(i, range.lowest, 0);
    while (j < problem.cols() && problem.row4col[j] != none)
      j = problem.find(i, range.lowest, j + 1);
    if (j < problem.cols()) {
      problem.assign(i, j);
    } else {
      unassigned.push_back(i);
    }
  }
  return feasible ? AssignmentStatus::optimal : AssignmentStatus::infeasible;
}

// The rows 0..count-1 that aren't in `others`, which ascend.
std::vector<std::int64_t> rows_but(std::int64_t count, const std::vector<std::int64_t>& others) {
  std::vector<std::int64_t> all(count), rows;
  std::iota(all.begin(), all.end(), 0);
  std::set_difference(all.begin(), all.end(), others.begin(), others.end(),
                      std::back_inserter(rows));
  return rows;
}

// By how much the assignment can miss the optimum: the slack of its edges at the prices. Summed in
// the order of the rows, however many threads find the slacks.
template <typename T>
double certified_gap(Problem<T>& problem) {
  std::vector<double> slack(problem.rows());
  problem.for_each_row([&](std::int64_t i) {
    slack[i] = problem.reduced_cost(i, problem.col4row[i]) - problem.best_two_uncounted(i).best;
  });
  return std::accumulate(slack.begin(), slack.end(), 0.0);
}

// The same without reading the matrix again: lists know the best edge of a row, or a bound on it.
template <typename T>
double certified_gap(const Problem<T>& problem, CandidateLists<T>& lists,
                     const EqualColumns<T>& equal, const std::vector<std::int64_t>& rows,
                     const DeadUnits& dead) {
  double gap = 0.0;
  for (const std::int64_t i : rows) {
    const double reduced = lists.reduced_cost(i, problem.col4row[i]);
    if (reduced > std::min(lists.floor(i), equal.reduced_cost(i))) gap += reduced - lists.best(i);
  }
  const double highest = *std::max_element(problem.prices().begin(), problem.prices().end());
  for (const std::int64_t i : dead.rows) gap += highest - problem.price(problem.col4row[i]);
  return gap;
}

// Few rows and many columns: lists of candidates would take longer to make than to do without.
template <typename T>
AssignmentStatus solve_wide(Problem<T>& problem, double* gap) {
  std::vector<std::int64_t> unassigned;
  const AssignmentStatus status = assign_row_minima(problem, unassigned);
  if (status != AssignmentStatus::optimal) return status;
  if (!complete_dense(problem, unassigned)) return AssignmentStatus::infeasible;
  if (gap) *gap = certified_gap(problem);
  return AssignmentStatus::optimal;
}

enum class Listing : char { complete, invalid_entry, not_dead };

// Lists the candidates of `rows`, but for those that stay with their columns of `warm`; reports if
// an entry is invalid, or if columns taken for dead turn out not to be.
template <typename T>
Listing list_candidates(Problem<T>& problem, CandidateLists<T>& lists, const DeadUnits& dead,
                        const std::vector<std::int64_t>& rows, const WarmStart* warm) {
  const auto stays = [&](std::int64_t i) {
    const std::int64_t j = warm ? warm->col4row[i] : none;
    return j >= 0 && j < problem.cols() && lists.keep(i, j);
  };
  std::vector<Listing> listed(problem.rows(), Listing::complete);
  problem.for_each(rows, [&](std::int64_t i) {
    if (!stays(i) && !lists.list(i, std::min(i + 1, problem.rows() - 1))) {
      listed[i] = Listing::invalid_entry;
    } else if (!dead_columns_agree(problem, dead, i)) {  // now that the row is in the cache
      listed[i] = Listing::not_dead;
    }
  });
  return *std::max_element(listed.begin(), listed.end());
}

// Assigns what needs no search. When that leaves many rows, because they want the same columns,
// better prices to start from are worth an auction. After a warm start rows are many because they
// all moved a little, which the row reduction mends at less cost.
template <typename T>
std::vector<std::int64_t> begin_assignment(Problem<T>& problem, CandidateLists<T>& lists,
                                           EqualColumns<T>& equal,
                                           const std::vector<std::int64_t>& rows,
                                           const WarmStart* warm) {
  const auto is_tight = [&](std::int64_t i, std::int64_t j) {
    return lists.reduced_cost(i, j) <= std::min(lists.floor(i), equal.reduced_cost(i));
  };
  const std::vector<std::int64_t> left =
      warm ? assign_tight_pairs(problem, *warm, rows, is_tight) : rows;
  const std::vector<std::int64_t> unassigned = assign_free_bests(problem, lists, left);
  const std::size_t few = warm ? rows.size() / 2 : rows.size() / 10;
  if (problem.rows() != problem.cols() || unassigned.size() <= few) return unassigned;
  // Where costs are tied, as integers are, an auction's steps only blur what is equal.
  const auto is_tied = [&](std::int64_t i) {
    const BestTwo choice = lists.choose(i);
    return choice.second == choice.best;
  };
  const auto tied = std::count_if(unassigned.begin(), unassigned.end(), is_tied);
  if (2 * static_cast<std::size_t>(tied) > unassigned.size()) return unassigned;
  auction_prices(problem, lists, equal, rows);
  return assign_free_bests(problem, lists, rows);
}

template <typename T>
AssignmentStatus solve_sparse(Problem<T>& problem, const WarmStart* warm, double* gap) {
  const bool square = problem.rows() == problem.cols();
  DeadUnits dead = square ? find_dead_units(problem) : DeadUnits{};
  const LineVector<double> prices = problem.prices();
  set_aside(problem, dead);
  EqualColumns<T> equal(problem);
  equal.add(dead.spare_cols);
  CandidateLists<T> lists(problem, equal);
  std::vector<std::int64_t> rows = rows_but(problem.rows(), dead.rows);
  Listing listing = list_candidates(problem, lists, dead, rows, warm);
  if (listing == Listing::not_dead) {
    for (std::int64_t j = 0; j < problem.cols(); ++j) problem.set_price(j, prices[j]);
    dead = {};
    equal.clear();
    rows = rows_but(problem.rows(), {});
    listing = list_candidates(problem, lists, dead, rows, warm);
  }
  if (listing == Listing::invalid_entry) return AssignmentStatus::invalid_entry;
  price_spares(equal, lists, rows);
  const bool complete = complete_sparse(problem, lists, equal, dead,
                                        begin_assignment(problem, lists, equal, rows, warm)) &&
                        bring_back(problem, lists, equal, dead);
  if (!complete) return AssignmentStatus::infeasible;
  if (gap) *gap = certified_gap(problem, lists, equal, rows, dead);
  return AssignmentStatus::optimal;
}

// `warm` is null for a cold start. Nothing is polled: the hardest takes tens of milliseconds.
template <typename T>
AssignmentStatus solve_small(Problem<T>& problem, const WarmStart* warm, double* gap) {
  LineVector<double> price = problem.prices();
  LineVector<T> workspace(problem.rows() * small_stride(problem.cols()));
  const SmallOutcome outcome = problem.kernels().solve_small(
      {problem.row(0), problem.rows(), problem.cols(), problem.stride(), problem.sign(),
       workspace.data(), warm ? warm->col4row : nullptr, price.data(), problem.col4row.data(),
       problem.row4col.data()});
  if (outcome == SmallOutcome::invalid_entry) return AssignmentStatus::invalid_entry;
  if (outcome == SmallOutcome::infeasible) return AssignmentStatus::infeasible;
  for (std::int64_t j = 0; j < problem.cols(); ++j) problem.set_price(j, price[j]);
  if (gap) *gap = certified_gap(problem);
  return AssignmentStatus::optimal;
}

template <typename T>
AssignmentStatus solve(Problem<T>& problem, const WarmStart* warm, double* gap) {
  // Of a wide matrix, most rows get what they like best: copying it would take longer than that.
  const std::int64_t not_wide = std::max<std::int64_t>(64, 2 * problem.rows());
  if (problem.cols() <= std::min(largest_small, not_wide)) return solve_small(problem, warm, gap);
  return problem.rows() <= largest_small ? solve_wide(problem, gap)
                                         : solve_sparse(problem, warm, gap);
}

// Duals of the problem as it was given: with `maximize`, those of the negated costs change sign.
template <typename T>
void write_duals(const Problem<T>& problem, bool maximize, double* row_duals, double* col_duals) {
  const double sign = maximize ? -1.0 : 1.0;
  for (std::int64_t i = 0; row_duals && i < problem.rows(); ++i)
    row_duals[i] = sign * problem.reduced_cost(i, problem.col4row[i]);
  for (std::int64_t j = 0; col_duals && j < problem.cols(); ++j)
    col_duals[j] = sign * problem.price(j);
}

template <typename T>
void write_row_costs(const MatrixView<T>& cost, const std::int64_t* col4row, double* row_costs) {
  const auto entry = [&](std::int64_t i, std::int64_t j) {
    return double(cost.data[i * cost.row_stride + j * cost.col_stride]);
  };
  for (std::int64_t i = 0; row_costs && i < cost.rows; ++i)
    row_costs[i] = col4row[i] == none ? 0.0 : entry(i, col4row[i]);
}

// Solves the problem and writes the result.
template <typename T>
AssignmentStatus solve_and_write(MatrixView<T> cost, bool maximize, const WarmStart& warm,
                                 const AssignmentResult& result, const Poll& interrupted,
                                 int threads) {
  const bool wide = cost.rows <= cost.cols;
  Problem<T> problem(wide ? cost : cost.transposed(), maximize, interrupted, threads);
  const bool is_warm = take_prices(problem, warm, maximize);
  const AssignmentStatus status = solve(problem, is_warm ? &warm : nullptr, result.gap);
  if (status != AssignmentStatus::optimal) return status;
  const std::vector<std::int64_t>& col4row = wide ? problem.col4row : problem.row4col;
  std::copy(col4row.begin(), col4row.end(), result.col4row);
  write_row_costs(cost, result.col4row, result.row_costs);
  if (wide) {
    write_duals(problem, maximize, result.row_duals, result.col_duals);
  } else {
    write_duals(problem, maximize, result.col_duals, result.row_duals);
  }
  return status;
}

}  // namespace

template <typename T>
AssignmentStatus solve_assignment(MatrixView<T> cost, bool maximize, WarmStart warm,
                                  AssignmentResult result, const Poll& interrupted, int threads) {
  try {
    return solve_and_write(cost, maximize, warm, result, interrupted, threads);
  } catch (const Interrupted&) {
    return AssignmentStatus::interrupted;
  }
}

template AssignmentStatus solve_assignment(MatrixView<float>, bool, WarmStart, AssignmentResult,
                                           const Poll&, int);
template AssignmentStatus solve_assignment(MatrixView<double>, bool, WarmStart, AssignmentResult,
                                           const Poll&, int);

}  // namespace fastrebasin::cpu
