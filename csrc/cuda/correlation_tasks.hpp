#pragma once

// How the work on cross-moments is cut, for launches of a group of problems each.

#include <cstdint>
#include <vector>

#include "cuda/correlation.hpp"

namespace fastrebasin::cuda {

// Observations whose products are summed in float32: few enough for their rounding, enough for the
// traffic of float64 sums to be a small part of all work.
constexpr int span = 256;
// Problems in one launch: as many as its arguments have room for.
constexpr int most_tasks = 15;

// One problem: a block of threads for each tile of each part of its observations.
struct Task {
  CrossMoments problem;
  std::int64_t observations;
  std::int64_t part_spans;  // spans in a part
  std::int64_t tile_columns, tiles, parts;
  std::int64_t first_block;
  std::int64_t result_count;  // of numbers in its results, or a part's, one after the other
  double* part_results;       // null for a single part, which adds to the problem's results
};

struct Group {
  Task tasks[most_tasks];
  int count;
  std::int64_t blocks;
  std::int64_t part_results_count;  // of the task with most of them in one part
};

inline std::int64_t quotient(std::int64_t dividend, std::int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

// The problems for which tiles of this many units are best, in groups that may all use the same
// workspace, one after the other.
std::vector<Group> groups_of(const std::vector<CrossMoments>& problems, int tile,
                             double* workspace);

}  // namespace fastrebasin::cuda
