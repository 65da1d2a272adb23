#pragma once

// How the work on assignments is cut, for launches of a group of stacks each.

#include <cstddef>
#include <cstdint>

#include "cuda/assignment.hpp"
#include "cuda/assignment/numbers.cuh"

namespace fastrebasin::cuda::assignment {

// Threads of a block that makes a pass, a warp for each row.
constexpr int pass_threads = 256;
constexpr int pass_rows = pass_threads / warp_lanes;
// Stacks in one launch: as many as its arguments have room for.
constexpr int most_stacks = 24;

// A stack of problems, and where its blocks begin in a launch of each kind.
struct Task {
  AssignmentStack stack;
  char* workspace;
  std::size_t problem_bytes;
  std::int64_t first_problem, first_row_block, first_column_block;
  int row_blocks, column_blocks;  // of each problem
};

struct Group {
  Task tasks[most_stacks];
  int count;
  bool maximize;
  std::int64_t problems, row_blocks, column_blocks;
  std::int64_t most_rows, most_cols;
};
static_assert(sizeof(Group) + 2 * sizeof(std::size_t) <= 4096,
              "the arguments of a launch have no more room");

// Solves a group's problems, whose costs are of one type.
template <typename T>
void run(const Group& group, int device, Stream stream);
template <>
void run<float>(const Group& group, int device, Stream stream);
template <>
void run<double>(const Group& group, int device, Stream stream);

}  // namespace fastrebasin::cuda::assignment
