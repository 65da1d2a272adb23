#pragma once

#include <cstdint>
#include <vector>

#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// Completes a partial assignment by shortest augmenting paths over whole rows of the matrix, after
// two sweeps of augmenting row reduction. Meant for matrices of a few hundred rows, and for
// hard ones of any size on which candidate lists don't pay.
//
// `unassigned` are the rows to assign; returns false when one of them can't be (infeasible).
template <typename T>
bool complete_dense(Problem<T>& problem, std::vector<std::int64_t> unassigned);

}  // namespace fastrebasin::cpu
