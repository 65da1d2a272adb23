#pragma once

#include <cstdint>

#include "cpu/problem.hpp"

namespace fastrebasin::cpu {

// Up to this many columns, the passes of the larger stages take longer to set up than to run.
constexpr std::int64_t largest_small = 16;

// Solves a problem of at most `largest_small` columns from equal prices: each row takes its
// cheapest column if that is free, and a shortest augmenting path otherwise. No memory is
// allocated, and nothing is polled.
template <typename T>
AssignmentStatus solve_small(Problem<T>& problem);

}  // namespace fastrebasin::cpu
