#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/parallel.hpp"

namespace fastrebasin::cpu {

// A dense matrix that somebody else owns. Strides are in elements and may be zero or negative.
template <typename T>
struct MatrixView {
  const T* data;
  std::int64_t rows, cols;
  std::ptrdiff_t row_stride, col_stride;

  MatrixView transposed() const { return {data, cols, rows, col_stride, row_stride}; }
};

enum class AssignmentStatus {
  optimal,
  invalid_entry,  // NaN, or an infinity that would be an infinitely good edge
  infeasible,     // forbidden edges leave no complete assignment
  interrupted,    // `interrupted` returned true
};

// Where the result goes; every array is the caller's. Null for what nobody wants to know.
struct AssignmentResult {
  std::int64_t* col4row;  // size rows: column given to each row, -1 for a row left over; not null
  double* row_costs;      // size rows: the cost of each row's pair, zero for a row left over
  double* row_duals;      // size rows
  double* col_duals;      // size cols
  double* gap;            // one number: how far the objective can be from the optimum
};

// The result of a similar problem of the same shape, to start from; null pointers for none. It
// may be of any problem at all: only speed suffers. Rectangular problems start cold.
struct WarmStart {
  const std::int64_t* col4row;
  const double* col_duals;
};

// Minimum-cost (or maximum, with `maximize`) assignment of min(rows, cols) pairs.
//
// An entry of +inf (-inf with `maximize`) forbids its edge. On `optimal`, and up to rounding,
// row_duals[i] + col_duals[j] <= cost(i, j) for all i, j (>= with `maximize`), with equality on
// the assigned pairs, and the duals of rows or columns left over are zero: a proof of optimality.
// The gap bounds the distance to the optimum: the slack of the assigned pairs at the column duals,
// by a pass over small matrices, and by bounds on the columns that no list holds for large ones. On
// any other status the contents of `result` are unspecified.
//
// `interrupted` is polled about every millisecond, on the caller's thread, and stops the solve when
// it returns true. Passes over a large matrix may use up to `threads` threads, the caller's
// among them; the result doesn't depend on how many. Meant for min(rows, cols) up to a few
// thousand: time grows with the cube in the worst case.
template <typename T>
AssignmentStatus solve_assignment(MatrixView<T> cost, bool maximize, WarmStart warm,
                                  AssignmentResult result, const Poll& interrupted,
                                  int threads = 1);

}  // namespace fastrebasin::cpu
