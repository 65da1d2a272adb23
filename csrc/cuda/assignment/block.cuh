#pragma once

// What the threads of a block share while they solve a problem.

#include <cuda_runtime.h>

#include "cuda/assignment/candidates.cuh"
#include "cuda/assignment/numbers.cuh"
#include "cuda/assignment/problem.cuh"
#include "cuda/launch.cuh"

namespace fastrebasin::cuda::assignment {

constexpr int most_warps = most_threads / warp_lanes;
constexpr int most_samples = 256;

// How far the nearest columns of a search are: those where a path may end, those to go on from, and
// those that only a row read whole can tell.
struct Nearest {
  double end = infinity, open = infinity, whole = infinity;
};

template <typename T, Memory memory>
struct Block {
  Problem<T, memory> problem;
  State state;
  int counts[3];       // of the rows in queues
  int stale;           // rows to be listed anew
  int out;             // rows that have a dead column
  int wanting_out[2];  // and those that bid for one, in even and odd rounds
  int refused;         // rows that bid for one in vain
  int dead_out;        // dead rows that have one
  int dead_left;       // dead rows without a column
  int search;          // the number of the search
  // Of even and odd rounds: rows that a search has listed anew, and those that it reads whole.
  int listed_count[2], whole_count[2];
  int open_class;  // whether a search goes on from the rows that have a dead column
  double radius;   // how far a search knows distances
  double samples[most_samples];
  double parts[most_warps];
  Nearest nearest[most_warps];  // of what the threads of each warp looked at
  int ranks[most_warps];
};

// Calls body(index) for 0 to count - 1, by all threads.
template <typename Body>
__device__ void for_each_thread(int count, Body body) {
  for (int at = threadIdx.x; at < count; at += blockDim.x) body(at);
}

// Calls body(index, rank) for those 0 to count - 1 for which is_one(index), where rank is how many
// there are before; returns how many there are.
template <typename IsOne, typename Body>
__device__ int for_each_ranked(int count, int* parts, IsOne is_one, Body body) {
  int before = 0;
  for (int first = 0; first < count; first += blockDim.x) {
    const int at = first + threadIdx.x;
    const bool one = at < count && is_one(at);
    const Rank rank = block_rank(one, parts);
    if (one) body(at, before + rank.before);
    before += rank.all;
  }
  return before;
}

__device__ inline void push(int* queue, int& count, int row) { queue[atomicAdd(&count, 1)] = row; }

// Pushes the rows that row_of(index) gives for 0 to count - 1, but none; one turn for each warp.
template <typename RowOf>
__device__ void push_each(int count, int* queue, int& pushed, RowOf row_of) {
  const unsigned lane = threadIdx.x % warp_lanes;
  for (int first = threadIdx.x - lane; first < count; first += blockDim.x) {
    const int at = first + int(lane), row = at < count ? row_of(at) : none;
    const unsigned ballot = __ballot_sync(all_lanes, row != none);
    if (ballot == 0) continue;
    int place = 0;
    if (lane == 0) place = atomicAdd(&pushed, __popc(ballot));
    place = __shfl_sync(all_lanes, place, 0) + __popc(ballot & ((1u << lane) - 1));
    if (row != none) queue[place] = row;
  }
}

// Lists stale rows at the present prices. All threads meet.
template <typename T, Memory memory>
__device__ void list_stale(Block<T, memory>& block) {
  Problem<T, memory>& problem = block.problem;
  for_each_warp(problem.stale, block.stale, [&](int row) { list_row(problem, row); });
  __syncthreads();
  if (threadIdx.x == 0) block.stale = 0;
}

// What each row's column costs it.
template <typename T, Memory memory>
__device__ void find_pair_costs(Problem<T, memory>& problem) {
  for_each_thread(problem.rows, [&](int row) { problem.find_pair_cost(row); });
  __syncthreads();
}

// Finds the best reduced cost of a queue's rows; lists them anew where their lists don't tell any
// more. All threads meet.
template <typename T, Memory memory>
[[gnu::noinline]] __device__ void find_best(int queue, int count) {
  Block<T, memory>& block = shared_memory<Block<T, memory>>();
  Problem<T, memory>& problem = block.problem;
#pragma unroll 1
  for (int pass = 0; pass < 2; ++pass) {
    for_each_team(problem.columns.queues[queue], count, [&](int, int row) {
      const Choice choice = choose(problem, row);
      if (row == none || !leads_team()) return;
      const double outside = problem.outside();
      const double best = outside < choice.best ? outside : choice.best;
      problem.best[row] = choice.best;
      if (pass == 0 && best > problem.lists.bound[row]) push(problem.stale, block.stale, row);
    });
    __syncthreads();
    if (block.stale == 0) return;
    list_stale(block);
    __syncthreads();
  }
}

}  // namespace fastrebasin::cuda::assignment
