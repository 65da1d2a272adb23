// Exact linear assignment on the device, of many problems of mixed sizes at once.
//
// The stages are those of csrc/cpu, made for a device: rows and columns that are dead are set
// aside, each row's cheapest columns are listed, an auction finds prices to start from, shortest
// augmenting paths complete the assignment, and a pass over the matrix proves it. Passes over the
// matrix have a warp for each row, and so the whole device; all between them is the work of one
// block for each problem, which has the prices in its shared memory.

#include <algorithm>

#include "cuda/assignment.hpp"
#include "cuda/assignment/group.cuh"
#include "cuda/assignment/problem.cuh"
#include "cuda/launch.cuh"

namespace fastrebasin::cuda {
namespace assignment {
namespace {

template <typename T>
std::size_t problem_bytes(const AssignmentStack& stack) {
  Room room(nullptr);
  Problem<T, Memory::global>(room, int(stack.rows), int(stack.cols));
  return room.taken();
}

std::size_t problem_bytes(const AssignmentStack& stack) {
  return stack.is_double ? problem_bytes<double>(stack) : problem_bytes<float>(stack);
}

std::int64_t quotient(std::int64_t dividend, std::int64_t divisor) {
  return (dividend + divisor - 1) / divisor;
}

// Adds a stack to a group, whose workspace begins at `free`; returns where it ends.
char* add(Group& group, const AssignmentStack& stack, char* free) {
  Task& task = group.tasks[group.count++];
  task.stack = stack;
  task.workspace = free;
  task.problem_bytes = problem_bytes(stack);
  task.row_blocks = int(quotient(stack.rows, pass_rows));
  task.column_blocks = int(quotient(stack.cols, warp_lanes));
  task.first_problem = group.problems;
  task.first_row_block = group.row_blocks;
  task.first_column_block = group.column_blocks;
  group.problems += stack.batch;
  group.row_blocks += stack.batch * task.row_blocks;
  group.column_blocks += stack.batch * task.column_blocks;
  group.most_rows = std::max(group.most_rows, stack.rows);
  group.most_cols = std::max(group.most_cols, stack.cols);
  return free + stack.batch * task.problem_bytes;
}

template <typename T>
void run_all(const std::vector<AssignmentStack>& stacks, bool maximize, char* workspace, int device,
             Stream stream) {
  Group group{};
  char* free = workspace;
  for (const AssignmentStack& stack : stacks) {
    if (stack.is_double != std::is_same_v<T, double> || stack.batch * stack.rows == 0) continue;
    group.maximize = maximize;
    free = add(group, stack, free);
    if (group.count < most_stacks) continue;
    run<T>(group, device, stream);
    group = Group{};
    free = workspace;
  }
  if (group.count > 0) run<T>(group, device, stream);
}

}  // namespace
}  // namespace assignment

std::size_t workspace_bytes(const std::vector<AssignmentStack>& stacks) {
  std::size_t bytes = 0;
  for (const AssignmentStack& stack : stacks)
    bytes += stack.batch * assignment::problem_bytes(stack);
  return bytes;
}

void solve_assignments(const std::vector<AssignmentStack>& stacks, bool maximize, void* workspace,
                       int device, Stream stream) {
  const OnDevice on(device);
  assignment::run_all<float>(stacks, maximize, static_cast<char*>(workspace), device, stream);
  assignment::run_all<double>(stacks, maximize, static_cast<char*>(workspace), device, stream);
}

}  // namespace fastrebasin::cuda
