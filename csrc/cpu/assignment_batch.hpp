#pragma once

#include <cstdint>
#include <variant>
#include <vector>

#include "cpu/assignment.hpp"
#include "cpu/parallel.hpp"

namespace fastrebasin::cpu {

// One problem of a batch; sizes and dtypes may differ from problem to problem.
struct AssignmentTask {
  std::variant<MatrixView<float>, MatrixView<double>> cost;
  WarmStart warm;
  AssignmentResult result;
};

struct BatchOutcome {
  AssignmentStatus status;
  std::int64_t failed;  // the first problem without a solution, where the status speaks of one
};

// Solves every problem of a batch on at most `threads` threads, the caller's among them; each as
// solve_assignment does, so results don't depend on `threads`. Neither does the outcome: the
// problems before the first without a solution are always solved, those behind it are given up.
//
// `interrupted` is called on the caller's thread only.
BatchOutcome solve_assignments(const std::vector<AssignmentTask>& tasks, bool maximize, int threads,
                               const Poll& interrupted);

}  // namespace fastrebasin::cpu
