#include "cuda/correlation_tasks.hpp"

#include <algorithm>
#include <limits>
#include <stdexcept>

namespace fastrebasin::cuda {
namespace {

// A product is cut into parts until it has about so many blocks: more than any device's
// multiprocessors run at once bring nothing, and each costs a tile in the workspace.
constexpr std::int64_t enough_blocks = 128;
constexpr std::int64_t most_blocks = std::numeric_limits<int>::max();  // in one launch

int tile_for(const CrossMoments& problem) {
  const std::int64_t units = std::max(problem.x.count, problem.y.count);
  return units <= 32 ? 32 : units <= 64 ? 64 : 128;
}

std::int64_t observations_of(const CrossMoments& problem) {
  std::int64_t product = 1;
  for (const std::int64_t count : problem.observations) product *= count;
  return product;
}

bool is_empty(const CrossMoments& problem) {
  return problem.x.count == 0 || problem.y.count == 0 || observations_of(problem) == 0;
}

Task task_for(const CrossMoments& problem) {
  Task task{};
  task.problem = problem;
  task.observations = observations_of(problem);
  const std::int64_t x = problem.x.count, y = problem.y.count;
  const int tile = tile_for(problem);
  task.tile_columns = quotient(y, tile);
  task.tiles = quotient(x, tile) * task.tile_columns;
  task.result_count = x * y + 2 * (x + y);
  const std::int64_t spans = quotient(task.observations, span);
  const std::int64_t parts = std::clamp<std::int64_t>(enough_blocks / task.tiles, 1, spans);
  task.part_spans = quotient(spans, parts);
  task.parts = quotient(spans, task.part_spans);
  if (task.tiles * task.parts > most_blocks)
    throw std::runtime_error("a product of this size has too many tiles for one launch");
  return task;
}

// Numbers that the results of a task's parts take in the workspace.
std::int64_t workspace_count(const Task& task) {
  return task.parts > 1 ? task.parts * task.result_count : 0;
}

// Calls put(task, whether it begins a group) for each problem that has anything to add.
template <typename Put>
void for_each_task(const std::vector<CrossMoments>& problems, int tile, Put put) {
  std::int64_t blocks = 0;
  int count = 0;
  for (const CrossMoments& problem : problems) {
    if (is_empty(problem) || tile_for(problem) != tile) continue;
    Task task = task_for(problem);
    const std::int64_t added = task.tiles * task.parts;
    const bool begins = count == 0 || count == most_tasks || blocks + added > most_blocks;
    if (begins) blocks = count = 0;
    task.first_block = blocks;
    blocks += added;
    ++count;
    put(task, begins);
  }
}

}  // namespace

std::vector<Group> groups_of(const std::vector<CrossMoments>& problems, int tile,
                             double* workspace) {
  std::vector<Group> groups;
  double* free = workspace;
  for_each_task(problems, tile, [&](Task& task, bool begins) {
    if (begins) {
      groups.emplace_back();
      free = workspace;
    }
    Group& group = groups.back();
    if (task.parts > 1) {
      task.part_results = free;
      free += workspace_count(task);
      group.part_results_count = std::max(group.part_results_count, task.result_count);
    }
    group.blocks = task.first_block + task.tiles * task.parts;
    group.tasks[group.count++] = task;
  });
  return groups;
}

std::size_t workspace_bytes(const std::vector<CrossMoments>& problems) {
  std::int64_t most = 0, used = 0;
  for (const int tile : {32, 64, 128})
    for_each_task(problems, tile, [&](const Task& task, bool begins) {
      used = (begins ? 0 : used) + workspace_count(task);
      most = std::max(most, used);
    });
  return most * sizeof(double);
}

}  // namespace fastrebasin::cuda
