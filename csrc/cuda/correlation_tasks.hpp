#pragma once

// How the work on cross-moments is cut, for launches of a group of problems each.

#include <cstdint>
#include <vector>

#include "cuda/correlation.hpp"

namespace fastrebasin::cuda {

// Observations whose products are summed in float32: few enough for their rounding, enough for the
// traffic of float64 sums to be a small part of all work.
constexpr int span = 1024;
// Parts begin at multiples of so many observations.
constexpr int stretch = 128;
// Blocks that one multiprocessor runs at once, whose registers they share.
constexpr int blocks_at_once(int tile) { return tile == 128 ? 2 : tile == 64 ? 3 : 5; }
// Problems in one launch: as many as its arguments have room for.
constexpr int most_tasks = 14;

// Which axis neighbouring threads read along, and whether they can read four values at a time.
struct Access {
  bool along_units, in_fours;
};

// One problem: a block of threads for each tile of each part of its observations.
struct Task {
  CrossMoments problem;
  Access x_access, y_access;
  bool symmetric;  // x with itself: tiles below the diagonal are mirrored
  int part_observations;
  std::int64_t observations;
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
// workspace, one after the other. No group holds two problems with the same results.
std::vector<Group> groups_of(const std::vector<CrossMoments>& problems, int tile,
                             double* workspace);

}  // namespace fastrebasin::cuda
