#pragma once

// The launches that solve a group of problems, and their kernels. Costs of each type have a file of
// their own, as compilers take long over it.

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdint>

#include "cuda/assignment/group.cuh"
#include "cuda/assignment/solver.cuh"
#include "cuda/assignment/stages.cuh"
#include "cuda/launch.cuh"

namespace fastrebasin::cuda::assignment {
namespace {

template <typename T, Memory memory = Memory::global>
__device__ Problem<T, memory> problem_of(const Task& task, std::int64_t index, bool maximize) {
  const AssignmentStack& stack = task.stack;
  Room room(task.workspace + index * task.problem_bytes);
  Problem<T, memory> problem(room, int(stack.rows), int(stack.cols));
  problem.costs = static_cast<const T*>(stack.costs) + index * stack.batch_stride;
  problem.row_stride = stack.row_stride;
  problem.sign = maximize ? T(-1) : T(1);
  constexpr std::size_t together = sizeof(typename Pack<T>::Vector);
  problem.aligned = reinterpret_cast<std::uintptr_t>(problem.costs.raw()) % together == 0 &&
                    stack.row_stride % Pack<T>::width == 0;
  return problem;
}

// The task of a block, by where the blocks of each begin.
__device__ const Task& task_of(const Group& group, std::int64_t Task::* first, std::int64_t block) {
  int number = 0;
  while (number + 1 < group.count && group.tasks[number + 1].*first <= block) ++number;
  return group.tasks[number];
}

__device__ bool is_solvable(const State& state) { return !state.invalid && !state.infeasible; }

// Calls visit(problem, stack, index in the stack) for the problem of each block.
template <typename T, typename Visit>
__device__ void visit_problem(const Group& group, Visit visit) {
  const Task& task = task_of(group, &Task::first_problem, blockIdx.x);
  const std::int64_t index = blockIdx.x - task.first_problem;
  visit(problem_of<T>(task, index, group.maximize), task.stack, index);
}

__device__ Former former_of(const AssignmentStack& stack, std::int64_t index) {
  if (!stack.warm_col4row) return {nullptr, nullptr};
  return {stack.warm_col4row + index * stack.rows, stack.warm_col_duals + index * stack.cols};
}

template <typename T>
__global__ void __launch_bounds__(pass_threads) start_all(const __grid_constant__ Group group) {
  visit_problem<T>(group,
                   [](const GlobalProblem<T>& problem, const AssignmentStack& stack, auto index) {
                     start(problem, former_of(stack, index), shared_memory<double[most_warps]>());
                   });
}

// Calls visit(problem, row) for the row of each warp.
template <typename T, typename Visit>
__device__ void visit_rows(const Group& group, Visit visit) {
  const Task& task = task_of(group, &Task::first_row_block, blockIdx.x);
  const std::int64_t block = blockIdx.x - task.first_row_block;
  const int row = int(block % task.row_blocks) * pass_rows + threadIdx.x / warp_lanes;
  if (row >= task.stack.rows) return;
  visit(problem_of<T>(task, block / task.row_blocks, group.maximize), row);
}

template <typename T>
__global__ void __launch_bounds__(pass_threads) inspect_rows(const __grid_constant__ Group group) {
  visit_rows<T>(group, [](const GlobalProblem<T>& problem, int row) { inspect(problem, row); });
}

template <typename T>
__global__ void __launch_bounds__(most_threads)
    find_all_dead_columns(const __grid_constant__ Group group) {
  const Task& task = task_of(group, &Task::first_column_block, blockIdx.x);
  const std::int64_t block = blockIdx.x - task.first_column_block;
  find_dead_columns(problem_of<T>(task, block / task.column_blocks, group.maximize),
                    int(block % task.column_blocks) * warp_lanes, shared_memory<int[warp_lanes]>());
}

template <typename T>
__global__ void __launch_bounds__(pass_threads)
    set_aside_all_dead_columns(const __grid_constant__ Group group) {
  visit_problem<T>(group,
                   [](const GlobalProblem<T>& problem, const AssignmentStack& stack, auto index) {
                     set_aside_dead_columns(problem, shared_memory<double[most_warps]>());
                     __syncthreads();
                     take_pairs(problem, former_of(stack, index));
                   });
}

// Before each step; prices to start from haven't changed since the first one.
template <typename T>
__global__ void __launch_bounds__(pass_threads)
    list_rows(const __grid_constant__ Group group, int step) {
  visit_rows<T>(group, [step](const GlobalProblem<T>& problem, int row) {
    const State& state = *problem.state;
    if (!is_solvable(state) || problem.is_dead_row(row) || (step > 0 && state.warm)) return;
    list_row(problem, row);
  });
}

template <Memory from_memory, Memory to_memory>
__device__ void copy_assignment(const Working<from_memory>& from, const Working<to_memory>& to,
                                int rows, int cols) {
  for_each_thread(cols + 1, [&](int j) {
    to.price[j] = from.price[j];
    to.holder[j] = from.holder[j];
  });
  for_each_thread(rows, [&](int row) { to.partner[row] = from.partner[row]; });
}

// Calls body(block) by the block of each problem, with as much of what it works on in shared memory
// as there is room for: all of it, where `memory` says so. Nothing is done for those that start
// from a former result, unless `warm_too`.
template <typename T, Memory memory, typename Body>
__device__ void solve_problem(const Group& group, std::size_t shared_bytes, bool warm_too,
                              Body body) {
  Block<T, memory>& block = shared_memory<Block<T, memory>>();
  const Task& task = task_of(group, &Task::first_problem, blockIdx.x);
  const std::int64_t index = blockIdx.x - task.first_problem;
  const Problem<T, Memory::global> stored = problem_of<T>(task, index, group.maximize);
  if (!is_solvable(*stored.state) || (stored.state->warm && !warm_too)) return;
  const int rows = stored.rows, cols = stored.cols;
  if (threadIdx.x == 0) {
    Problem<T, memory>& problem = block.problem;
    problem = problem_of<T, memory>(task, index, group.maximize);
    Room room(reinterpret_cast<char*>(&block + 1));
    problem.columns.move(room, shared_bytes - sizeof(block), rows, cols);
    problem.state = &block.state;
    block.state = *stored.state;
    block.stale = block.dead_out = block.dead_left = block.search = 0;
  }
  __syncthreads();
  const Working<memory>& columns = block.problem.columns;
  copy_assignment(stored.columns, columns, rows, cols);
  __syncthreads();
  body(block);
  __syncthreads();
  copy_assignment(columns, stored.columns, rows, cols);
  if (threadIdx.x == 0) *stored.state = block.state;
}

// A block for each problem. Meant for hundreds of rows to some ten thousand. Without the bound of
// one block to a multiprocessor, compilers save registers for a second one in some of these
// kernels.
template <typename T, Memory memory>
__global__ void __launch_bounds__(most_threads, 1)
    bid_all(const __grid_constant__ Group group, int step, std::size_t shared_bytes) {
  solve_problem<T, memory>(group, shared_bytes, step == 0,
                           [step](auto& block) { Solver<T, memory>(block).bid(step); });
}

template <typename T, Memory memory>
__global__ void __launch_bounds__(most_threads, 1)
    finish_all(const __grid_constant__ Group group, std::size_t shared_bytes) {
  solve_problem<T, memory>(group, shared_bytes, true,
                           [](auto& block) { Solver<T, memory>(block).finish(); });
}

template <typename T>
__global__ void __launch_bounds__(pass_threads) certify_rows(const __grid_constant__ Group group) {
  visit_rows<T>(group, [](const GlobalProblem<T>& problem, int row) {
    if (is_solvable(*problem.state)) certify(problem, row);
  });
}

template <typename T>
__global__ void __launch_bounds__(pass_threads) report_all(const __grid_constant__ Group group) {
  visit_problem<T>(
      group, [](const GlobalProblem<T>& problem, const AssignmentStack& stack, auto index) {
        const Found found{stack.col4row + index * stack.rows, stack.row_duals + index * stack.rows,
                          stack.col_duals + index * stack.cols, stack.gap + index,
                          stack.status + index};
        report(problem, found, shared_memory<double[most_warps]>());
      });
}

// As many threads as there are rows, or words of bits for columns, in a power of two.
unsigned threads_for(std::int64_t rows, std::int64_t cols) {
  unsigned threads = 64;
  while (threads < most_threads && threads < std::max(rows, cols / bits_of_word)) threads *= 2;
  return threads;
}

// Lists the rows before each step, then takes it.
template <typename T, Memory memory>
void solve_group(const Group& group, std::size_t shared, std::size_t most, Stream stream) {
  const auto problems = unsigned(group.problems), rows = unsigned(group.row_blocks);
  const unsigned threads = threads_for(group.most_rows, group.most_cols);
  allow_shared_memory(bid_all<T, memory>, most);  // always the same, as threads may call at once
  allow_shared_memory(finish_all<T, memory>, most);
  for (int step = 0; step < usual_phases; ++step) {
    launch(list_rows<T>, rows, pass_threads, 0, stream, group, step);
    launch(bid_all<T, memory>, problems, threads, shared, stream, group, step, shared);
  }
  launch(list_rows<T>, rows, pass_threads, 0, stream, group, usual_phases);
  launch(finish_all<T, memory>, problems, threads, shared, stream, group, shared);
}

template <typename T>
void run_kernels(const Group& group, int device, Stream stream) {
  constexpr std::size_t parts = most_warps * sizeof(double);
  const auto problems = unsigned(group.problems), rows = unsigned(group.row_blocks);
  const auto columns = unsigned(group.column_blocks);
  const unsigned threads = threads_for(group.most_rows, group.most_cols);
  launch(start_all<T>, problems, pass_threads, parts, stream, group);
  launch(inspect_rows<T>, rows, pass_threads, 0, stream, group);
  launch(find_all_dead_columns<T>, columns, threads, parts, stream, group);
  launch(set_aside_all_dead_columns<T>, problems, pass_threads, parts, stream, group);
  Room room(nullptr);
  Working<Memory::shared>(room, int(group.most_rows), int(group.most_cols));
  const std::size_t wanted = sizeof(Block<T, Memory::shared>) + room.taken();
  const std::size_t most = most_shared_memory(device);
  if (wanted <= most) {
    solve_group<T, Memory::shared>(group, wanted, most, stream);
  } else {
    solve_group<T, Memory::any>(group, most, most, stream);
  }
  launch(certify_rows<T>, rows, pass_threads, 0, stream, group);
  launch(report_all<T>, problems, pass_threads, parts, stream, group);
}

}  // namespace
}  // namespace fastrebasin::cuda::assignment
