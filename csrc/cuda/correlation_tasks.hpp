#pragma once

// How the work on cross-moments is cut, for launches of a group of problems each.

#include <cstdint>
#include <vector>

#include "cuda/correlation.hpp"

namespace fastrebasin::cuda {

// Parts begin at multiples of so many observations.
constexpr int stretch = 128;
// Blocks of warps that one multiprocessor works on at once, whose registers they share.
constexpr int blocks_at_once(int tile) { return tile == 128 ? 2 : tile == 64 ? 3 : 4; }
// Problems in one launch: as many as its arguments have room for.
constexpr int most_tasks = 14;

// How products are made.
struct Manner {
  Precision precision;
  bool by_warpgroups;  // where that is faster
};

// Which tiles a product is cut into.
struct Cut {
  int x_units, y_units;
  bool by_warpgroups;
};

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
  Cut cut;
  Task tasks[most_tasks];
  int count;
  std::int64_t blocks;
  std::int64_t part_results_count;  // of the task with most of them in one part
};

inline std::int64_t quotient(std::int64_t dividend, std::int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

// The problems in groups that may all use the same workspace, one after the other. No group holds
// two problems with the same results.
std::vector<Group> groups_of(const std::vector<CrossMoments>& problems, Manner manner,
                             double* workspace);

std::size_t workspace_bytes(const std::vector<CrossMoments>& problems, Manner manner);

}  // namespace fastrebasin::cuda
